"""Health with real servers: well, slow, mute, gone; pools that are full, buckets that vanish, a database behind."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from health.conftest import provision_again
from health.slow_line import over, to_nats, to_postgres

import holdfast
from holdfast.contract import BucketSpec, Contract
from holdfast.errors import OperationTimeout
from holdfast.events.relay import Relay
from holdfast.health import Check, HealthLimits, HealthMonitor, HealthReport, HealthStatus, health

if TYPE_CHECKING:
    from conftest import Servers

HEALTHY, DEGRADED, UNHEALTHY = HealthStatus
#: So loose that only failures count, on a machine that does other things too.
LOOSE = HealthLimits(database_ms=5e3, pool_ms=5e3, bucket_ms=5e3, jetstream_ms=5e3, consistency_ms=1e6, limit_s=5)


async def until(look: Callable[[], Any], wanted: Callable[[Any], bool], within_s: float = 10) -> Any:
    """Ask until it is as wanted."""
    deadline = time.monotonic() + within_s
    while not wanted(found := await look()):
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.05)
    return found


def statuses(report: HealthReport) -> dict[str, HealthStatus]:
    return {check.name: check.status for check in report.checks}


def not_healthy(report: HealthReport) -> set[str]:
    return {check.name for check in report.checks if check.status is not HEALTHY}


@pytest.mark.req("F2.1", "F2.2", "F2.3", "F2.4", "F2.5")
def test_a_plane_that_is_well(environ: Mapping[str, str]) -> None:
    async def main() -> None:
        async with holdfast.connect(environ) as plane, plane.agent(uuid4()) as agent:
            await agent.put("k", 1)
            await agent.flush()
            report = await health(plane, LOOSE)
            assert report.status is HEALTHY, report.reasons
            assert set(report.pools) == set(plane.pools.named)
            assert set(report.buckets) == set(plane.contract.buckets)
            assert all(check.took_ms > 0 for check in report.checks)
            bucket = plane.contract.bucket(plane.contract.names.state_bucket)
            assert report.jetstream.figures["ttl_s"] == bucket.ttl_s
            assert report.jetstream.figures["entries"] > 0
            assert report.jetstream.figures["bytes"] > 0
            assert report.consistency is not None
            assert report.consistency.figures["dirty"] <= 1
            assert json.loads(json.dumps(asdict(report)))["database"]["status"] == "healthy"

    asyncio.run(main())


@pytest.mark.req("F2.1", "F2.2", "F2.3", "F2.4", "F2.5")
def test_each_limit_is_of_one_kind_of_check(environ: Mapping[str, str]) -> None:
    """SB-90: two limits for one word. Here each has a name of its own and moves only its own check."""

    async def main() -> None:
        async with holdfast.connect(environ) as plane, plane.agent(uuid4()) as agent:
            await agent.put("k", 1, ack="sql")
            for kind in ("database", "pool", "bucket", "jetstream", "consistency"):
                report = await plane.health(replace(LOOSE, **{f"{kind}_ms": 0.0}))
                assert report.status is DEGRADED
                late = [check for check in report.checks if check.status is DEGRADED]
                assert {check.name.split()[0] for check in late} == {kind}
                assert all("more than 0 ms" in (check.reason or "") for check in late)

    asyncio.run(main())


@pytest.mark.req("F2.1", "F2.2")
def test_a_slow_database_is_degraded_before_its_pools_are(environ: Mapping[str, str]) -> None:
    """The two limits as they come: 10 ms for SELECT 1, 100 ms for a connection and SELECT 1."""

    async def main() -> None:
        async with to_postgres(environ) as line, holdfast.connect(over(environ, postgres=line)) as plane:
            line.delay_s = 0.02
            await health(plane)  # connections are made
            report = await until(lambda: health(plane), lambda found: found.pools["primary"].status is HEALTHY)
            assert report.database.status is DEGRADED
            assert "SELECT 1 took" in (report.database.reason or "")
            line.delay_s = 0.12
            report = await health(plane)
            assert report.pools["primary"].status is DEGRADED
            assert "more than 100 ms" in (report.pools["primary"].reason or "")

    asyncio.run(main())


@pytest.mark.req("F2.2", "D8.3")
def test_a_pool_that_is_all_in_use_is_unhealthy_and_the_database_is_not(
    environ: Mapping[str, str], contract_text: str
) -> None:
    contract = Contract.parse(contract_text)

    async def main() -> None:
        async with holdfast.connect(environ, contract=contract) as plane, AsyncExitStack() as held:
            primary = plane.pools.primary
            for _ in range(primary.spec.max):
                await held.enter_async_context(primary.connection())
            started = time.monotonic()
            report = await health(plane, replace(LOOSE, limit_s=0.3))
            assert time.monotonic() - started < 4
            assert report.status is UNHEALTHY
            assert report.pools["primary"].status is UNHEALTHY
            assert "became free" in (report.pools["primary"].reason or "")
            assert report.database.status is HEALTHY

    asyncio.run(main())


@pytest.mark.req("F2.1", "F2.2", "F2.8")
@pytest.mark.parametrize("how", ["gone", "mute"])
def test_a_database_that_is_gone_or_mute(environ: Mapping[str, str], how: str) -> None:
    async def main() -> HealthReport:
        async with to_postgres(environ) as line, holdfast.connect(over(environ, postgres=line)) as plane:
            assert (await health(plane, LOOSE)).status is HEALTHY
            if how == "gone":
                await line.cut()
            line.is_mute = True
            started = time.monotonic()
            report = await health(plane, replace(LOOSE, limit_s=0.5))
            assert time.monotonic() - started < 4
            assert report.database.status is UNHEALTHY
            assert {check.status for check in report.pools.values()} == {UNHEALTHY}
            assert report.jetstream.status is HEALTHY
            line.is_mute = False
            if how == "gone":
                await line.mend()
            await until(lambda: health(plane, LOOSE), lambda found: found.status is HEALTHY)
            return report

    report = asyncio.run(main())
    tell_no_secrets(report, environ)


@pytest.mark.req("F2.3", "F2.4", "F2.5")
@pytest.mark.parametrize("how", ["gone", "mute", "slow"])
def test_nats_that_is_gone_or_mute_or_slow(environ: Mapping[str, str], how: str) -> None:
    async def main() -> HealthReport:
        async with to_nats(environ) as line, holdfast.connect(over(environ, nats=line)) as plane:
            assert (await health(plane, LOOSE)).status is HEALTHY
            if how == "gone":
                await line.cut()
                await until(lambda: asyncio.sleep(0, plane.nc.is_connected), lambda found: not found)
            line.is_mute, line.delay_s = how == "mute", 0.06 if how == "slow" else 0.0
            started = time.monotonic()
            report = await health(plane, replace(LOOSE, limit_s=0.5, bucket_ms=50, jetstream_ms=50))
            assert time.monotonic() - started < 4
            bad = DEGRADED if how == "slow" else UNHEALTHY
            assert {check.status for check in (*report.buckets.values(), report.jetstream)} == {bad}
            assert report.consistency is not None
            assert report.consistency.status is (HEALTHY if how == "slow" else UNHEALTHY)
            assert report.database.status is HEALTHY
            line.is_mute, line.delay_s = False, 0.0
            if how == "gone":
                await line.mend()
            await until(lambda: health(plane, LOOSE), lambda found: found.status is HEALTHY)
            return report

    report = asyncio.run(main())
    tell_no_secrets(report, environ)


def tell_no_secrets(report: HealthReport, environ: Mapping[str, str]) -> None:
    """No host, port, password nor SQL of a driver in any reason."""
    assert report.reasons
    told = " ".join(report.reasons)
    hidden = [environ["PG_PORT"], environ["PG_HOST"], "127.0.0.1", "nats://", "Traceback"]
    hidden += [value for name, value in environ.items() if "PASSWORD" in name]
    assert not [word for word in hidden if word and word in told], told


@pytest.mark.req("F2.3")
def test_a_bucket_that_is_deleted_is_unhealthy_until_it_is_back(environ: Mapping[str, str], contract_text: str) -> None:
    contract = Contract.parse(contract_text)
    contract = replace(contract, buckets={**contract.buckets, "GONE": BucketSpec("GONE")})

    async def main() -> None:
        async with holdfast.connect(environ, contract=contract) as plane:
            jetstream = plane.nc.jetstream()
            await jetstream.create_key_value(bucket="GONE")
            try:
                assert (await health(plane, LOOSE)).status is HEALTHY
            finally:
                await jetstream.delete_key_value("GONE")
            report = await health(plane, LOOSE)
            assert report.status is UNHEALTHY
            assert not_healthy(report) == {"bucket GONE"}
            assert "does not exist" in report.reasons[0]
            assert (await health(plane, LOOSE, skip={"GONE"})).status is HEALTHY

    asyncio.run(main())


@pytest.mark.req("F1.2", "F2.5")
def test_a_database_that_falls_behind_is_degraded_although_nothing_is_flushed(environ: Mapping[str, str]) -> None:
    """SB-89: what was never flushed is in no percentile of flushes; its age counts, and only grows."""
    limits = replace(LOOSE, consistency_ms=None, limit_s=0.5)

    async def main() -> None:
        async with (
            to_postgres(environ) as line,
            holdfast.connect(over(environ, postgres=line)) as plane,
            plane.agent(uuid4()) as agent,
        ):
            await agent.put("k", 0, ack="sql")
            await line.cut()
            await agent.put("k", 1)

            async def consistency() -> Check:
                check = (await health(plane, limits)).consistency
                assert check is not None
                return check

            check = await until(consistency, lambda found: found.figures["oldest_ms"] > 700)
            assert check.status is DEGRADED
            assert "the database lacks a write" in (check.reason or "")
            assert check.figures["dirty"] >= 1
            await until(consistency, lambda found: "the flusher waits" in (found.reason or ""))
            older = await consistency()
            assert older.figures["oldest_ms"] > check.figures["oldest_ms"]
            await line.mend()
            await agent.flush()
            await until(consistency, lambda found: found.figures["oldest_ms"] == 0)

    asyncio.run(main())


@pytest.mark.req("F2.8", "D13.2")
def test_the_monitor_keeps_the_last_results_and_tells_of_changes(
    environ: Mapping[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    told: list[tuple[HealthStatus, HealthStatus | None]] = []
    unchanged: list[bool] = []

    def changed(report: HealthReport, before: HealthReport | None) -> None:
        told.append((report.status, before.status if before else None))
        unchanged.append(before is not None and statuses(before) == statuses(report))
        raise RuntimeError("a fault of the user's")

    async def main() -> None:
        async with to_postgres(environ) as line, holdfast.connect(over(environ, postgres=line)) as plane:
            limits = replace(LOOSE, limit_s=1)
            monitor = HealthMonitor(plane, 0.05, limits=limits, changed=changed)

            async def last() -> HealthStatus | None:
                return monitor.report.status if monitor.report else None

            monitor.start()
            assert await last() is None

            await until(last, lambda found: found is HEALTHY)
            await line.cut()
            await until(last, lambda found: found is UNHEALTHY)

            async def background() -> HealthStatus | None:
                return monitor.report.pools["background"].status if monitor.report else None

            await until(background, lambda found: found is UNHEALTHY)
            await line.mend()
            await until(last, lambda found: found is HEALTHY)
            await monitor.stop()
            kept = monitor.report
            await asyncio.sleep(0.2)
            assert monitor.report is kept
            monitor.start()
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "holdfast health"]

    with caplog.at_level(logging.INFO, "holdfast.health"):
        asyncio.run(main())
    assert told[0] == (HEALTHY, None)
    assert (UNHEALTHY, HEALTHY) in told
    assert told[-1][0] is HEALTHY
    assert "the plane is unhealthy; database: " in caplog.text
    assert not any(unchanged)


@pytest.mark.soak
@pytest.mark.req("F2.1", "F2.2", "F2.3", "F2.4", "F2.8")
@pytest.mark.parametrize("system", ["postgres", "nats"])
def test_a_server_that_is_killed_and_comes_back(servers: Servers, system: str) -> None:
    async def main() -> None:
        async with holdfast.connect(servers.environ) as plane:
            assert (await health(plane, LOOSE)).status is HEALTHY
            await asyncio.to_thread(servers.kill, system)
            try:
                report = await until(lambda: health(plane, LOOSE), lambda found: found.status is UNHEALTHY)
            finally:
                await asyncio.to_thread(servers.start)
            is_down = report.database if system == "postgres" else report.jetstream
            is_up = report.jetstream if system == "postgres" else report.database
            assert (is_down.status, is_up.status) == (UNHEALTHY, HEALTHY)
            # A bucket in memory does not outlive the only server: it has to be provisioned again.
            lost = {f"bucket {plane.contract.names.cache_bucket}"} if system == "nats" else set()
            await until(lambda: health(plane, LOOSE), lambda found: not_healthy(found) == lost, 30)
            await asyncio.to_thread(provision_again, servers)
            await until(lambda: health(plane, LOOSE), lambda found: found.status is HEALTHY, 30)

    asyncio.run(main())


@pytest.mark.soak
@pytest.mark.req("E1.4", "F2.4")
def test_a_relay_asks_whether_nats_is_there_and_survives_a_late_answer(environ: Mapping[str, str]) -> None:
    """An answer to ``Client.flush`` that comes after its time ends the client's reading, see ``Link.ping``."""
    subject = f"agents.state.{uuid4()}"

    async def main() -> None:
        async with to_nats(environ) as line, holdfast.connect(over(environ, nats=line)) as plane:
            relay = Relay(plane.pools, plane.nc, plane.contract, publish_timeout_s=0.3)
            await relay.step()

            async def note(connection: Any) -> None:
                await plane.outbox.add(connection, subject, {"n": 1})

            await plane.transactions.run(note)
            line.is_mute = True
            with pytest.raises(OperationTimeout):
                await relay.step()
            line.is_mute = False
            await until(relay.status, lambda found: found.held == 0)
            await until(relay.step, lambda moved: moved >= 1)
            assert (await plane.nc.jetstream().get_last_msg("AGENT_STATE", subject)).data == b'{"n": 1}'

    asyncio.run(main())
