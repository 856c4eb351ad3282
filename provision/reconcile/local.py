"""The embedded servers that an environment's targets ask for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from provision.embedded import environment
from provision.embedded.environment import NatsSpec, PostgresSpec, Running
from provision.embedded.secrets import ADMIN_PASSWORD
from provision.spec.document import Document, load
from provision.spec.errors import InputError
from provision.spec.target import Target

S = TypeVar("S")

#: Options of a target that an embedded NATS server is started with.
_NATS = ("max_payload", "max_file_store", "max_memory_store")


def root_of(specs: Path) -> Path:
    """The folder that holds ``.holdfast/``: the one with the specs in it."""
    return specs.resolve().parent


def up(specs: Path, env: str) -> Running:
    """Start every embedded server of an environment, and make the secrets its objects refer to."""
    document = load(specs, env)
    embedded = [t for t in document.targets.values() if t.kind == "embedded"]
    if not embedded:
        raise InputError(f"environment {env} has no embedded target", "Its servers are run by somebody else.")
    return environment.up(
        root_of(specs),
        env,
        {t.name: _postgres(t.settings, document) for t in embedded if t.system == "pg"},
        {t.name: _nats(t) for t in embedded if t.system == "nats"},
        sorted(secret_names(document.root)),
    )


def down(specs: Path, env: str) -> tuple[str, ...]:
    """Stop them; gives the names of those that ran."""
    return environment.down(root_of(specs), env)


def status(specs: Path, env: str) -> Running | None:
    """What is known of them; None if they were never started."""
    return environment.status(root_of(specs), env)


def variables(specs: Path, env: str) -> dict[str, str] | None:
    """The environment of a client of the embedded servers: addresses, plane, generated passwords.

    Target ``main`` speaks for its system, else the first one. None if the servers were never started. The
    superuser's password is not among them.
    """
    running = status(specs, env)
    if running is None:
        return None
    found = {"HOLDFAST_PLANE": load(specs, env).plane, "HOLDFAST_ENV": env}
    if running.nats:
        found["NATS_SERVERS"] = _spokesman(running.nats).url
    if running.postgres:
        server = _spokesman(running.postgres)
        found |= {"PG_HOST": server.host, "PG_PORT": str(server.port), "PG_DATABASE": server.database}
    passwords = environment.load_secrets(root_of(specs), env)
    return found | {name: value for name, value in passwords.items() if name != ADMIN_PASSWORD}


def _spokesman(servers: Mapping[str, S]) -> S:
    return servers.get("main") or next(iter(servers.values()))


def reset(specs: Path, env: str) -> bool:
    """Stop them and delete their data; False if there was nothing."""
    return environment.reset(root_of(specs), env)


def secret_names(node: Any) -> set[str]:
    """The variables that ``{env: NAME}`` references anywhere in a document name."""
    if isinstance(node, dict):
        if set(node) == {"env"} and isinstance(node["env"], str):
            return {node["env"]}
        return set().union(*(secret_names(v) for v in node.values()))
    if isinstance(node, list):
        return set().union(*(secret_names(v) for v in node))
    return set()


def _postgres(settings: Mapping[str, Any], document: Document) -> PostgresSpec:
    found = PostgresSpec(database=settings.get("database") or document.plane)
    version, connections = settings.get("version"), settings.get("max_connections")
    if version is not None:
        found = found._replace(major=int(str(version).split(".")[0]))
    if connections is not None:
        # Each session may hold one prepared transaction (PostgreSQL docs, max_prepared_transactions).
        limits = {"max_connections": connections, "max_prepared_transactions": connections}
        found = found._replace(settings=limits)
    return found


def _nats(target: Target) -> NatsSpec:
    found = {key: target.settings[key] for key in _NATS if target.settings.get(key) is not None}
    return NatsSpec(**found, tags=tuple(target.facts.options.get("tags") or ()))
