"""The layer ``plane``: everything that the specs declare, by the provider here or by a Job inside the cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jobs
import pulumi

from provision.pulumi import Plane


def register(config: pulumi.Config, specs: Path, env: str) -> None:
    """Register the plane of an environment and export what programs and people need of it."""
    mode = config.get("mode") or "direct"
    if mode == "job":
        jobs.register(config, specs, env)
        return
    if mode != "direct":
        raise pulumi.RunError(f"holdfast:mode is {mode}; it must be direct or job")
    plane = Plane(
        "plane",
        specs,
        env,
        allow=config.get_object("allow") or (),
        secrets=config.get_secret_object("secrets"),
        targets=_endpoints(config),
        protect=config.get_bool("protect") or False,
    )
    for name in ("connections", "contract", "plan"):
        pulumi.export(name, getattr(plane, name))


def _endpoints(config: pulumi.Config) -> pulumi.Output[Any] | None:
    """Where the stack of the clusters put its servers, where this stack stands on one."""
    below = config.get("clusters")
    return None if below is None else pulumi.StackReference(below).require_output("endpoints")
