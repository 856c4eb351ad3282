"""``mode: job``: a Job inside the cluster applies the specs, where the servers cannot be reached from here."""

from __future__ import annotations

from pathlib import Path

import pulumi

from provision.pools import contract
from provision.pulumi.manifests import Manifests
from provision.reconcile.folders import cache_folder
from provision.reconcile.manifesting import Clusters
from provision.reconcile.targets import reachable
from provision.spec.errors import InputError


def register(config: pulumi.Config, specs: Path, env: str) -> None:
    """Register the Job with its specs. Whoever runs this has built ``holdfast:image`` from the Dockerfile."""
    try:
        found = Clusters(specs, env, cache=cache_folder())
        manifests = found.apply_job(
            image=config.require("image"), secret=config.get("secret"), allow=config.get_object("allow") or ()
        )
    except InputError as error:
        raise pulumi.RunError(f"{error}. {error.help}") from error
    Manifests("apply", manifests)
    workspace = found.workspace
    pulumi.export("job", manifests[-1]["metadata"]["name"])
    pulumi.export("connections", reachable(workspace.targets))
    pulumi.export("contract", contract.place(workspace.name, workspace.env))
