"""``mode: job``: a Job inside the cluster applies the specs, where the servers cannot be reached from here."""

from __future__ import annotations

from pathlib import Path

import pulumi

from provision.pulumi.manifests import Manifests
from provision.reconcile.folders import cache_folder
from provision.reconcile.manifesting import apply_job
from provision.spec.errors import InputError


def register(config: pulumi.Config, specs: Path, env: str) -> None:
    """Register the Job with its specs. Whoever runs this has built ``holdfast:image`` from the Dockerfile."""
    try:
        found = apply_job(
            specs,
            env,
            image=config.require("image"),
            secret=config.get("secret"),
            allow=config.get_object("allow") or (),
            cache=cache_folder(),
        )
    except InputError as error:
        raise pulumi.RunError(f"{error}. {error.help}") from error
    Manifests("apply", found)
    pulumi.export("job", found[-1]["metadata"]["name"])
