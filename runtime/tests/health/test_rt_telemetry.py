"""Metrics and spans of a plane, read from OpenTelemetry's own exporters in memory."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import UUID, uuid4

import pytest
from health.slow_line import over, to_postgres

import holdfast
from holdfast import TransactionContext, sync, telemetry
from holdfast.errors import ConfigurationError, HoldfastError
from holdfast.events import outbox
from holdfast.sql.transactions import Boundary
from holdfast.state.flusher import Flusher

pytest.importorskip("opentelemetry.sdk", reason="the SDK reads what the library reports")

from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from holdfast.telemetry import METRICS, Telemetry, instrument


class Otel:
    """Providers of a test's own."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.tracers.get_tracer("test")

    def watch(self, plane: holdfast.Plane, **options: Any) -> Telemetry:
        return instrument(plane, meter_provider=self.meters, tracer_provider=self.tracers, interval_s=60, **options)

    def points(self, name: str, **wanted: str) -> list[Any]:
        """The points of a metric now, those with the attributes ``wanted``."""
        data = self.reader.get_metrics_data()
        found: list[Any] = []
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                found += [point for metric in scope.metrics if metric.name == name for point in metric.data.data_points]
        return [point for point in found if wanted.items() <= dict(point.attributes).items()]

    def value(self, name: str, **wanted: str) -> float:
        [point] = self.points(name, **wanted)
        return float(point.value)

    def spans(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]


@pytest.fixture
def otel() -> Iterator[Otel]:
    made = Otel()
    yield made
    made.meters.shutdown()
    made.tracers.shutdown()


def of(span: ReadableSpan, name: str) -> Any:
    return (span.attributes or {}).get(name)


@pytest.mark.req("D8.4", "F1.1", "F1.3")
def test_metrics_tell_what_the_plane_counts(environ: Mapping[str, str], otel: Otel) -> None:
    pool = {"db.client.connection.pool.name": "primary"}

    async def main() -> None:
        async with holdfast.connect(environ) as plane, plane.agent(uuid4()) as agent:
            telemetry = otel.watch(plane)
            await agent.put("k", 1, ack="sql")
            async with plane.pools.primary.connection():
                await telemetry.sample()
            assert otel.value("db.client.connection.count", **pool, **{"db.client.connection.state": "used"}) == 1
            assert otel.value("db.client.connection.max", **pool) == plane.pools.primary.spec.max
            assert otel.value("holdfast.pool.breaker_state", **pool) == 0
            assert otel.value("holdfast.pool.health_check_success_rate", **pool) == 1
            pools = {point.attributes["db.client.connection.pool.name"] for point in otel.points("holdfast.pool.leaks")}
            assert pools == set(plane.pools.named)
            assert otel.value("holdfast.flush.written") >= 1
            assert otel.value("kv_entries") > 0
            assert otel.value("consistency_window_p95") > 0
            [flushes] = otel.points("flush_duration_ms")
            assert flushes.count >= 1
            known = {metric.name for metric in METRICS} - {
                "consistency_lag_ms",  # nobody lags
                "holdfast.pool.replica_lag",  # this plane has no standby
                "holdfast.pool.last_health_check",  # the watch may not have come round yet
            }
            assert known <= telemetry.readings.keys()
            plane_of = {point.attributes["holdfast.plane"] for name in known for point in otel.points(name)}
            assert plane_of == {environ["HOLDFAST_PLANE"]}

    asyncio.run(main())


