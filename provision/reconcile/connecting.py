"""Where ``import`` looks: the servers of an environment, or those on the command line, and whose plane is there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from provision.reconcile.spelling import options
from provision.reconcile.targets import Note, Targets
from provision.spec import target as target_module
from provision.spec.errors import InputError
from provision.spec.fields import FieldError
from provision.spec.target import SYSTEMS, TABLES, Target

_WORDS = {system: word for word, system in SYSTEMS.items()}
_NAME = re.compile(target_module.NAME_PATTERN)


class Origin:
    """Open servers to import from. ``notes`` is what a person has to see to before the specs can be used."""

    def __init__(self, targets: Targets, plane: str, node: Mapping[str, Any] | None = None) -> None:
        self.targets = targets
        self.plane = plane
        self.notes: list[str] = []
        self._node = node

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.targets.close()

    def environment(self, contract: Mapping[str, Any] | None) -> Mapping[str, Any]:
        """The node ``targets`` of the new environment: as declared, else as the contract has it, else as given."""
        if self._node is not None:
            return self._node
        known = (contract or {}).get("targets") or {}
        node: dict[str, dict[str, Any]] = {}
        for (system, name), target in self.targets.targets.items():
            word = _WORDS[system]
            settings = {**target.settings, **known.get(word, {}).get(name, {})}
            node.setdefault(word, {})[name], _ = options(TABLES[word], settings)
            self._tell(f"{word}.{name}", settings)
        return node

    def _tell(self, name: str, settings: Mapping[str, Any]) -> None:
        for key, value in settings.items():
            if isinstance(value, Mapping) and set(value) == {"env"}:
                self.notes.append(f"environments: {key} of {name} is a reference; set {value['env']} to plan")


def declared(specs: Path, env: str, note: Note) -> Origin:
    """The targets of an environment. Raises InputError for one that is not there or cannot be read."""
    from provision.spec.document import load

    document = load(specs, env)
    errors = [d for d in document.diagnostics if d.severity == "error"]
    if errors or not document.targets:
        why = f"{errors[0].mark}: {errors[0].message}" if errors else f"environment {env} declares no targets"
        raise InputError(why, "Name the servers: holdfast import --postgres DSN --nats URL -o DIR.")
    targets = Targets(document.targets, specs.resolve().parent, env, note)
    return Origin(targets, document.plane, document.root["targets"])


def given(postgres: str | None, nats: str | None, env: str, note: Note) -> Origin:
    """The servers of a connection string and a URL. Which plane they carry is asked of them. Raises InputError."""
    found: dict[tuple[str, str], Target] = {}
    secrets: dict[str, str] = {}
    if postgres is not None:
        found["pg", "main"] = _target("postgres", _from_dsn(postgres, secrets))
    if nats is not None:
        found["nats", "main"] = _target("nats", _from_url(nats, secrets))
    targets = _Given(found, Path.cwd(), env, note, secrets)
    try:
        return Origin(targets, _plane_of(targets, env))
    except BaseException:
        targets.close()
        raise


class _Given(Targets):
    """Targets whose secrets came with the command line."""

    def __init__(
        self, targets: Mapping[tuple[str, str], Target], root: Path, env: str, note: Note, secrets: Mapping[str, str]
    ) -> None:
        super().__init__(targets, root, env, note)
        self._secrets = secrets

    def resolve(self, reference: Mapping[str, str]) -> str:
        return self._secrets.get(reference.get("env", "")) or super().resolve(reference)


def _target(word: str, node: Mapping[str, Any]) -> Target:
    try:
        settings = TABLES[word].parse({k: v for k, v in node.items() if v})
    except FieldError as error:
        raise InputError(f"the {word} server cannot be declared: {error}", error.help) from None
    return Target(SYSTEMS[word], "main", "external", settings)


def _from_dsn(dsn: str, secrets: dict[str, str]) -> dict[str, Any]:
    from provision.postgres.connect import settings

    found = settings({"kind": "external", "dsn": dsn}, lambda reference: "")
    if found.password:
        secrets["POSTGRES_PASSWORD"] = found.password
    is_usual = found.host.startswith("/") or found.sslmode in (None, "prefer", "allow")
    return {
        "kind": "external",
        "host": found.host,
        "port": found.port,
        "user": found.user,
        "password": {"env": "POSTGRES_PASSWORD"} if found.password else None,
        "database": found.database,
        "tls": None if is_usual else {"mode": found.sslmode, "ca": found.sslrootcert},
    }


def _from_url(url: str, secrets: dict[str, str]) -> dict[str, Any]:
    parts = urlsplit(url if "://" in url else f"nats://{url}")
    if not parts.hostname:
        raise InputError("the URL names no server", "Write nats://host:4222.")
    node: dict[str, Any] = {"kind": "external", "urls": [f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"]}
    if parts.username and parts.password:
        secrets["NATS_PASSWORD"] = unquote(parts.password)
        node |= {"user": unquote(parts.username), "password": {"env": "NATS_PASSWORD"}}
    elif parts.username:
        secrets["NATS_TOKEN"] = unquote(parts.username)
        node |= {"token": {"env": "NATS_TOKEN"}}
    return node


def _plane_of(targets: Targets, env: str) -> str:
    """The plane that the servers carry in this environment; a name of our own where there is none."""
    found = {plane for plane, known in (*_in_postgres(targets), *_in_nats(targets)) if known == env}
    if len(found) > 1:
        raise InputError(
            f"the servers carry several planes in {env}: {', '.join(sorted(found))}",
            "Declare the targets of one in environments/ and import with --specs, --env and no server.",
        )
    if found:
        return found.pop()
    database = next((t.settings["database"] for t in targets.targets.values() if t.settings.get("database")), "")
    return database if _NAME.match(database or "") else "imported"


def _in_postgres(targets: Targets) -> list[tuple[str, str]]:
    if ("pg", "main") not in targets.targets:
        return []
    from provision.postgres.catalog import Query, parse_copy
    from provision.postgres.observe import Observer

    known = "SELECT plane, env FROM holdfast.objects UNION SELECT plane, env FROM holdfast.contract"
    query = Query("planes", lambda major: known)
    seen = Observer(targets.postgres("main"), "main").read((), ledger=(query,))
    return [(str(plane), str(env)) for plane, env in parse_copy(seen.ledger.get("planes", b""))]


def _in_nats(targets: Targets) -> list[tuple[str, str]]:
    if ("nats", "main") not in targets.targets:
        return []
    from provision.nats.errors import ApiError
    from provision.nats.observe import OWN_STREAM
    from provision.pools import contract

    prefix = f"$KV.{contract.BUCKET}.{contract.key('', '').removesuffix('.').removesuffix('.')}."
    try:
        answer = targets.nats("main").request(f"$JS.API.STREAM.INFO.{OWN_STREAM}", {"subjects_filter": f"{prefix}>"})
    except ApiError:
        return []
    names = (subject.removeprefix(prefix) for subject in (answer.get("state") or {}).get("subjects") or ())
    return [(plane, known) for plane, _, known in (name.rpartition(".") for name in names)]
