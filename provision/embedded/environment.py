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
from provision.embedded.account import SHELTER, for_servers, shelter
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
    running = _Files(root, env).running()
    return running if running.postgres or running.nats else None


def load_secrets(root: Path, env: str) -> dict[str, str]:
    """The generated passwords of ``env`` by variable name."""
    return secrets.read(_folder(root, env) / "secrets.env")


def _folder(root: Path, env: str) -> Path:
    if not _NAME.match(env):
        raise ServerError(f"{env!r} cannot be the name of an environment", "Use letters, digits, - and _.")
    return root.resolve() / FOLDER / env


@contextmanager
def _locked(root: Path, env: str) -> Iterator[_Files]:
    """Hold the environment for ourselves; the system ends the lock with the process that holds it."""
    files = _Files(root, env)
    try:
        with _held(files):
            yield files
    except OSError as error:
        raise ServerError(f"{error.filename or files.folder}: {error.strerror or error}") from error


@contextmanager
def _held(files: _Files) -> Iterator[None]:
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
                        f"another holdfast has been starting or stopping {files.env} for {_LOCK_S} s",
                        f"End the process that holds {files.lock}.",
                    ) from None
                time.sleep(0.05)
        yield


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
            raise ServerError(f"{self._state} is damaged: {error}", "Remove it; ports are then chosen anew.") from error
        return {"postgres": state.get("postgres", {}), "nats": state.get("nats", {})}

    def _remember(self, state: Mapping[str, Any]) -> None:
        draft = self._state.with_suffix(".new")
        draft.write_text(json.dumps(state, indent=2) + "\n")
        draft.rename(self._state)

    # Servers -----------------------------------------------------------------------------------------------

    def up(
        self,
        postgres_specs: Mapping[str, PostgresSpec],
        nats_specs: Mapping[str, NatsSpec],
        names: Iterable[str],
    ) -> Running:
        values = secrets.ensure(self._secrets, [secrets.ADMIN_PASSWORD, *names])
        started: list[str] = []
        notes: list[str] = []
        for target, spec in postgres_specs.items():
            notes += self._up_postgres(target, spec, values[secrets.ADMIN_PASSWORD], started)
        for target, wanted in nats_specs.items():
            notes += self._up_nats(target, wanted, started)
        return self.running(tuple(started), tuple(notes))

    def _up_postgres(self, target: str, spec: PostgresSpec, password: str, started: list[str]) -> Iterator[str]:
        state = self.state()
        known = state["postgres"].get(target, {})
        home = self._make_home("postgres", target)
        server = postgres.Server(
            home, major=spec.major, port=known.get("port", 0), settings=spec.settings, password=password
        )
        if server.start():
            started.append(f"postgres {target}")
        elif server.is_outdated:
            yield _outdated("PostgreSQL", target)
        state["postgres"][target] = {
            "port": server.port,
            "major": spec.major,
            "database": spec.database,
            "version": server.version(),
        }
        self._remember(state)
        server.create_database(spec.database)
        if not known and not home.is_relative_to(self.folder):
            yield f"PostgreSQL's account cannot enter {self.folder}; the data of {target} is in {home}."
        if known and known["port"] != server.port:
            yield _moved("PostgreSQL", target, known["port"], server.port)

    def _up_nats(self, target: str, spec: NatsSpec, started: list[str]) -> Iterator[str]:
        state = self.state()
        known = state["nats"].get(target, {})
        config = {
            "max_payload": spec.max_payload,
            "server_tags": list(spec.tags),
            "jetstream": {
                "max_file_store": spec.max_file_store,
                "max_memory_store": spec.max_memory_store,
            },
        }
        name = f"holdfast-{self.env}-{target}"
        home = self._make_home("nats", target)
        server = nats.Server(home, port=known.get("port", 0), name=name, config=config)
        if server.start():
            started.append(f"nats {target}")
        elif server.is_outdated:
            yield _outdated("NATS", target)
        state["nats"][target] = {
            "port": server.port,
            "monitor_port": server.monitor_port,
            "version": server.version(),
        }
        self._remember(state)
        if known and known["port"] != server.port:
            yield _moved("NATS", target, known["port"], server.port)

    def running(self, started: tuple[str, ...] = (), notes: tuple[str, ...] = ()) -> Running:
        """The remembered servers with their present pids."""
        state = self.state()
        password = secrets.read(self._secrets).get(secrets.ADMIN_PASSWORD, "")
        found_postgres = {}
        for target, known in state["postgres"].items():
            home = self._home("postgres", target)
            found_postgres[target] = PostgresRunning(
                host=LOOPBACK,
                port=known["port"],
                user=postgres.SUPERUSER,
                password=password,
                database=known["database"],
                version=known["version"],
                pid=postgres.Server(home).pid,
                home=home,
            )
        found_nats = {}
        for target, known in state["nats"].items():
            home = self._home("nats", target)
            found_nats[target] = NatsRunning(
                url=f"nats://{LOOPBACK}:{known['port']}",
                host=LOOPBACK,
                port=known["port"],
                monitor_url=f"http://{LOOPBACK}:{known['monitor_port']}",
                version=known["version"],
                pid=nats.Server(home).pid,
                home=home,
            )
        return Running(self.env, self.folder, found_postgres, found_nats, started, notes)

    def servers(self) -> dict[str, postgres.Server | nats.Server]:
        """Every server that has a home here, remembered or not."""
        found: dict[str, postgres.Server | nats.Server] = {}
        for folder in (self.folder / "postgres", self._shelter):
            for home in sorted(folder.glob("*")):
                found[f"postgres {home.name}"] = postgres.Server(home)
        for home in sorted((self.folder / "nats").glob("*")):
            found[f"nats {home.name}"] = nats.Server(home)
        return found

    # Homes ----------------------------------------------------------------------------------------------

    @property
    def _shelter(self) -> Path:
        """Where PostgreSQL's data goes when its account cannot pass a folder above ours; made on demand."""
        digest = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]
        return SHELTER / "data" / digest

    def _home(self, system: str, target: str) -> Path:
        sheltered = self._shelter / target
        if system == "postgres" and os.geteuid() == 0 and sheltered.exists():
            return sheltered
        return self.folder / system / target

    def _make_home(self, system: str, target: str) -> Path:
        """Choose the home of a server and make the folders above it."""
        if not _NAME.match(target):
            raise ServerError(f"{target!r} cannot be the name of an embedded target")
        home = self._home(system, target)
        if home.is_relative_to(self.folder):
            _make(home.parent)
            if system == "postgres" and not for_servers(home).can_enter(home.parent):
                shelter("data")
                _make(self._shelter)
                return self._shelter / target
        return home


def _make(path: Path) -> None:
    """Create a folder; root's can be passed by others whatever the umask. An existing one keeps its mode."""
    try:
        path.mkdir(mode=0o700, parents=False)
    except FileExistsError:
        return
    if os.geteuid() == 0:
        path.chmod(0o711)


def _moved(product: str, target: str, before: int, after: int) -> str:
    return f"{product} {target} moved from port {before} to {after}, since the old one is taken."


def _outdated(product: str, target: str) -> str:
    return f"{product} {target} runs with older settings; they change with: holdfast dev down, then dev up."
