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


class Clusters:
    """The clusters under a plane in one environment, read once."""

    def __init__(self, specs: Path, env: str, *, cache: Path) -> None:
        """Read the specs. Raises InputError when they hold an error, and when no target is of kind kubernetes."""
        self.workspace = Workspace(specs, env, cache)
        self.workspace.refuse_errors()
        self._every = list(self.workspace.document.targets.values())
        self.targets = [t for t in self._every if t.kind == "kubernetes"]
        if not self.targets:
            raise InputError(
                f"environment {env} has no target of kind kubernetes",
                "Write kind: kubernetes for the targets whose servers run there.",
            )
        self._folder = specs.resolve().name
        self._files = files(specs, env, self.workspace.document)

    def manifests(self) -> tuple[Manifest, ...]:
        """Give every manifest, in the order of ``kubernetes.render``."""
        from provision.kubernetes import render

        return render.manifests(self.workspace.plane, self.targets, self._files, folder=self._folder)

    def claims(self) -> tuple[Manifest, ...]:
        """Give the volume claims of NATS with what must be true of them: StatefulSets never touch a claim again."""
        from provision.kubernetes import nats

        servers = (t for t in self.targets if t.system == "nats")
        return tuple(claim for target in servers for claim in nats.claims(self.workspace.plane, target))

    def endpoints(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Give where clients inside Kubernetes find the servers, as settings that lie over the declared targets."""
        from provision.kubernetes import nats, postgres

        found: dict[str, dict[str, dict[str, Any]]] = {"nats": {}, "postgres": {}}
        for target in self.targets:
            if target.system == "nats":
                found["nats"][target.name] = {"urls": [nats.url(target)]}
            else:
                found["postgres"][target.name] = {"endpoints": postgres.endpoints(target)}
        return found

    def apply_job(self, *, image: str, secret: str | None, allow: Sequence[str]) -> tuple[Manifest, Manifest]:
        """Give the ConfigMap of the specs and the Job that applies them, beside the plane's first database."""
        from provision.kubernetes import jobs

        target = min(self.targets, key=lambda t: (t.system != "pg", t.name != "main", t.name))
        found = jobs.specs(self.workspace.plane, target, self._files, self._folder)
        job = jobs.apply_job(self.workspace.plane, target, self._every, found, image=image, secret=secret, allow=allow)
        return found.config_map, job


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
