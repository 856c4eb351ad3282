"""The embedded servers of one environment, below ``.holdfast/<env>/``. Used by the CLI and reconcile.

.holdfast/<env>/state.json    where each server is: ports, data folders (no secrets)
                secrets.env   generated passwords, mode 0600
                postgres/<target>/  nats/<target>/   one home for each server
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from provision.embedded import nats, postgres, secrets
from provision.embedded.account import SHELTER, Account, for_servers, shelter
from provision.embedded.process import LOOPBACK, ServerError

FOLDER: Final = ".holdfast"
_LOCK_S: Final = 180
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")


class PostgresSpec(NamedTuple):
    """What to start for a Postgres target: ``major`` 18 or 16; ``settings`` go over those that we write."""

    major: int = postgres.DEFAULT_MAJOR
    database: str = "agents"
    settings: Mapping[str, postgres.Setting] = {}


class NatsSpec(NamedTuple):
    """What to start for a NATS target. Sizes in bytes; ``tags`` are its server tags for placement."""

    max_payload: int = nats.MAX_PAYLOAD
    max_file_store: int = nats.MAX_FILE_STORE
    max_memory_store: int = nats.MAX_MEMORY_STORE
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class PostgresRunning:
    """One Postgres server: how to reach it as the superuser; ``pid`` is None while it is down."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str
    version: str
    pid: int | None
    home: Path

    def dsn(self) -> dict[str, Any]:
        """Keywords of a libpq connection."""
        return {
            "host": self.host,
            "port": self.port,
            "user": self.user,
            "password": self.password,
            "dbname": self.database,
        }


@dataclass(frozen=True)
class NatsRunning:
    """One NATS server; ``pid`` is None while it is down."""

    url: str
    host: str
    port: int
    monitor_url: str
    version: str
    pid: int | None
    home: Path


@dataclass(frozen=True)
class Running:
    """The servers of an environment by target. ``started`` names those that this call brought up, such as
    ``postgres main``; ``notes`` are sentences that the user should read."""

    env: str
    folder: Path
    postgres: Mapping[str, PostgresRunning]
    nats: Mapping[str, NatsRunning]
    started: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_up(self) -> bool:
        """Whether every server of the environment runs."""
        pids = [s.pid for s in self.postgres.values()] + [s.pid for s in self.nats.values()]
        return None not in pids


def up(
    root: Path,
    env: str,
    postgres: Mapping[str, PostgresSpec],
    nats: Mapping[str, NatsSpec],
    secrets: Iterable[str] = (),
) -> Running:
    """Bring up the servers of ``env`` and make the ``secrets`` (names of variables) that are missing.

    Running servers stay as they are; changed settings take effect at their next start. Raises ServerError.
    """
    with _locked(root, env) as files:
        return files.up(postgres, nats, secrets)


def down(root: Path, env: str) -> tuple[str, ...]:
    """Stop the servers of ``env``, keep their data, and name those that ran. Raises ServerError."""
    if not _folder(root, env).is_dir():
        return ()
    with _locked(root, env) as files:
        servers = files.servers()
        return tuple(name for name, server in servers.items() if server.stop())


def reset(root: Path, env: str) -> bool:
    """Stop the servers of ``env`` and delete its data and generated passwords. False if there was nothing."""
    if not _folder(root, env).is_dir():
        return False
    with _locked(root, env) as files:
        for server in files.servers().values():
            server.remove()
        found = [path for path in files.folder.iterdir() if path != files.lock]
        for path in found:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        return bool(found)


def status(root: Path, env: str) -> Running | None:
    """The servers of ``env``, running or not; None if ``up`` never ran. Raises ServerError."""
    files = _Files(root, env)
    state = files.state()
    return files.running(state) if state["postgres"] or state["nats"] else None


def load_secrets(root: Path, env: str) -> dict[str, str]:
    """The generated passwords of ``env`` by variable name."""
    return secrets.read(_folder(root, env) / "secrets.env")


def _folder(root: Path, env: str) -> Path:
    if not _NAME.match(env):
        raise ServerError(f"{env!r} cannot be the name of an environment", "Use letters, digits, - and _.")
    return root.absolute() / FOLDER / env


@contextmanager
def _locked(root: Path, env: str) -> Iterator[_Files]:
    """Hold the environment for ourselves; the system ends the lock with the process that holds it."""
    files = _Files(root, env)
    files.create()
    with files.lock.open("w") as file:
        deadline = time.monotonic() + _LOCK_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ServerError(
                        f"another holdfast has been starting or stopping {env} for {_LOCK_S} s",
                        f"End the process that holds {files.lock}.",
                    ) from None
                time.sleep(0.05)
        yield files


