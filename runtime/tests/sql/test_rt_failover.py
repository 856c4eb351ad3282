"""A primary and its streaming standby: reads that see one's writes, a killed primary, a promotion, its way back.

The standby is made by pg_basebackup of the embedded wheel and follows synchronously, so that what was acknowledged is
on both and a promotion may lose nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sql.pooling import pools_of, value

from holdfast.contract import Contract
from holdfast.errors import HoldfastError
from holdfast.retry import Retry
from holdfast.settings import Settings
from holdfast.sql.pool import Pool
from holdfast.sql.pools import Pools
from holdfast.sql.transactions import Boundary, TransactionContext, Transactions

if TYPE_CHECKING:
    from provision.embedded.postgres import Server

_LOG = logging.getLogger(__name__)
SECRET = "of the pools"
SET_UP = f"""
CREATE ROLE app_writer LOGIN PASSWORD '{SECRET}';
CREATE ROLE app_reader LOGIN PASSWORD '{SECRET}';
ALTER ROLE app_reader SET default_transaction_read_only = on;
CREATE TABLE noted (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT now());
CREATE TABLE inbox (consumer text, message_id text, handled_at timestamptz NOT NULL DEFAULT now(),
                    PRIMARY KEY (consumer, message_id));
GRANT ALL ON noted, inbox TO app_writer;
GRANT SELECT ON noted TO app_reader;
"""


@dataclass
class Pair:
    """Two servers; which of them is the primary changes."""

    first: Server
    second: Server

    def contract(self, **endpoints: str) -> Contract:
        places = {"primary": f"{self.first.port}", "replica": f"{self.second.port}", **endpoints}
        pool = {"target": "main", "role": "app_writer", "endpoint": "primary", "min": 1, "max": 6,
                "acquire_timeout": 3_000_000_000, "statement_timeout": 3_000_000_000}  # fmt: skip
        return Contract.of({
            "contract_version": "1.0", "plane": "p", "env": "dev", "digest": "", "limits": {},
            "names": {"inbox_table": "public.inbox"},
            "targets": {"nats": {}, "postgres": {"main": {
                "form": "local", "database": "postgres",
                "endpoints": {name: {"host": "127.0.0.1", "port": int(port)} for name, port in places.items()},
            }}},
            "pools": {
                "primary": pool,
                "background": pool,
                "replica": {**pool, "role": "app_reader", "endpoint": "replica"},
            },
            "roles": {r: {"target": "main", "password": {"env": "PW"}} for r in ("app_writer", "app_reader")},
            "streams": {}, "buckets": {}, "publishers": {},
        })  # fmt: skip

    def promote(self) -> None:
        assert self.second.query("SELECT pg_promote(true, 30)") == [["t"]]
        # The new primary has no standby to wait for.
        self.second.query("ALTER SYSTEM RESET synchronous_standby_names")
        self.second.query("SELECT pg_reload_conf()")

    def until_streaming(self) -> None:
        deadline = time.monotonic() + 30
        while self.first.query("SELECT sync_state FROM pg_stat_replication") != [["sync"]]:
            assert time.monotonic() < deadline, "the standby does not follow"
            time.sleep(0.05)


SETTINGS = Settings.from_environment({"PW": SECRET})


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A fresh primary and its synchronous standby."""
    postgres = pytest.importorskip("provision.embedded.postgres", reason="needs holdfast-provision[embedded]")
    memory = Path("/dev/shm")
    root = Path(tempfile.mkdtemp(prefix=f"holdfast-rt-{os.getpid()}-", dir=memory if memory.is_dir() else None))
    root.chmod(0o711)
    first = postgres.Server(root / "first", fsync=False)
    second = postgres.Server(root / "second", fsync=False, password=first.password)
    try:
        first.start()
        first.query(SET_UP)
        copy(first, second)
        second.start()
        first.query("ALTER SYSTEM SET synchronous_standby_names = '*'")
        first.query("SELECT pg_reload_conf()")
        both = Pair(first, second)
        both.until_streaming()
        yield both
    finally:
        second.remove()
        first.remove()
        shutil.rmtree(root, ignore_errors=True)


def copy(first: Server, second: Server) -> None:
    """Make the data of a standby, with the account of the servers."""
    second.account.make_folder(second.home)
    done = second.account.run(
        [
            first.bin_dir / "pg_basebackup", "--pgdata", second.data_dir, "--write-recovery-conf", "--checkpoint=fast",
            "--no-sync", "--dbname", f"host=127.0.0.1 port={first.port} user=holdfast_admin",
        ],
        env={"PGPASSWORD": first.password},
    )  # fmt: skip
    if done.returncode != 0:
        pytest.fail(f"pg_basebackup: {done.stderr}", pytrace=False)


