"""Transactions on a real server: isolation, settings, conflicts, and commits whose answer was lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
import pytest
from sql.pooling import pools_of, value

from holdfast.contract import Contract
from holdfast.errors import (
    ConnectionFailed,
    ConstraintViolation,
    OperationTimeout,
    OutcomeUnknown,
    RetriesExhausted,
    VersionConflict,
)
from holdfast.retry import Retry
from holdfast.settings import Settings
from holdfast.sql.pools import Pools
from holdfast.sql.transactions import (
    Boundary,
    Isolation,
    Status,
    TransactionContext,
    Transactions,
    choose_isolation,
    settings_of,
)

if TYPE_CHECKING:
    from conftest import Servers

SINGLE, TASK, CROSS, SAGA = Boundary
COMMITTED, REPEATABLE, SERIALIZABLE = Isolation.READ_COMMITTED, Isolation.REPEATABLE_READ, Isolation.SERIALIZABLE


@pytest.fixture
def counters(servers: Servers) -> Iterator[str]:
    """A table of counters 1 and 2 at 0, which the pools may write."""
    name = f"counters_{uuid4().hex[:8]}"
    with psycopg.connect(**servers.admin, autocommit=True) as admin:
        admin.execute(f"CREATE TABLE public.{name} (id int PRIMARY KEY, n int NOT NULL CHECK (n < 100))".encode())
        admin.execute(f"INSERT INTO public.{name} VALUES (1, 0), (2, 0)".encode())
        admin.execute(f"GRANT ALL ON public.{name} TO app_primary".encode())
        yield f"public.{name}"
        admin.execute(f"DROP TABLE public.{name}".encode())


def read(servers: Servers, query: str) -> Any:
    with psycopg.connect(**servers.admin) as admin:
        row = admin.execute(query.encode()).fetchone()
    return row and row[0]


@pytest.fixture
def run(contract: Contract, settings: Settings) -> Callable[[Callable[[Transactions], Awaitable[Any]]], Any]:
    """Run a coroutine function with transactions on the primary pool."""

    def runner(use: Callable[[Transactions], Awaitable[Any]]) -> Any:
        async def inside() -> Any:
            async with pools_of(contract, settings) as pools:
                work = Transactions(pools.primary, marker_table=contract.names.inbox_table)
                try:
                    return await use(work)
                finally:
                    await work.close()

        return asyncio.run(inside())

    return runner


Run = Callable[[Callable[[Transactions], Awaitable[Any]]], Any]


@pytest.mark.req("D6.1", "D6.4")
@pytest.mark.parametrize(
    ("context", "level"),
    [
        (TransactionContext(), COMMITTED),
        (TransactionContext(shared_state=True), REPEATABLE),
        (TransactionContext(shared_state=True, writes=False), COMMITTED),
        (TransactionContext(CROSS, shared_state=True), SERIALIZABLE),
        (TransactionContext(CROSS, shared_state=True, writes=False), SERIALIZABLE),
        (TransactionContext(CROSS), COMMITTED),
        (TransactionContext(SAGA, shared_state=True), REPEATABLE),
        (TransactionContext(CROSS, COMMITTED, shared_state=True), COMMITTED),
        (TransactionContext(TASK, Isolation.READ_UNCOMMITTED), Isolation.READ_UNCOMMITTED),
    ],
)
def test_the_isolation_follows_the_work_unless_it_is_named(run: Run, context: TransactionContext, level: str) -> None:
    async def use(transactions: Transactions) -> str:
        return await transactions.run(lambda c: value(c, "SHOW transaction_isolation"), context)

    assert choose_isolation(context) == level
    assert run(use) == level


@pytest.mark.req("D6.2", "D6.3", "D6.5", "D10.6")
@pytest.mark.parametrize(
    ("boundary", "idle", "name"), [(SINGLE, "1min", "agent_system"), (TASK, "1min", "agent_x'; DROP TABLE y; --"),
                                   (CROSS, "30s", "agent_system"), (SAGA, "2min", "agent_system")]
)  # fmt: skip
def test_each_boundary_has_its_settings_and_leaves_none(run: Run, boundary: Boundary, idle: str, name: str) -> None:
    context = TransactionContext(boundary, timeout_s=7.5, agent_id="x'; DROP TABLE y; --")
    shown = ("statement_timeout", "idle_in_transaction_session_timeout", "application_name", "synchronous_commit")

    async def settings_now(connection: Any) -> list[str]:
        return [await value(connection, "SELECT current_setting(%s)", each) for each in shown]

    async def use(transactions: Transactions) -> tuple[list[str], list[str]]:
        inside = await transactions.run(settings_now, context)
        async with transactions.pool.connection() as connection:
            return inside, await settings_now(connection)

    inside, after = run(use)
    assert inside == ["7500ms", idle, name, "on"]
    assert after == ["30s", "1min", "agent_system", "on"]
    assert "transaction_timeout" not in settings_of(context, 160004)
    assert "log_statement" not in settings_of(context, 180000)


@pytest.mark.req("D6.6", "D10.3")
def test_conflicting_transactions_each_happen_once(run: Run, counters: str, servers: Servers) -> None:
    query = f"UPDATE {counters} SET n = (SELECT n FROM {counters} WHERE id = 1) + 1 WHERE id = 1"
    context = TransactionContext(CROSS, SERIALIZABLE, retry=Retry(attempts=100, base_s=0.002, cap_s=0.05))

    async def use(transactions: Transactions) -> int:
        tries = 0

        async def add(connection: Any) -> None:
            nonlocal tries
            tries += 1
            await connection.execute(query)

        await asyncio.gather(*(transactions.run(add, context) for _ in range(20)))
        return tries

    assert run(use) > 20
    assert read(servers, f"SELECT n FROM {counters} WHERE id = 1") == 20


@pytest.mark.req("D6.6")
def test_a_deadlock_is_repeated(run: Run, counters: str, servers: Servers) -> None:
    async def use(transactions: Transactions) -> list[str]:
        kinds: list[str] = []
        both = asyncio.Barrier(2)

        async def cross(first: int, second: int) -> None:
            is_first_try = True

            async def add(connection: Any) -> None:
                nonlocal is_first_try
                await connection.execute(f"UPDATE {counters} SET n = n + 1 WHERE id = %s", [first])
                if is_first_try:
                    is_first_try = False
                    await both.wait()
                else:
                    kinds.append("again")
                await connection.execute(f"UPDATE {counters} SET n = n + 1 WHERE id = %s", [second])

            await transactions.run(add)

        await asyncio.gather(cross(1, 2), cross(2, 1))
        return kinds

    assert run(use) == ["again"]
    assert read(servers, f"SELECT array_agg(n) FROM {counters}") == [2, 2]


@pytest.mark.req("D6.6", "D6.7", "D6.3")
def test_data_that_break_a_rule_are_a_permanent_failure_and_are_compensated(run: Run, counters: str) -> None:
    undone: list[str] = []

    def undo(name: str, *, fails: bool = False) -> Callable[[], Awaitable[None]]:
        async def action() -> None:
            undone.append(name)
            if fails:
                raise RuntimeError(name)

        return action

    async def use(transactions: Transactions) -> Any:
        context = TransactionContext(compensation=(undo("first"), undo("second", fails=True), undo("third")))
        return await transactions.attempt(lambda c: c.execute(f"UPDATE {counters} SET n = 100".encode()), context)

    result = run(use)
    assert result.status is Status.PERMANENT_FAILURE
    assert isinstance(result.error, ConstraintViolation)
    assert result.error.sqlstate == "23514"
    assert "counters" in str(result.error)
    assert undone == ["third", "second", "first"]


@pytest.mark.req("D6.7")
def test_validation_before_the_commit_rolls_back_with_its_problems(run: Run, counters: str, servers: Servers) -> None:
    async def too_many(connection: Any) -> list[str]:
        found = await value(connection, f"SELECT sum(n) FROM {counters}")
        return [f"the sum is {found}"] if found > 1 else []

    async def use(transactions: Transactions) -> Any:
        context = TransactionContext(validate=too_many)
        good = await transactions.attempt(
            lambda c: c.execute(f"UPDATE {counters} SET n = 1 WHERE id = 1".encode()), context
        )
        bad = await transactions.attempt(
            lambda c: c.execute(f"UPDATE {counters} SET n = 7 WHERE id = 2".encode()), context
        )
        return good, bad

    good, bad = run(use)
    assert good.status is Status.SUCCESS
    assert bad.status is Status.VALIDATION_FAILED
    assert bad.problems == ("the sum is 8",)
    assert read(servers, f"SELECT array_agg(n ORDER BY id) FROM {counters}") == [1, 0]


@pytest.mark.req("D6.7", "D10.3")
def test_work_may_ask_to_start_over(run: Run, counters: str, servers: Servers) -> None:
    async def use(transactions: Transactions) -> Any:
        tries = 0

        async def work(connection: Any) -> int:
            nonlocal tries
            tries += 1
            await connection.execute(f"UPDATE {counters} SET n = n + 1".encode())
            if tries < 3:
                raise VersionConflict("somebody was first")
            return tries

        assert await transactions.run(work, TransactionContext(retry=Retry(base_s=0.001))) == 3
        tries = -9
        result = await transactions.attempt(work, TransactionContext(retry=Retry(base_s=0.001)))
        assert isinstance(result.error, RetriesExhausted)
        return result.status

    assert run(use) is Status.UNKNOWN_FAILURE
    assert read(servers, f"SELECT array_agg(n) FROM {counters}") == [1, 1]


@pytest.mark.req("D6.5", "D13.3")
@pytest.mark.parametrize("sleeps_in", ["server", "client"])
def test_a_transaction_ends_at_its_time(run: Run, counters: str, servers: Servers, sleeps_in: str) -> None:
    async def use(transactions: Transactions) -> None:
        async def work(connection: Any) -> None:
            await connection.execute(f"UPDATE {counters} SET n = 1".encode())
            await (connection.execute("SELECT pg_sleep(20)") if sleeps_in == "server" else asyncio.sleep(20))

        with pytest.raises(OperationTimeout):
            await transactions.run(work, TransactionContext(timeout_s=0.3, retry=Retry(attempts=1)))
        assert transactions.pool.metrics().active == 0

    run(use)
    assert read(servers, f"SELECT sum(n) FROM {counters}") == 0


@pytest.mark.req("D6.6")
def test_a_timeout_of_the_work_itself_is_neither_retold_nor_repeated(run: Run, counters: str, servers: Servers) -> None:
    async def use(transactions: Transactions) -> None:
        calls = 0

        async def work(connection: Any) -> None:
            nonlocal calls
            calls += 1
            await connection.execute(f"UPDATE {counters} SET n = 1".encode())
            raise TimeoutError("somebody's service")

        with pytest.raises(TimeoutError, match="somebody's service"):
            await transactions.run(work)
        assert calls == 1

    run(use)
    assert read(servers, f"SELECT sum(n) FROM {counters}") == 0


# Commits whose answer was lost ------------------------------------------------------------------------------


class Wire:
    """A TCP proxy before the server that meddles with the next COMMIT it sees, once."""

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        #: "answer" loses the answer, "request" the request itself, "late" keeps the answer for half a second.
        self.meddle = ""
        self.commits = 0
        self.port = 0
        self._served: set[asyncio.Task[Any]] = set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = listener.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            listener.close()
            await asyncio.wait(self._served, timeout=5)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._served.add(task)
        far_reader, far_writer = await asyncio.open_connection(*self._server)
        state = {"mode": ""}
        ways = {
            asyncio.create_task(self._up(reader, far_writer, state)),
            asyncio.create_task(self._down(far_reader, writer, state)),
        }
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        for each in (writer, far_writer):
            each.close()
            with contextlib.suppress(OSError):
                await each.wait_closed()

    async def _up(self, reader: Any, far: Any, state: dict[str, str]) -> None:
        while data := await reader.read(65536):
            if b"COMMIT\x00" in data:
                self.commits += 1
                state["mode"], self.meddle = self.meddle, ""
                if state["mode"] == "request":
                    return
            far.write(data)
            await far.drain()

    async def _down(self, far: Any, near: Any, state: dict[str, str]) -> None:
        while data := await far.read(65536):
            mode, state["mode"] = state["mode"], ""
            if mode == "answer":
                return
            if mode == "late":
                await asyncio.sleep(0.5)
            near.write(data)
            await near.drain()


InDoubt = Callable[[Pools, Wire], Awaitable[None]]


@pytest.fixture
def wired(contract: Contract, environ: dict[str, str]) -> Callable[[InDoubt], None]:
    """Run with pools that reach the server through a wire."""

    def runner(use: InDoubt) -> None:
        async def inside() -> None:
            wire = Wire(environ["PG_HOST"], int(environ["PG_PORT"]))
            async with wire.open():
                settings = Settings.from_environment({**environ, "PG_PORT": str(wire.port), "PG_HOST": "127.0.0.1"})
                async with pools_of(contract, settings) as pools:
                    await asyncio.sleep(0.2)
                    await use(pools, wire)

        asyncio.run(inside())

    return runner


QUICK = Retry(base_s=0.005)


@pytest.mark.req("D6.6", "D13.4")
@pytest.mark.parametrize("lost", ["answer", "request"])
def test_a_commit_in_doubt_happens_once(
    wired: Callable[[InDoubt], None], contract: Contract, counters: str, servers: Servers, lost: str
) -> None:
    async def use(pools: Pools, wire: Wire) -> None:
        transactions = Transactions(pools.primary, marker_table=contract.names.inbox_table)

        async def add(connection: Any) -> int:
            return int(await value(connection, f"UPDATE {counters} SET n = n + 1 WHERE id = 1 RETURNING n"))

        wire.meddle = lost
        assert await transactions.run(add, TransactionContext(TASK, retry=QUICK)) == 1
        assert wire.commits == 2
        assert await transactions.run(add, TransactionContext(TASK, retry=QUICK)) == 2
        await transactions.close()

    markers = "SELECT count(*) FROM runtime.inbox WHERE consumer = 'holdfast.transactions'"
    before = read(servers, markers)  # what a test whose servers were killed may have left
    wired(use)
    assert read(servers, f"SELECT n FROM {counters} WHERE id = 1") == 2
    assert read(servers, markers) == before


@pytest.mark.req("D6.6")
@pytest.mark.parametrize(("lost", "happened"), [("answer", 1), ("request", 0)])
def test_without_a_marker_a_commit_in_doubt_is_told_and_not_repeated(
    wired: Callable[[InDoubt], None], counters: str, servers: Servers, lost: str, happened: int
) -> None:
    async def use(pools: Pools, wire: Wire) -> None:
        wire.meddle = lost
        undone: list[int] = []

        async def undo() -> None:
            undone.append(1)

        context = TransactionContext(retry=QUICK, compensation=(undo,))
        with pytest.raises(OutcomeUnknown) as caught:
            await Transactions(pools.primary).run(
                lambda c: c.execute(f"UPDATE {counters} SET n = n + 1 WHERE id = 1".encode()), context
            )
        assert not caught.value.retryable
        assert undone == []
        # What the marker is for: whoever repeats on his own does it twice.
        if lost == "answer":
            wire.meddle = lost
            with contextlib.suppress(ConnectionFailed):
                await Transactions(pools.primary).run(
                    lambda c: c.execute(f"UPDATE {counters} SET n = n + 1 WHERE id = 1".encode()), context
                )

    wired(use)
    assert read(servers, f"SELECT n FROM {counters} WHERE id = 1") == happened * 2


@pytest.mark.req("D6.6")
def test_doubt_that_cannot_be_resolved_is_told(
    wired: Callable[[InDoubt], None], contract: Contract, counters: str
) -> None:
    async def use(pools: Pools, wire: Wire) -> None:
        transactions = Transactions(pools.primary, marker_table=contract.names.inbox_table)
        wire.meddle = "answer"
        with pytest.raises(OutcomeUnknown):
            await transactions.run(
                lambda c: c.execute(f"UPDATE {counters} SET n = n + 1 WHERE id = 1".encode()),
                TransactionContext(once=True, retry=replace(QUICK, attempts=1)),
            )

    wired(use)


@pytest.mark.req("D13.4")
def test_a_cancelled_commit_is_noted_before_the_cancellation_goes_on(
    wired: Callable[[InDoubt], None], counters: str, servers: Servers
) -> None:
    async def use(pools: Pools, wire: Wire) -> None:
        wire.meddle = "late"
        task = asyncio.create_task(
            Transactions(pools.primary).run(lambda c: c.execute(f"UPDATE {counters} SET n = 1 WHERE id = 1".encode()))
        )
        while not wire.commits:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert pools.primary.metrics().active == 0
        assert pools.primary.metrics().connection_errors == 0

    wired(use)
    assert read(servers, f"SELECT n FROM {counters} WHERE id = 1") == 1