@pytest.mark.req("F1.1", "F1.2")
def test_agents_that_lag_have_a_gauge_each_and_only_so_many(environ: Mapping[str, str], otel: Otel) -> None:
    ids = [uuid4() for _ in range(5)]

    async def main() -> None:
        async with to_postgres(environ) as line, holdfast.connect(over(environ, postgres=line)) as plane:
            telemetry = otel.watch(plane, agents=3)
            agents = [await plane.agent(agent_id).__aenter__() for agent_id in ids]
            await line.cut()
            for agent in agents:
                await agent.put("k", 1)
            await asyncio.sleep(0.4)
            await telemetry.sample()
            lags = {UUID(str(point.attributes["agent"])): point.value for point in otel.points("consistency_lag_ms")}
            assert len(lags) == 3
            assert lags.keys() <= set(ids)
            assert min(lags.values()) > 200
            assert otel.value("holdfast.consistency.oldest_write") >= max(lags.values())
            assert otel.value("dirty_entries") >= 5
            # The database is away: what it would have to be asked for is left out, not made up.
            assert not otel.points("holdfast.outbox.backlog")
            await line.mend()
            await asyncio.gather(*(agent.flush() for agent in agents))
            await asyncio.sleep(0.6)
            await telemetry.sample()
            assert not otel.points("consistency_lag_ms")
            assert otel.value("consistency_violations") > 0

    asyncio.run(main())


@pytest.mark.req("E1.9", "D6.3")
def test_an_event_carries_its_trace_and_its_correlation_id_to_the_stream(
    environ: Mapping[str, str], otel: Otel
) -> None:
    correlation = uuid4()

    async def main() -> None:
        async with holdfast.connect(environ) as plane:
            otel.watch(plane)

            async def work(connection: Any) -> None:
                await plane.outbox.add(connection, f"agents.state.{correlation}", {"n": 1}, correlation_id=correlation)

            messages = await plane.nc.subscribe(f"agents.state.{correlation}")
            context = TransactionContext(boundary=Boundary.AGENT_TASK, correlation_id=str(correlation))
            with otel.tracer.start_as_current_span("request"):
                await plane.transactions.run(work, context)
            async with plane.relay:
                message = await messages.next_msg(10)
            [transaction] = otel.spans("transaction agent_task")
            [request] = otel.spans("request")
            [published] = otel.spans("publish outbox")
            assert transaction.context is not None
            assert request.context is not None
            assert transaction.parent is not None
            assert transaction.parent.span_id == request.context.span_id
            assert of(transaction, "holdfast.correlation_ids") == (str(correlation),)
            assert of(transaction, "holdfast.attempts") == 1
            headers = dict(message.headers or {})
            trace_id, span_id = f"{transaction.context.trace_id:032x}", f"{transaction.context.span_id:016x}"
            assert headers["traceparent"].startswith(f"00-{trace_id}-{span_id}-")
            assert headers["Holdfast-Correlation-Id"] == str(correlation)
            assert str(correlation) in of(published, "holdfast.correlation_ids")
            assert transaction.context.span_id in {link.context.span_id for link in published.links}
            assert published.kind is trace.SpanKind.PRODUCER

    asyncio.run(main())


@pytest.mark.req("E1.9", "D7.1")
def test_flushes_and_work_have_spans_with_correlation_ids(environ: Mapping[str, str], otel: Otel) -> None:
    correlation, agent_id = uuid4(), uuid4()

    async def main() -> None:
        async with holdfast.connect(environ) as plane, plane.agent(agent_id) as agent:
            otel.watch(plane)
            await agent.put("k", 1, ack="sql", correlation_id=str(correlation))
            step = holdfast.Emit(f"agents.state.{agent_id}", {"n": 1})
            result = await plane.work.run("tell", [step], correlation_id=correlation)
            assert result.is_success, result
            flush = next(
                s for s in otel.spans("flush") if str(correlation) in (of(s, "holdfast.correlation_ids") or ())
            )
            assert of(flush, "db.operation.batch.size") >= 1
            [work] = otel.spans("work tell")
            assert of(work, "holdfast.correlation_ids") == (str(correlation),)
            assert of(work, "holdfast.outcome") == "SUCCESS"

    asyncio.run(main())