class _Files:
    """The folder of one environment and what it knows of its servers."""

    def __init__(self, root: Path, env: str) -> None:
        self.env = env
        self.folder = _folder(root, env)
        self.lock = self.folder / "lock"
        self._state = self.folder / "state.json"
        self._secrets = self.folder / "secrets.env"

    def create(self) -> None:
        """Make the folder. Root's is passable, so that PostgreSQL's account reaches its data inside."""
        for path in (self.folder.parent, self.folder):
            _make(path)
        ignore = self.folder.parent / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n")

    def state(self) -> dict[str, dict[str, Any]]:
        """The remembered servers; empty when there are none."""
        try:
            state = json.loads(self._state.read_text())
        except FileNotFoundError:
            return {"postgres": {}, "nats": {}}
        except ValueError as error:
            raise ServerError(
                f"{self._state} is damaged: {error}", "Remove it; ports are then chosen anew."
            ) from error
        return {"postgres": state.get("postgres", {}), "nats": state.get("nats", {})}

    def remember(self, state: Mapping[str, Any]) -> None:
        draft = self._state.with_suffix(".new")
        draft.write_text(json.dumps(state, indent=2, sort_keys=True) + "\n")
        draft.rename(self._state)

    # Servers -----------------------------------------------------------------------------------------------

    def up(
        self,
        postgres_specs: Mapping[str, PostgresSpec],
        nats_specs: Mapping[str, NatsSpec],
        names: Iterable[str],
    ) -> Running:
        values = secrets.ensure(self._secrets, [secrets.ADMIN_PASSWORD, *names])
        state = self.state()
        notes: list[str] = []
        started: list[str] = []
        account = for_servers()
        for target, spec in postgres_specs.items():
            known = state["postgres"].get(target, {})
            home = Path(known["home"]) if known else self._postgres_home(target, account, notes)
            server = self._postgres(home, spec, int(known.get("port", 0)), values[secrets.ADMIN_PASSWORD])
            if server.start():
                started.append(f"postgres {target}")
            state["postgres"][target] = {
                "home": str(home),
                "port": server.port,
                "major": spec.major,
                "database": spec.database,
                "version": server.version(),
            }
            self.remember(state)
            notes += _moved("PostgreSQL", target, known, server.port)
            server.create_database(spec.database)
        for target, wanted in nats_specs.items():
            known = state["nats"].get(target, {})
            home = self._home("nats", target)
            broker = self._nats(home, target, wanted, int(known.get("port", 0)))
            if broker.start():
                started.append(f"nats {target}")
            state["nats"][target] = {
                "home": str(home),
                "port": broker.port,
                "monitor_port": broker.monitor_port,
                "version": broker.version(),
            }
            self.remember(state)
            notes += _moved("NATS", target, known, broker.port)
        return self.running(state, tuple(started), tuple(notes))

    def running(
        self, state: Mapping[str, Any], started: tuple[str, ...] = (), notes: tuple[str, ...] = ()
    ) -> Running:
        """The remembered servers with their present pids."""
        password = secrets.read(self._secrets).get(secrets.ADMIN_PASSWORD, "")
        return Running(
            self.env,
            self.folder,
            {
                target: PostgresRunning(
                    host=LOOPBACK,
                    port=known["port"],
                    user=postgres.SUPERUSER,
                    password=password,
                    database=known["database"],
                    version=known["version"],
                    pid=postgres.Server(Path(known["home"]), account=_OURSELVES).pid,
                    home=Path(known["home"]),
                )
                for target, known in state["postgres"].items()
            },
            {
                target: NatsRunning(
                    url=f"nats://{LOOPBACK}:{known['port']}",
                    host=LOOPBACK,
                    port=known["port"],
                    monitor_url=f"http://{LOOPBACK}:{known['monitor_port']}",
                    version=known["version"],
                    pid=nats.Server(Path(known["home"])).pid,
                    home=Path(known["home"]),
                )
                for target, known in state["nats"].items()
            },
            started,
            notes,
        )

    def servers(self) -> dict[str, postgres.Server | nats.Server]:
        """Every server of the environment: the remembered ones, and homes found without a memory of them."""
        state = self.state()
        homes: dict[str, tuple[str, Path]] = {}
        for system in ("postgres", "nats"):
            for folder in (self.folder / system, self._sheltered(system)):
                for home in sorted(folder.glob("*")) if folder.is_dir() else ():
                    homes[f"{system} {home.name}"] = (system, home)
            for target, known in state[system].items():
                homes[f"{system} {target}"] = (system, Path(known["home"]))
        return {
            name: postgres.Server(home, account=_OURSELVES) if system == "postgres" else nats.Server(home)
            for name, (system, home) in homes.items()
        }

    def _postgres(self, home: Path, spec: PostgresSpec, port: int, password: str) -> postgres.Server:
        return postgres.Server(home, major=spec.major, port=port, settings=spec.settings, password=password)

    def _nats(self, home: Path, target: str, spec: NatsSpec, port: int) -> nats.Server:
        config = {
            "max_payload": spec.max_payload,
            "server_tags": list(spec.tags),
            "jetstream": {
                "max_file_store": spec.max_file_store,
                "max_memory_store": spec.max_memory_store,
            },
        }
        return nats.Server(home, port=port, name=f"holdfast-{self.env}-{target}", config=config)

    def _home(self, system: str, target: str) -> Path:
        if not _NAME.match(target):
            raise ServerError(f"{target!r} cannot be the name of an embedded target")
        _make(self.folder / system)
        return self.folder / system / target

    def _postgres_home(self, target: str, account: Account, notes: list[str]) -> Path:
        """Inside the project, or in the shelter when PostgreSQL's account cannot pass a parent folder."""
        home = self._home("postgres", target)
        if account.can_reach(home.parent):
            return home
        path = shelter("data")
        for name in self._sheltered("postgres").relative_to(path).parts:
            path /= name
            _make(path)
        notes.append(f"PostgreSQL's account cannot enter {self.folder}; its data is in {path / target}.")
        return path / target

    def _sheltered(self, system: str) -> Path:
        digest = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]
        return SHELTER / "data" / digest / system


#: Stopping and looking need no account of their own: we own the servers' processes or are root.
_OURSELVES: Final = Account(None, None)


def _make(path: Path) -> None:
    """Create a folder; root's can be passed by others whatever the umask. An existing one keeps its mode."""
    try:
        path.mkdir(mode=0o700, parents=False)
    except FileExistsError:
        return
    if os.geteuid() == 0:
        path.chmod(0o711)


def _moved(product: str, target: str, known: Mapping[str, Any], port: int) -> list[str]:
    if not known or known["port"] == port:
        return []
    return [f"{product} {target} moved from port {known['port']} to {port}, since the old one is taken."]
