"""The manifests of an environment's targets on Kubernetes, from specs on the disk. Touches no server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from provision.reconcile.workspace import Workspace
from provision.spec.errors import InputError

if TYPE_CHECKING:
    from provision.kubernetes.objects import Manifest


def manifests(specs: Path, env: str, *, cache: Path) -> tuple[Manifest, ...]:
    """Give the manifests of an environment, in the order of ``kubernetes.render``; none is an error.

    Raises InputError when the specs hold an error, and when no target is of kind kubernetes.
    """
    from provision.kubernetes import render

    workspace = Workspace(specs, env, cache)
    if errors := workspace.errors:
        first, more = errors[0], len(errors) - 1
        others = f" ({more} more)" if more else ""
        everything = f"See everything: holdfast check --specs {specs} --env {env}"
        raise InputError(f"{first.mark}: {first.message}{others}", f"{first.help} {everything}".strip())
    targets = workspace.document.targets.values()
    if not any(target.kind == "kubernetes" for target in targets):
        raise InputError(
            f"environment {env} has no target of kind kubernetes",
            "Write kind: kubernetes for the targets whose servers run there.",
        )
    return render.manifests(workspace.plane, targets)