@pytest.mark.req("D10.5")
def test_a_failed_span_holds_no_secret(environ: Mapping[str, str], otel: Otel) -> None:
    async def fails(connection: Any) -> None:
        raise ValueError("hunter2")

    async def breaks(connection: Any) -> None:
        await connection.execute("SELECT 'hunter2'::uuid")

    async def main() -> None:
        async with holdfast.connect(environ) as plane:
            otel.watch(plane)
            with pytest.raises(ValueError, match="hunter2"):
                await plane.transactions.run(fails)
            with pytest.raises(HoldfastError):
                await plane.transactions.run(breaks)

    asyncio.run(main())
    spans = otel.spans("transaction single_operation")
    assert [of(span, "error.type") for span in spans] == ["ValueError", "UNKNOWN_FAILURE"]
    assert all(span.status.status_code is trace.StatusCode.ERROR for span in spans)
    assert "hunter2" not in "".join(span.to_json() for span in spans)


@pytest.mark.req("F1.1")
def test_connections_of_a_process_share_instruments_and_leave_nothing_behind(
    environ: Mapping[str, str], otel: Otel
) -> None:
    async def main() -> None:
        async with holdfast.connect(environ) as first, holdfast.connect(environ) as second:
            one, two = otel.watch(first), otel.watch(second)
            with pytest.raises(ConfigurationError, match="already"):
                otel.watch(second)
            await one.sample()
            await two.sample()
            assert len(otel.points("dirty_entries")) == 1  # one plane, the same attributes
            assert "settle" in vars(second.home.flusher)
            await two.close()
            assert "settle" not in vars(second.home.flusher)
            assert type(second.home.flusher) is Flusher
            assert otel.points("dirty_entries")
            assert outbox.trace_headers is not dict
        assert not otel.points("dirty_entries")
        assert one.readings == {}
        assert outbox.trace_headers is dict

    asyncio.run(main())


@pytest.mark.req("E1.9", "F1.1")
def test_a_plane_without_asyncio_is_measured_and_traced(environ: Mapping[str, str], otel: Otel) -> None:
    async def work(connection: Any) -> None:
        await connection.execute("SELECT 1")

    with sync.connect(environ) as plane:
        with pytest.raises(HoldfastError, match=r"has an instrument\(\) of its own"):
            otel.watch(plane.aio)
        assert not telemetry._LIVE
        assert "run" not in vars(plane.aio.transactions)
        measured = plane.instrument(meter_provider=otel.meters, tracer_provider=otel.tracers, interval_s=60)
        measured.sample()
        assert otel.value("kv_entries") > 0
        with otel.tracer.start_as_current_span("request") as request:
            plane.transactions.run(work)
        steps = [holdfast.Emit(f"agents.state.{uuid4()}", {"n": 1})]
        assert plane.work.run("tell", steps).is_success
        [transaction] = otel.spans("transaction single_operation")
        assert transaction.parent is not None
        assert transaction.parent.span_id == request.get_span_context().span_id
        assert otel.spans("work tell")
        measured.close()
        assert "run" not in vars(plane.aio.transactions)


@pytest.mark.req("F1.1")
def test_what_could_not_be_instrumented_can_be_later(
    environ: Mapping[str, str], otel: Otel, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with holdfast.connect(environ, background=False) as plane:
            with monkeypatch.context() as patch:
                patch.setattr(type(plane), "work", property(_refuses))
                with pytest.raises(HoldfastError, match="not now"):
                    otel.watch(plane)
            assert "run" not in vars(plane.transactions)
            await otel.watch(plane).sample()
            assert otel.value("kv_entries") > 0

    asyncio.run(main())


def _refuses(plane: holdfast.Plane) -> None:
    raise HoldfastError("not now")


@pytest.mark.req("F1.1")
def test_nothing_of_opentelemetry_is_imported_unless_it_is_asked_for(environ: Mapping[str, str]) -> None:
    program = (
        "import asyncio, sys, holdfast\n"
        "async def main():\n"
        "    async with holdfast.connect() as plane:\n"
        "        await plane.consistency()\n"
        "asyncio.run(main())\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=dict(environ), capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.req("F1.1")
def test_without_opentelemetry_the_remedy_is_told() -> None:
    program = "import sys; sys.modules['opentelemetry'] = None; import holdfast; import holdfast.telemetry"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "ConfigurationError: OpenTelemetry is not installed: pip install 'holdfast[otel]'" in done.stderr
