"""The specs of one environment as the commands see them. What an unchanged plane needs of them is remembered apart."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from provision.postgres.catalog import Query
from provision.spec.errors import InputError
from provision.spec.files import read_body, read_inputs
from provision.spec.stamps import code_stamps

if TYPE_CHECKING:
    from provision.spec.diagnostic import Diagnostic
    from provision.spec.document import Document
    from provision.spec.record import Facts, Plane
    from provision.spec.target import Target

#: Majors whose catalog queries are remembered.
_MAJORS = (15, 16, 17, 18)


class Brief(NamedTuple):
    """What a plan that finds nothing to do needs of faultless specs.

    ``bodies`` are the digests of ``file:`` bodies by path, ``queries`` the catalog queries by major and name.
    """

    name: str
    targets: Sequence[tuple[str, str, str, Mapping[str, Any]]]
    used: Sequence[tuple[str, str]]
    passwords: Mapping[str, Mapping[str, Any]]
    bodies: Mapping[str, str]
    queries: Mapping[str, Mapping[str, str]]


class Workspace:
    """Specs on the disk, read and checked when somebody needs more than their brief. Never raises for bad specs."""

    def __init__(self, specs: Path, env: str | None, cache: Path) -> None:
        self.specs = specs
        self.env = env or ""
        self._inputs = read_inputs(specs, env)
        self._env = env
        self._cache = cache / "specs"
        folder = blake2b(f"{specs.absolute()}\0{env}".encode(), digest_size=12).hexdigest()
        self._place = self._cache / f"{folder}.brief.json"

    @property
    def name(self) -> str:
        return self.brief.name

    @cached_property
    def targets(self) -> dict[tuple[str, str], Target]:
        from provision.spec.target import Target

        return {(s, n): Target(s, n, kind, settings) for s, n, kind, settings in self.brief.targets}

    @property
    def used(self) -> tuple[tuple[str, str], ...]:
        """The targets that objects live on, as (system, name)."""
        return tuple((s, n) for s, n in self.brief.used)

    @property
    def passwords(self) -> Mapping[str, Mapping[str, Any]]:
        """For each Postgres target: the roles that have a password, with the reference to it."""
        return self.brief.passwords

    @property
    def queries(self) -> tuple[Query, ...]:
        """The catalog queries of all kinds."""
        texts = self.brief.queries
        names = texts[str(_MAJORS[0])]
        return tuple(Query(name, lambda major, name=name: texts[str(major)][name]) for name in names)  # type: ignore[misc]

    @cached_property
    def digest(self) -> str:
        """Names the specs, the environment, every body, and our own code."""
        return blake2b((self._key + json.dumps(sorted(self.brief.bodies.items()))).encode(), digest_size=20).hexdigest()

    @cached_property
    def brief(self) -> Brief:
        """The brief, from the cache if every input is equal, else made anew."""
        if self._recalled is not None:
            return self._recalled
        made = self._brief()
        if not self.errors:
            _keep(self._place, self._key, made)
        return made

    @cached_property
    def _recalled(self) -> Brief | None:
        return _recall(self._place, self._key)

    @property
    def errors(self) -> list[Diagnostic]:
        """The errors of the specs. A brief is only kept of faultless ones, so a known brief means none."""
        if self._recalled is not None:
            return []
        return [d for d in self.diagnostics if d.severity == "error"]

    def refuse_errors(self) -> None:
        """Raise InputError where the specs hold an error: run check to see every one."""
        if errors := self.errors:
            first, more = errors[0], len(errors) - 1
            others = f" ({more} more)" if more else ""
            everything = f"See everything: holdfast check --specs {self.specs} --env {self.env}"
            raise InputError(f"{first.mark}: {first.message}{others}", f"{first.help} {everything}".strip())

    def refuse_unknown(self, target: str) -> None:
        """Raise InputError for a Postgres target that the environment does not declare."""
        known = [name for system, name in self.targets if system == "pg"]
        if target not in known:
            raise InputError(f"{self.env} has no Postgres target {target}", f"It has: {', '.join(known) or 'none'}.")

    @property
    def document(self) -> Document:
        return self._whole[0]

    @property
    def plane(self) -> Plane:
        """The desired plane, linked."""
        return self._whole[1]

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """Everything wrong with the specs: files, JSON Schema, rules."""
        return self._whole[2]

    @cached_property
    def facts(self) -> dict[tuple[str, str], Facts]:
        """What the targets declare of themselves."""
        return {key: target.facts for key, target in self.document.targets.items()}

    @cached_property
    def _key(self) -> str:
        files = [*self._inputs.specs, *([self._inputs.environment] if self._inputs.environment else [])]
        parts = [repr(code_stamps()), str(self._env), repr(self._inputs.problems)]
        return "\n".join([*parts, *(f"{file.name} {file.digest}" for file in files)])

    @cached_property
    def _whole(self) -> tuple[Document, Plane, tuple[Diagnostic, ...]]:
        return _read(self.specs, self._env, self._cache)

    def _brief(self) -> Brief:
        from provision import registry

        document, plane = self.document, self.plane
        passwords: dict[str, dict[str, Any]] = {}
        for record in plane.of_kind("role"):
            reference = record.settings.get("password")
            if reference is not None:
                passwords.setdefault(record.address.target, {})[record.address.name] = reference
        used = dict.fromkeys(r.address[:2] for r in plane if r.address.system != "plane")
        bodies = {body.name: body.digest or "" for body in document.bodies.values()}
        queries = registry.postgres_queries()
        return Brief(
            document.plane,
            [(t.system, t.name, t.kind, dict(t.settings)) for t in document.targets.values()],
            list(used),
            passwords,
            bodies,
            {str(major): {q.name: q.sql(major) for q in queries} for major in _MAJORS},
        )


def _read(specs: Path, env: str | None, cache: Path) -> tuple[Document, Plane, tuple[Diagnostic, ...]]:
    from provision import registry
    from provision.checks import registry as rules
    from provision.postgres.linking import link
    from provision.spec.cache import read_specs
    from provision.spec.record import Plane

    document, reading = read_specs(specs, env, registry.sections(), cache)
    plane = Plane(link(reading.plane), name=reading.plane.name, env=reading.plane.env)
    facts = {key: target.facts for key, target in document.targets.items()}
    return document, plane, (*reading.diagnostics, *rules.run(plane, document, facts))


def _recall(place: Path, key: str) -> Brief | None:
    try:
        stored = json.loads(place.read_bytes())
        brief = Brief(*stored["brief"]) if stored["key"] == _sealed(key) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if brief is None or any(read_body("", path).digest != digest for path, digest in brief.bodies.items()):
        return None
    return brief


def _keep(place: Path, key: str, brief: Brief) -> None:
    with suppress(OSError):
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=place.parent, prefix=".", suffix=".new")
        with os.fdopen(handle, "w") as file:
            json.dump({"key": _sealed(key), "brief": brief}, file)
        os.replace(temporary, place)


def _sealed(key: str) -> str:
    return blake2b(key.encode(), digest_size=20).hexdigest()
