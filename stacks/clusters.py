"""The layer ``clusters``: NATS and Postgres on Kubernetes, as large as the specs need them."""

from __future__ import annotations

from pathlib import Path

import pulumi

from provision.pulumi.manifests import Manifests
from provision.reconcile.folders import cache_folder
from provision.reconcile.manifesting import Clusters
from provision.spec.errors import InputError


def register(config: pulumi.Config, specs: Path, env: str) -> None:
    """Register the objects of every target of kind kubernetes, and export where clients find the servers."""
    try:
        found = Clusters(specs, env, cache=cache_folder())
    except InputError as error:
        raise pulumi.RunError(f"{error}. {error.help}") from error
    protect = config.get_bool("protect") or False
    Manifests("clusters", found.manifests(), claims=found.claims(), protect=protect)
    pulumi.export("endpoints", found.endpoints())
