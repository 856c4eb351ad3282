"""What the benchmarks of the runtime library share: a plane of real servers, the floors' clients, and the table."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID, uuid4

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.js.kv import KeyValue
    from psycopg import AsyncConnection

ROOT = Path(__file__).resolve().parents[1]
HOLDFAST = Path(sys.executable).with_name("holdfast")
sys.path.insert(0, str(ROOT / "runtime"))

#: 1 KiB, as it is stored.
VALUE = {"plan": "x" * 1013}
DATA = json.dumps(VALUE, separators=(",", ":")).encode()
assert len(DATA) == 1024


class Plane:
    """Embedded servers with the whole of ``specs/`` in a folder; ``environ`` reaches them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environ: Mapping[str, str] = {}

    def __enter__(self) -> Self:
        self.folder.mkdir()
        self.folder.chmod(0o711)
        shutil.copytree(ROOT / "specs", self.folder / "specs")
        self._holdfast("dev", "up")
        self._holdfast("apply", "--yes")
        self.environ = _variables(self._holdfast("dev", "env"))
        return self

    def __exit__(self, *failure: object) -> None:
        self._holdfast("dev", "reset", "--yes")

    def _holdfast(self, *arguments: str) -> str:
        done = subprocess.run([HOLDFAST, *arguments], cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"holdfast {' '.join(arguments)}\n{done.stderr[-2000:]}")
        return done.stdout

    async def nats(self) -> Client:
        """A bare client."""
        from nats.aio.client import Client

        client = Client()
        await client.connect(self.environ["NATS_SERVERS"])
        return client

    async def postgres(self, *, admin: bool = False) -> AsyncConnection[Any]:
        """A bare connection as the library's background pool has it, or as the superuser; autocommit."""
        import psycopg

        e = self.environ
        password = e["BACKGROUND_DB_PASSWORD"]
        if admin:
            secrets = (self.folder / ".holdfast" / "dev" / "secrets.env").read_text()
            password = _variables(secrets)["HOLDFAST_ADMIN_PASSWORD"]
        return await psycopg.AsyncConnection.connect(
            host=e["PG_HOST"], port=int(e["PG_PORT"]), dbname=e["PG_DATABASE"],
            user="holdfast_admin" if admin else "app_background", password=password, autocommit=True,
        )  # fmt: skip

    async def floor_bucket(self, client: Client) -> KeyValue:
        """A bucket with the configuration of the state's, which no journal follows."""
        answer = await client.request("$JS.API.STREAM.INFO.KV_AGENT_STATE", b"", timeout=5)
        config = json.loads(answer.data)["config"] | {"name": "KV_FLOOR", "subjects": ["$KV.FLOOR.>"]}
        config.pop("metadata", None)
        await client.request("$JS.API.STREAM.CREATE.KV_FLOOR", json.dumps(config).encode(), timeout=5)
        return await client.jetstream().key_value("FLOOR")

    async def register(self, count: int) -> list[UUID]:
        """So many fresh agents with rows in agents.registry."""
        ids = [uuid4() for _ in range(count)]
        async with await self.postgres(admin=True) as connection:
            await connection.execute(
                "INSERT INTO agents.registry (agent_id, agent_type, agent_name)"
                " SELECT i, 'bench', i::text FROM unnest(%s::uuid[]) AS i",
                [ids],
            )
        return ids


class Table:
    """Prints a line for each figure, and knows whether a bar was missed."""

    def __init__(self) -> None:
        self.missed: list[str] = []

    def note(self, name: str, text: str) -> None:
        """A figure without a bar."""
        print(f"{name:58} {text}", flush=True)

    def bar(self, name: str, value: float, bar: float, unit: str, detail: str = "") -> None:
        """A figure that may not be above ``bar``."""
        verdict = "ok" if value <= bar else "MISSED"
        if value > bar:
            self.missed.append(name)
        print(f"{name:58} {value:8.2f} {unit:2}  bar {bar:6g} {unit:2}  {verdict:6}  {detail}", flush=True)

    def ratio(self, name: str, pairs: Sequence[tuple[float, float]], bar: float | None = None) -> None:
        """The median of measured ÷ floor over rounds; both in seconds."""
        value = statistics.median(m / f for m, f in pairs)
        mine, floor = (statistics.median(side) for side in zip(*pairs, strict=True))
        detail = f"{mine * 1e6:,.0f} µs ÷ {floor * 1e6:,.0f} µs"
        if bar is None:
            self.note(name, f"{value:8.2f} x                      {detail}")
        else:
            self.bar(name, value, bar, "x", detail)


async def times(count: int, one: Callable[[int], Awaitable[object]]) -> list[float]:
    """Seconds of each of ``count`` calls, one after the other."""
    clock = time.perf_counter
    found = []
    for number in range(count):
        start = clock()
        await one(number)
        found.append(clock() - start)
    return found


async def once(work: Callable[[], Awaitable[object]]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    await work()
    return time.perf_counter() - start


def p95(samples: Sequence[float]) -> float:
    return statistics.quantiles(samples, n=20, method="inclusive")[-1]


def _variables(text: str) -> dict[str, str]:
    found = dict(os.environ)
    for line in text.splitlines():
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if equals and name.isidentifier():
            found[name] = "".join(shlex.split(value))
    return found