def port_of(connection: Any) -> int:
    return int(connection.info.port)


async def until(ready: Callable[[], Any], limit_s: float = 10.0) -> None:
    deadline = time.monotonic() + limit_s
    while not ready():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)


async def note(pools: Pools, number: int) -> None:
    async with pools.primary.connection() as connection:
        await connection.execute("INSERT INTO noted VALUES (%s)", [number])


async def port_used(pool: Pool) -> int:
    async with pool.connection() as connection:
        return port_of(connection)


@pytest.mark.req("D8.1", "D8.2", "D8.3", "D4.5")
def test_reads_go_to_the_standby_once_it_has_seen_ones_writes(pair: Pair) -> None:
    async def use() -> None:
        async with pools_of(pair.contract(), SETTINGS, interval_s=0.1) as pools:
            await until(lambda: pools.named["replica_0"].standing)
            assert pools.read() is pools.named["replica_0"]
            assert await port_used(pools.read()) == pair.second.port
            pair.second.query("SELECT pg_wal_replay_pause()")
            pair.first.query("ALTER SYSTEM SET synchronous_standby_names = ''")
            pair.first.query("SELECT pg_reload_conf()")
            await note(pools, 1)
            token = await pools.position()
            await asyncio.sleep(0.5)
            assert pools.read() is pools.named["replica_0"]
            assert pools.read(after_lsn=token) is pools.primary
            assert await port_used(pools.read(after_lsn=token)) == pair.first.port
            assert (pools.named["replica_0"].lag_s or 0) > 0.1
            pair.second.query("SELECT pg_wal_replay_resume()")
            await until(lambda: pools.read(after_lsn=token) is not pools.primary)
            async with pools.read(after_lsn=token).connection() as connection:
                assert port_of(connection) == pair.second.port
                assert await value(connection, "SELECT count(*) FROM noted") == 1

    asyncio.run(use())


@pytest.mark.req("D8.2", "D8.6")
def test_a_standby_that_is_late_or_gone_gets_no_reads_and_comes_back(pair: Pair) -> None:
    async def use() -> None:
        pools = await Pools.open(pair.contract(), SETTINGS, interval_s=0.1, max_lag_s=0.5)
        try:
            await until(lambda: pools.read() is not pools.primary)
            pair.first.query("ALTER SYSTEM SET synchronous_standby_names = ''")
            pair.first.query("SELECT pg_reload_conf()")
            pair.second.query("SELECT pg_wal_replay_pause()")
            await note(pools, 1)
            await until(lambda: pools.read() is pools.primary)
            pair.second.query("SELECT pg_wal_replay_resume()")
            await until(lambda: pools.read() is not pools.primary)
            pair.second.kill()
            await until(lambda: pools.read() is pools.primary)
            assert await port_used(pools.read()) == pair.first.port
            pair.second.start()
            await until(lambda: pools.read() is not pools.primary)
            assert await port_used(pools.read()) == pair.second.port
        finally:
            await pools.close()

    asyncio.run(use())


@pytest.mark.req("D8.1")
def test_reads_take_turns(pair: Pair) -> None:
    async def use() -> None:
        contract = pair.contract()
        ends = {"primary": {"host": "127.0.0.1", "port": pair.first.port},
                "replica": {"host": "127.0.0.1,localhost", "port": pair.second.port}}  # fmt: skip
        targets = {"nats": {}, "postgres": {"main": {**contract.targets["postgres"]["main"], "endpoints": ends}}}
        async with pools_of(replace(contract, targets=targets), SETTINGS, interval_s=0.1) as pools:
            await until(lambda: len({pools.read().name for _ in range(2)}) == 2)
            assert [pools.read().name for _ in range(4)] in (
                ["replica_0", "replica_1"] * 2,
                ["replica_1", "replica_0"] * 2,
            )

    asyncio.run(use())


