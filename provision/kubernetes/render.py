"""All manifests of a plane in one order, and their text. Pure; the command line and the Pulumi program call it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import yaml

from provision.kubernetes import jobs, nats, poolers, postgres
from provision.kubernetes.objects import Manifest, options
from provision.spec.record import Plane
from provision.spec.target import Target

#: What others refer to comes first, so that no pod waits for it.
_ORDER = ("ServiceAccount", "Secret", "ConfigMap", "NetworkPolicy", "Service", "StatefulSet", "Cluster")
#: Text that is text to every reader of YAML, old and new. Others take ``on`` and ``y`` for booleans, 1e3 for a number.
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9._/-]+")


def manifests(
    plane: Plane, targets: Iterable[Target], files: Mapping[str, str] | None = None, *, folder: str = "specs"
) -> tuple[Manifest, ...]:
    """Give the objects of all targets of kind ``kubernetes``; equal specs give equal objects in equal order.

    ``files`` are the texts of the specs by path, those below ``folder`` and those that they refer to. Targets with
    ``maintenance`` need them.
    """
    mine = [target for target in targets if target.kind == "kubernetes"]
    found = [manifest for target in mine for manifest in _of(plane, target, files, folder)]
    return tuple(sorted(found, key=_place))


def _of(plane: Plane, target: Target, files: Mapping[str, str] | None, folder: str) -> Iterator[Manifest]:
    if target.system == "nats":
        yield from nats.manifests(plane, target)
        return
    yield from postgres.manifests(plane, target)
    yield from poolers.manifests(plane, target)
    if options(target)["maintenance"]:
        assert files is not None, "maintenance takes the specs with it"
        specs = jobs.specs(plane, target, files, folder)
        yield specs.config_map
        yield from jobs.maintenance(plane, target, specs)


def identity(manifest: Manifest) -> tuple[str, str, str]:
    """Name an object within Kubernetes: namespace, kind, name."""
    return manifest["metadata"]["namespace"], manifest["kind"], manifest["metadata"]["name"]


def _place(manifest: Manifest) -> tuple[str, int, str, str]:
    namespace, kind, name = identity(manifest)
    return namespace, _ORDER.index(kind) if kind in _ORDER else len(_ORDER), kind, name


def to_yaml(found: Iterable[Manifest]) -> str:
    """Write manifests as a stream of YAML documents."""
    return yaml.dump_all(found, Dumper=_Dumper, explicit_start=True, sort_keys=False, width=120, allow_unicode=True)


def to_list(found: Iterable[Manifest]) -> Manifest:
    """Put manifests into one object, as ``kubectl`` reads and writes several in JSON."""
    return {"apiVersion": "v1", "kind": "List", "items": list(found)}


class _Dumper(yaml.SafeDumper):
    """Writes what is shared twice, and indents lists below their keys."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: _Dumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None if _PLAIN.fullmatch(value) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)
