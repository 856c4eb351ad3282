"""One pool on a real server: bounds, returns, failures, leaks, cancellation."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import random
import signal
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.rows import dict_row
from sql.pooling import changed, pools_of, value

from holdfast.contract import Contract
from holdfast.errors import (
    CircuitOpen,
    CodecError,
    ConfigurationError,
    ConnectionFailed,
    ConstraintViolation,
    HoldfastError,
    OperationTimeout,
    PoolExhausted,
    TransactionFailed,
)
from holdfast.settings import Settings
from holdfast.sql.pool import Pool
from holdfast.sql.pools import Pools

if TYPE_CHECKING:
    from conftest import Servers

Use = Callable[[Pool], Coroutine[Any, Any, None]]


@pytest.fixture
def primary(contract: Contract, settings: Settings) -> Callable[..., None]:
    """Run a coroutine function with the primary pool, some fields of which may be declared otherwise."""

    def run(use: Use, name: str = "primary", **fields: Any) -> None:
        async def inside() -> None:
            async with pools_of(changed(contract, name, **fields), settings) as pools:
                await asyncio.sleep(0.2)  # The first round of the watch.
                await use(pools.named[name])

        asyncio.run(inside())

    return run


@pytest.mark.req("D8.1", "D9.5")
def test_a_borrowed_connection_is_what_the_plane_declares(primary: Callable[..., None]) -> None:
    async def use(pool: Pool) -> None:
        async with pool.connection() as connection:
            assert connection.autocommit
            assert await value(connection, "SELECT current_user") == "app_primary"
            assert await value(connection, "SHOW statement_timeout") == "7s"
            assert await value(connection, "SHOW application_name") == "agent_system"
            assert await value(connection, "SHOW search_path") == "pg_catalog"

    primary(use, statement_timeout=7.0, after_connect=("SET search_path = pg_catalog",))


@pytest.mark.req("D8.4", "D13.3")
def test_no_more_connections_than_declared_and_waiting_ends(primary: Callable[..., None]) -> None:
    async def use(pool: Pool) -> None:
        async with pool.connection(), pool.connection():
            started = time.monotonic()
            with pytest.raises(PoolExhausted):
                async with pool.connection(timeout_s=0.2):
                    pass
            assert 0.15 < time.monotonic() - started < 1
            waiting = asyncio.create_task(value_of(pool))
            await asyncio.sleep(0.05)
            seen = pool.metrics()
            assert (seen.total, seen.active, seen.idle, seen.pending_acquisitions) == (2, 2, 0, 1)
        assert await waiting == 1
        seen = pool.metrics()
        assert (seen.total, seen.active, seen.idle, seen.pending_acquisitions) == (2, 0, 2, 0)
        assert seen.acquisition_time_p95 >= 0.04

    primary(use, max=2)


async def value_of(pool: Pool) -> Any:
    async with pool.connection() as connection:
        return await value(connection, "SELECT 1")


@pytest.mark.req("D8.7")
def test_what_a_user_leaves_behind_is_cleared(primary: Callable[..., None]) -> None:
    async def use(pool: Pool) -> None:
        async with pool.connection() as connection:
            pid = connection.info.backend_pid
            await connection.set_autocommit(False)
            await connection.set_isolation_level(psycopg.IsolationLevel.SERIALIZABLE)
            connection.row_factory = dict_row
            await connection.execute("CREATE TEMP TABLE left_behind (x int)")
        async with pool.connection() as connection:
            assert connection.info.backend_pid == pid
            assert connection.autocommit
            assert connection.isolation_level is None
            assert await value(connection, "SELECT to_regclass('pg_temp.left_behind')") is None
            await connection.execute("SET work_mem = '1MB'")
        async with pool.connection() as connection:
            assert await value(connection, "SHOW work_mem") == "4MB"

    primary(use, max=1, recycling="clean")


@pytest.mark.req("D8.6", "D10.5")
def test_a_broken_connection_is_told_and_replaced(primary: Callable[..., None], servers: Servers) -> None:
    async def use(pool: Pool) -> None:
        async def lose() -> None:
            async with pool.connection() as connection:
                await terminate(servers, connection.info.backend_pid)
                await connection.execute("SELECT 'a secret'")

        with pytest.raises(ConnectionFailed) as caught:
            await lose()
        assert isinstance(caught.value.driver_error, psycopg.Error)
        for forbidden in ("secret", servers.environ["PG_HOST"], servers.environ["PRIMARY_DB_PASSWORD"]):
            assert forbidden not in str(caught.value)
        async with pool.connection() as connection:
            pid = connection.info.backend_pid
        await terminate(servers, pid)
        await asyncio.sleep(0.15)
        # The idle one is dead; nobody notices.
        assert await value_of(pool) == 1
        assert pool.metrics().breaker == "closed"

    primary(use, max=1)


async def terminate(servers: Servers, pid: int) -> None:
    async with await psycopg.AsyncConnection.connect(**servers.admin, autocommit=True) as admin:
        await admin.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])


@pytest.mark.req("D13.3")
def test_a_slow_statement_is_ended_by_the_server_and_keeps_its_connection(primary: Callable[..., None]) -> None:
    async def use(pool: Pool) -> None:
        async def sleep() -> None:
            async with pool.connection() as connection:
                pids.append(connection.info.backend_pid)
                await connection.execute("SELECT pg_sleep(30)")

        pids: list[int] = []
        with pytest.raises(OperationTimeout):
            await sleep()
        async with pool.connection() as connection:
            assert connection.info.backend_pid == pids[0]
        assert pool.metrics().slow_statements >= 1

    primary(use, max=1, statement_timeout=0.2)


@pytest.mark.req("D13.3")
def test_a_server_that_hangs_is_cut_off(primary: Callable[..., None]) -> None:
    async def use(pool: Pool) -> None:
        async def hang() -> None:
            async with pool.connection() as connection:
                pids.append(connection.info.backend_pid)
                os.kill(pids[0], signal.SIGSTOP)
                connection.limit_s = 0.3
                await connection.execute("SELECT 1")

        pids: list[int] = []
        started = time.monotonic()
        try:
            with pytest.raises(OperationTimeout):
                await hang()
            assert time.monotonic() - started < 2
            assert await value_of(pool) == 1
        finally:
            os.kill(pids[0], signal.SIGCONT)

    primary(use, max=1)


@pytest.mark.req("D10.6")
def test_errors_inside_the_block_leave_it_translated(primary: Callable[..., None]) -> None:
    async def use(pool: Pool) -> None:
        cases: list[tuple[str, list[Any], type[HoldfastError], str | None]] = [
            ("INSERT INTO agents.registry (agent_type, agent_name) VALUES ('', 'x')", [], ConstraintViolation, "23514"),
            ("SELECT 1 / %s", [0], TransactionFailed, "22012"),
            ("SELECT %s", [object()], CodecError, None),
        ]
        for query, arguments, kind, state in cases:
            with pytest.raises(kind) as caught:
                async with pool.connection() as connection:
                    await connection.execute(query.encode(), arguments)
            assert getattr(caught.value, "sqlstate", None) == state
            assert query not in str(caught.value)
        with pytest.raises(ZeroDivisionError):
            async with pool.connection():
                raise ZeroDivisionError
        assert pool.metrics().active == 0

    primary(use)


@pytest.mark.req("D8.2")
def test_a_pool_for_reading_refuses_writes_and_stays(primary: Callable[..., None]) -> None:
    async def use(pool: Pool) -> None:
        with pytest.raises(HoldfastError) as caught:
            async with pool.connection() as connection:
                await connection.execute("DELETE FROM agents.registry WHERE false")
        assert not caught.value.retryable
        assert await value_of(pool) == 1

    primary(use, name="analytics")


@pytest.mark.req("D8.7")
def test_prepared_statements_are_bounded_and_off_behind_a_transaction_pooler(primary: Callable[..., None]) -> None:
    async def use(pool: Pool) -> None:
        async with pool.connection() as connection:
            for number in range(5):
                for _ in range(8):
                    await connection.execute(f"SELECT {number}".encode())
            kept = await value(connection, "SELECT count(*) FROM pg_prepared_statements")
        # The driver lets go of the oldest when it prepares the next.
        assert kept in ({0} if pool.spec.is_pooled else {3, 4})

    primary(use, statement_cache_capacity=3)
    primary(use, statement_cache_capacity=3, mode="transaction")


@pytest.mark.req("D8.7")
def test_leaks_are_told_with_their_place_and_the_forgotten_one_is_replaced(
    primary: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    async def use(pool: Pool) -> None:
        pool.leak_s = 0.05
        async with pool.connection(), pool.connection(keeps=True):
            await asyncio.sleep(0.1)
            await pool.maintain()
            await pool.maintain()
        assert pool.metrics().leaks == 1
        assert [
            r.getMessage()
            for r in caplog.records
            if "test_rt_pool.py:" in r.getMessage() and "in use" in r.getMessage()
        ]
        forgotten = [pool.connection() for _ in range(2)]
        for borrowed in forgotten:
            await borrowed.__aenter__()
        with pytest.raises(PoolExhausted):
            await asyncio.wait_for(pool.connection(timeout_s=0.05).__aenter__(), 1)
        del borrowed
        forgotten.clear()
        gc.collect()
        await asyncio.sleep(0)
        assert pool.metrics().leaks == 3
        assert await value_of(pool) == 1

    with caplog.at_level(logging.WARNING, "holdfast.pools"):
        primary(use, max=2)


@pytest.mark.req("D13.4")
def test_cancellation_at_any_moment_loses_no_connection(primary: Callable[..., None]) -> None:
    async def one(pool: Pool, chance: random.Random) -> None:
        async with pool.connection() as connection:
            await connection.execute("SELECT pg_sleep(%s)", [chance.random() / 100])
            if chance.random() < 0.3:
                await connection.execute("BEGIN")

    async def use(pool: Pool) -> None:
        chance = random.Random(7)
        tasks = []
        for _ in range(300):
            task = asyncio.create_task(one(pool, chance))
            asyncio.get_running_loop().call_later(chance.random() / 20, task.cancel)
            tasks.append(task)
            if chance.random() < 0.2:
                await asyncio.sleep(0.002)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        bad = [o for o in outcomes if o is not None and not isinstance(o, asyncio.CancelledError)]
        assert bad == []
        await asyncio.sleep(0.2)
        seen = pool.metrics()
        assert (seen.active, seen.pending_acquisitions, seen.connecting) == (0, 0, 0)
        assert seen.total <= 4
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(4):
                connection = await stack.enter_async_context(pool.connection(timeout_s=2))
                assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
            assert pool.metrics().total == 4

    primary(use, max=4)


@pytest.mark.req("D8.5", "D8.6", "D8.3")
def test_the_breaker_opens_while_the_server_is_down_and_the_watch_closes_it(
    contract: Contract, settings: Settings, servers: Servers
) -> None:
    async def use() -> None:
        async with await Pools.open(contract, settings, interval_s=0.1) as pools:
            pool = pools.primary
            try:
                servers.kill("postgres")
                seen: list[type[HoldfastError]] = []
                started = time.monotonic()
                while CircuitOpen not in seen and time.monotonic() - started < 20:
                    try:
                        await value_of(pool)
                    except HoldfastError as error:
                        seen.append(type(error))
                assert CircuitOpen in seen
                assert seen.count(ConnectionFailed) >= 4
                health = {h.name: h for h in await pools.check()}
                assert not health["primary"].healthy
                assert health["primary"].error
            finally:
                servers.start()
            started = time.monotonic()
            while time.monotonic() - started < 10:
                try:
                    assert await value_of(pool) == 1
                    break
                except HoldfastError:
                    await asyncio.sleep(0.05)
            assert pool.breaker.state == "closed"
            assert time.monotonic() - started < 3
            seen_now = pool.metrics()
            assert seen_now.connection_error_rate > 0
            assert seen_now.health_check_success_rate < 1
            assert seen_now.last_health_check == pytest.approx(time.time(), abs=5)

    asyncio.run(use())


@pytest.mark.req("D10.5")
def test_a_refused_login_is_a_mistake_of_configuration(contract: Contract, settings: Settings) -> None:
    wrong = Settings.from_environment({**settings.environ, "PRIMARY_DB_PASSWORD": "wrong-secret"})

    async def use() -> None:
        with pytest.raises(ConfigurationError, match="refuses the login") as caught:
            await Pools.open(contract, wrong)
        assert "secret" not in str(caught.value)

    asyncio.run(use())


@pytest.mark.req("D13.3", "D8.6")
def test_idle_and_old_connections_go_and_the_floor_stays(primary: Callable[..., None]) -> None:
    async def use(pool: Pool) -> None:
        async with pool.connection(), pool.connection(), pool.connection():
            pass
        assert pool.metrics().idle == 3
        await asyncio.sleep(0.1)
        await pool.maintain()
        assert pool.metrics().idle == 2
        await asyncio.sleep(0.4)
        before = pool.metrics().idle
        async with pool.connection() as connection:
            age = await value(connection, "SELECT extract(epoch FROM now() - backend_start) FROM pg_stat_activity"
                                          " WHERE pid = pg_backend_pid()")  # fmt: skip
        assert before == 2
        assert age < 0.4

    primary(use, min=2, max=5, idle_timeout=0.05, max_lifetime=0.3)


@pytest.mark.req("D13.1", "D8.4")
def test_under_load_more_connections_stay_open_and_later_fewer(primary: Callable[..., None]) -> None:
    async def use(pool: Pool) -> None:
        async with pool.connection(), pool.connection(), pool.connection():
            pass
        assert pool.adapt() == 4
        await pool.maintain()
        assert pool.metrics().idle == 4
        assert [pool.adapt() for _ in range(5)] == [3, 2, 1, 1, 1]
        await asyncio.sleep(0.1)
        await pool.maintain()
        assert pool.metrics().idle == 1

    primary(use, min=1, max=4, idle_timeout=0.05)


@pytest.mark.req("D13.2", "D13.1", "D8.1", "D8.2")
def test_all_declared_pools_are_there_by_name_and_report_health(contract: Contract, settings: Settings) -> None:
    async def use() -> None:
        async with pools_of(contract, settings) as pools:
            assert set(pools.named) == {"primary", "replica_0", "background", "analytics"}
            assert pools.analytics is pools.named["analytics"]
            assert pools.background is pools.named["background"]
            health = {h.name: h for h in await pools.check()}
            assert all(h.healthy and h.error is None for h in health.values()), health
            async with pools.primary.connection():
                active = (await pools.primary.check()).active
            assert active == 1
            assert {m.pool_name for m in pools.metrics()} == set(pools.named)
            users = set()
            for pool in pools.named.values():
                async with pool.connection() as connection:
                    users.add(await value(connection, "SELECT current_user"))
            assert users == {"app_primary", "app_replica", "app_background", "app_analytics"}
        without = {name: spec for name, spec in contract.pools.items() if name == "primary"}
        async with pools_of(replace(contract, pools=without), settings) as pools:
            assert pools.background is pools.read() is pools.primary
            with pytest.raises(ConfigurationError, match="no pool analytics"):
                _ = pools.analytics

    asyncio.run(use())


@pytest.mark.req("D13.2", "D8.2")
def test_a_process_needs_only_the_secrets_of_the_pools_it_uses(contract: Contract, settings: Settings) -> None:
    kept = {name: text for name, text in settings.environ.items() if not name.startswith(("ANALYTICS", "REPLICA"))}
    few = Settings.from_environment(kept)
    late = replace(contract.pools["replica"], endpoint="elsewhere")

    async def use() -> None:
        async with pools_of(replace(contract, pools={**contract.pools, "replica": late}), few) as pools:
            assert await value_of(pools.primary) == 1
            assert await value_of(pools.read()) == 1
            health = {h.name: h for h in await pools.check()}
            assert health["primary"].healthy
            assert not health["replica"].healthy
            assert "ANALYTICS_DB_PASSWORD is not set" in str(health["analytics"].error)
            assert pools.read() is pools.primary
            with pytest.raises(ConfigurationError, match="no endpoint elsewhere"):
                await value_of(pools.named["replica"])

    asyncio.run(use())
