"""From declared targets to open sessions: where each server is, who we are there, and closing it all again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from provision.spec import secrets
from provision.spec.errors import UnreachableError
from provision.spec.target import Target

if TYPE_CHECKING:
    from provision.embedded.environment import Running
    from provision.nats.api import Session as NatsSession
    from provision.nats.api import Settings as NatsSettings
    from provision.postgres.connect import Connection, Settings
    from provision.spec.record import Record

Note = Callable[[str], None]


class Targets:
    """The servers of one environment. Sessions open on first use and close with ``close``."""

    def __init__(
        self, targets: Mapping[tuple[str, str], Target], root: Path, env: str, note: Note, *, who: str = "",
        given: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        """``who`` is how servers and other applies know us; ``given`` are secrets that the environment may lack."""
        self.targets = targets
        self.root = root
        self.env = env
        self.note = note
        self.who = who or f"holdfast {env}"
        self.given = given or {}
        self._open = ExitStack()
        self._postgres: dict[str, Connection] = {}
        self._nats: dict[str, NatsSession] = {}

    def names(self, system: str) -> list[str]:
        """The declared targets of a system, "main" first: the first database holds the ledger."""
        found = [t.name for t in self.targets.values() if t.system == system]
        return sorted(found, key=lambda name: (name != "main", name))

    def close(self) -> None:
        self._open.close()

    @cached_property
    def _generated(self) -> Mapping[str, str]:
        if not (self.root / ".holdfast" / self.env).exists():
            return self.given
        from provision.embedded import environment

        return {**environment.load_secrets(self.root, self.env), **self.given}

    @cached_property
    def _running(self) -> Running | None:
        from provision.embedded import environment

        return environment.status(self.root, self.env)

    def resolve(self, reference: Mapping[str, str]) -> str:
        """The value behind a secret reference. Raises SecretMissing."""
        return secrets.resolve(reference, self.root, self._generated)

    def is_set(self, reference: Mapping[str, str]) -> bool:
        return secrets.is_set(reference, self.root, self._generated)

    def postgres_settings(self, name: str, endpoint: str = "primary") -> Settings:
        """How to reach a database directly, at its primary or another endpoint.

        Raises UnreachableError for an embedded server that is down.
        """
        from provision.postgres.connect import settings

        target = self.targets["pg", name]
        if target.kind != "embedded":
            return settings(target.settings, self.resolve, endpoint=endpoint, application_name=self.who)
        running = self._running
        server = running.postgres.get(name) if running is not None else None
        if server is None or server.pid is None:
            raise self._down("Postgres", name)
        return settings(
            {"kind": "embedded"}, self.resolve, application_name=self.who, host=server.host,
            port=server.port, user=server.user, password=server.password, database=server.database,
        )  # fmt: skip

    def postgres(self, name: str) -> Connection:
        """The one session with a database. Raises PostgresError."""
        if name not in self._postgres:
            from provision.postgres.connect import connect

            connection = connect(self.postgres_settings(name))
            self._open.callback(connection.close)
            self._postgres[name] = connection
        return self._postgres[name]

    def interrupt(self) -> None:
        """Ask every server to end the statement that runs there. Called from another thread than the one that waits."""
        from provision.postgres.connect import interrupt

        for connection in list(self._postgres.values()):
            interrupt(connection)

    def verifiers(self, name: str, roles: Sequence[str]) -> dict[str, str]:
        """What the server keeps of the roles' passwords; empty where we may not see it."""
        from provision.postgres.observe import verifiers

        return verifiers(self.postgres(name), roles)

    def nats_settings(self, name: str) -> NatsSettings:
        """How to reach a NATS account. Raises UnreachableError for an embedded server that is down, SecretMissing."""
        from provision.nats.api import settings

        target = self.targets["nats", name]
        if target.kind == "kubernetes" and target.settings.get("urls") is None:
            from provision.kubernetes import nats

            return settings(target.settings, self.resolve, urls=[nats.url(target)])
        if target.kind != "embedded":
            return settings(target.settings, self.resolve)
        server = self._running.nats.get(name) if self._running is not None else None
        if server is None or server.pid is None:
            raise self._down("NATS", name)
        return settings({}, urls=[server.url], domain=target.settings.get("domain"))

    def nats(self, name: str) -> NatsSession:
        """The one session with a NATS account. Raises NatsError."""
        if name not in self._nats:
            from provision.nats.api import connect

            session = connect(self.nats_settings(name))
            self._open.callback(session.close)
            self._nats[name] = session
        return self._nats[name]

    def nats_hosts(self, name: str) -> dict[str, Any]:
        """What the servers say of themselves; nothing where the target names no user of the system account."""
        system = self.targets["nats", name].settings.get("system")
        if system is None:
            return {}
        from provision.nats import servers

        found = {k: self.resolve(v) if isinstance(v, Mapping) else v for k, v in system.items()}
        return servers.measured(servers.read(servers.as_system(self.nats_settings(name), found)))

    def _down(self, product: str, name: str) -> UnreachableError:
        return UnreachableError(
            f"the embedded {product} server {name} of {self.env} is not running",
            f"Start it with: holdfast dev up --env {self.env}",
        )


#: What the runtime needs to know of a target to reach it; secrets stay references. As whom plan and apply
#: connect is not part of it: pools have roles of their own, and two deployers must not see a difference.
_REACH = frozenset("kind urls tls domain dsn host port endpoints service namespace database form mode".split())


def reachable(
    targets: Mapping[tuple[str, str], Target], pools: Iterable[Record] = ()
) -> dict[str, dict[str, dict[str, object]]]:
    """Targets as the contract holds them: system word -> name -> how to connect. Embedded servers say only that.

    A target on Kubernetes says by which host each of the ``pools`` reaches its PgBouncer; other records are ignored.
    """
    words = {"pg": "postgres", "nats": "nats"}
    found: dict[str, dict[str, dict[str, object]]] = {word: {} for word in words.values()}
    for (system, name), target in targets.items():
        settings = {k: v for k, v in target.settings.items() if k in _REACH and v is not None}
        if (system, target.kind) == ("pg", "kubernetes") and (hosts := _poolers(target, pools)):
            settings["poolers"] = hosts
        found[words[system]][name] = settings
    return found


def _poolers(target: Target, pools: Iterable[Record]) -> dict[str, str]:
    from provision.kubernetes import poolers
    from provision.spec.record import Plane

    return poolers.hosts(Plane(r for r in pools if r.address.kind == "pool"), target)
