"""The manifests of an environment's targets on Kubernetes, from specs on the disk. Touches no server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from provision.reconcile.workspace import Workspace
from provision.spec.errors import InputError
from provision.spec.files import read_inputs

if TYPE_CHECKING:
    from provision.kubernetes.objects import Manifest
    from provision.spec.document import Document


def manifests(specs: Path, env: str, *, cache: Path) -> tuple[Manifest, ...]:
    """Give the manifests of an environment, in the order of ``kubernetes.render``; none is an error.

    Raises InputError when the specs hold an error, and when no target is of kind kubernetes.
    """
    from provision.kubernetes import render

    workspace = _faultless(specs, env, cache)
    targets = workspace.document.targets.values()
    return render.manifests(
        workspace.plane, targets, files(specs, env, workspace.document), folder=specs.resolve().name
    )


def claims(specs: Path, env: str, *, cache: Path) -> tuple[Manifest, ...]:
    """Give the volume claims of NATS with what must be true of them: StatefulSets never touch a claim again."""
    from provision.kubernetes import nats

    workspace = _faultless(specs, env, cache)
    targets = (t for t in workspace.document.targets.values() if (t.system, t.kind) == ("nats", "kubernetes"))
    return tuple(claim for target in targets for claim in nats.claims(workspace.plane, target))


def endpoints(specs: Path, env: str, *, cache: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Give where clients inside Kubernetes find the servers, as settings that lie over the environment's targets."""
    from provision.kubernetes import nats, postgres

    found: dict[str, dict[str, dict[str, Any]]] = {"nats": {}, "postgres": {}}
    for target in _faultless(specs, env, cache).document.targets.values():
        if target.kind != "kubernetes":
            continue
        if target.system == "nats":
            found["nats"][target.name] = {"urls": [nats.url(target)]}
        else:
            found["postgres"][target.name] = {"endpoints": postgres.endpoints(target)}
    return found


def apply_job(
    specs: Path, env: str, *, image: str, secret: str | None, allow: Sequence[str], cache: Path
) -> tuple[Manifest, Manifest]:
    """Give the ConfigMap of the specs and the Job that applies them, beside the plane's first database or servers."""
    from provision.kubernetes import jobs

    workspace = _faultless(specs, env, cache)
    targets = [t for t in workspace.document.targets.values() if t.kind == "kubernetes"]
    target = min(targets, key=lambda t: (t.system != "pg", t.name != "main", t.name))
    folder, texts = specs.resolve().name, files(specs, env, workspace.document)
    found = jobs.specs(workspace.plane, target, texts, folder)
    every = workspace.document.targets.values()
    job = jobs.apply_job(workspace.plane, target, every, found, image=image, secret=secret, allow=allow)
    return found.config_map, job


def _faultless(specs: Path, env: str, cache: Path) -> Workspace:
    """The specs of an environment with targets on Kubernetes. Raises InputError for mistakes, or without any."""
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
    return workspace


def files(specs: Path, env: str, document: Document) -> dict[str, str]:
    """Give the texts that an environment is made of, by path from the folder that holds the specs."""
    root = specs.resolve().parent
    inputs = read_inputs(specs, env)
    read = [*inputs.specs, *([inputs.environment] if inputs.environment else [])]
    texts = {file.path: file.data.decode("utf-8-sig") for file in read}
    texts |= {body.path: body.text for body in document.bodies.values()}
    return {_below(path.resolve(), root): text for path, text in texts.items()}


def _below(path: Path, root: Path) -> str:
    """Where a file lies below a folder; its whole path where it lies elsewhere."""
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()