@pytest.mark.req("D8.6", "D6.6", "D13.4")
def test_a_killed_primary_is_replaced_under_load_and_nothing_acknowledged_is_lost(pair: Pair) -> None:
    """Eight writers go on through the kill and the promotion; each write happens once."""
    context = TransactionContext(Boundary.CROSS_SYSTEM, timeout_s=3, retry=Retry(attempts=200, base_s=0.02, cap_s=0.1))
    acknowledged: list[tuple[float, int]] = []

    async def writer(work: Transactions, numbers: Iterator[int], stop: asyncio.Event) -> None:
        while not stop.is_set():
            number = next(numbers)

            async def insert(connection: Any, number: int = number) -> None:
                await connection.execute("INSERT INTO noted VALUES (%s)", [number])

            await work.run(insert, context)
            acknowledged.append((time.monotonic(), number))

    async def use() -> None:
        async with pools_of(pair.contract(), SETTINGS, interval_s=0.2) as pools:
            work = Transactions(pools.primary, marker_table=pools_table)
            stop, numbers = asyncio.Event(), iter(range(10**9))
            writers = [asyncio.create_task(writer(work, numbers, stop)) for _ in range(8)]
            await asyncio.sleep(1)
            await asyncio.to_thread(pair.first.kill)
            killed = time.monotonic()
            before = len(acknowledged)
            await asyncio.to_thread(pair.promote)
            promoted = time.monotonic()
            await until(lambda: acknowledged[-1][0] > promoted)
            resumed = next(at for at, _ in acknowledged if at > promoted)
            await asyncio.sleep(1)
            stop.set()
            await asyncio.gather(*writers)
            await work.close()
            assert await port_used(pools.primary) == pair.second.port
            assert await port_used(pools.background) == pair.second.port
        kept = {int(row[0]) for row in pair.second.query("SELECT id FROM noted")}
        done = {number for _, number in acknowledged}
        _LOG.info(
            "acknowledged %d (%d before), promotion took %.2f s, writes went on %.2f s after it",
            len(done), before, promoted - killed, resumed - promoted,
        )  # fmt: skip
        assert done == kept
        assert before > 50
        assert resumed - promoted < 2

    pools_table = pair.contract().names.inbox_table
    asyncio.run(use())


@pytest.mark.req("D8.6")
def test_a_former_primary_that_comes_back_gets_no_work(pair: Pair) -> None:
    async def use() -> None:
        async with pools_of(pair.contract(), SETTINGS, interval_s=0.2) as pools:
            pair.first.query("ALTER SYSTEM SET synchronous_standby_names = ''")
            pair.first.kill()
            pair.promote()
            await retried(lambda: note(pools, 1))
            pair.first.start()
            # It takes writes, and says that it is no standby.
            assert pair.first.query("SELECT pg_is_in_recovery()") == [["f"]]
            for number in range(2, 30):
                await note(pools, number)
                await asyncio.sleep(0.02)
        # Whoever starts now finds both and takes the one of the later timeline.
        async with pools_of(pair.contract(), SETTINGS) as later:
            await note(later, 100)
            assert await port_used(later.primary) == pair.second.port

    asyncio.run(use())
    assert pair.first.query("SELECT count(*) FROM noted") == [["0"]]
    assert pair.second.query("SELECT count(*) FROM noted") == [["30"]]


async def retried(work: Callable[[], Any], limit_s: float = 10.0) -> None:
    deadline = time.monotonic() + limit_s
    while True:
        try:
            await work()
        except HoldfastError as error:
            if not error.retryable or time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.02)
        else:
            return


@asynccontextmanager
async def promoted_while_both_live(pair: Pair) -> AsyncIterator[Pools]:
    async with pools_of(pair.contract(), SETTINGS, interval_s=0.1) as pools:
        await note(pools, 1)
        pair.first.query("ALTER SYSTEM SET synchronous_standby_names = ''")
        pair.first.query("SELECT pg_reload_conf()")
        pair.promote()
        yield pools


@pytest.mark.req("D8.6")
def test_a_promotion_is_noticed_while_the_old_primary_goes_on(pair: Pair) -> None:
    async def use() -> None:
        async with promoted_while_both_live(pair) as pools:
            deadline = time.monotonic() + 5
            while await port_used(pools.primary) != pair.second.port:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
            await note(pools, 2)
            assert await port_used(pools.background) == pair.second.port

    asyncio.run(use())
    assert pair.first.query("SELECT count(*) FROM noted WHERE id = 2") == [["0"]]


@pytest.mark.req("D8.6", "D6.6")
def test_a_primary_that_became_a_standby_is_left_at_its_first_refusal(pair: Pair) -> None:
    """25006: the connection stays, the server takes no writes any more."""

    async def use() -> None:
        async with pools_of(pair.contract(), SETTINGS) as pools:
            await asyncio.sleep(0.3)
            async with pools.primary.connection() as connection:
                assert port_of(connection) == pair.first.port
            # The nearest thing to a demotion under a living connection.
            pair.first.query("ALTER SYSTEM SET synchronous_standby_names = ''")
            pair.first.query("ALTER SYSTEM SET default_transaction_read_only = on")
            pair.first.query("SELECT pg_reload_conf()")
            pair.promote()
            await asyncio.sleep(0.2)
            await retried(lambda: note(pools, 5))

    asyncio.run(use())
    assert pair.second.query("SELECT count(*) FROM noted WHERE id = 5") == [["1"]]
