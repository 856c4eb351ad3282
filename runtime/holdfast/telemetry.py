"""OpenTelemetry for a plane (extra ``otel``): metrics of what it counts, spans of what takes time.

Nothing of this is imported or called unless ``instrument`` was. Spans are put around methods of the plane's own
objects, so reading and writing state costs what it costs without.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple
from uuid import uuid4
from weakref import WeakKeyDictionary

from holdfast import __version__
from holdfast.errors import ConfigurationError, HoldfastError
from holdfast.events import outbox
from holdfast.kv.entry import CORRELATION
from holdfast.tasks import end

try:
    from opentelemetry import metrics, trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:
    raise ConfigurationError("OpenTelemetry is not installed: pip install 'holdfast[otel]'") from None

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
    from opentelemetry.trace import Span, TracerProvider

    from holdfast.plane import Plane

_log = logging.getLogger("holdfast.telemetry")
_W3C: Final = TraceContextTextMapPropagator()
#: Correlation ids and links on one span.
_MOST: Final = 100
_BREAKER: Final = {"closed": 0, "half-open": 1, "open": 2}


class _Metric(NamedTuple):
    name: str
    kind: Literal["counter", "gauge", "up_down_counter"]
    unit: str
    description: str


_COUNT: Final = "db.client.connection.count"
_STATE: Final = "db.client.connection.state"
_POOL: Final = "db.client.connection.pool.name"
#: Names of OpenTelemetry's conventions for database clients where there are any; ours are below ``holdfast.``, and
#: consistency has the names of its requirement.
METRICS: Final = (
    _Metric(_COUNT, "up_down_counter", "{connection}", "Open connections by state, used or idle"),
    _Metric("db.client.connection.max", "up_down_counter", "{connection}", "Connections that the pool may open"),
    _Metric("db.client.connection.pending_requests", "up_down_counter", "{request}", "Who waits for a connection"),
    _Metric("holdfast.pool.acquisition_time_p95", "gauge", "s", "Wait for a connection in the last minute"),
    _Metric("holdfast.pool.connection_errors", "counter", "{error}", "Connections that failed or could not be made"),
    _Metric("holdfast.pool.health_check_success_rate", "gauge", "1", "Of the last minute"),
    _Metric("holdfast.pool.last_health_check", "gauge", "s", "When, since 1970"),
    _Metric("holdfast.pool.leaks", "counter", "{connection}", "Connections that were not given back in time"),
    _Metric("holdfast.pool.slow_statements", "counter", "{statement}", "Slower than the pool's threshold"),
    _Metric("holdfast.pool.breaker_state", "gauge", "1", "0 closed, 1 half open, 2 open"),
    _Metric("holdfast.pool.breaker_opened", "counter", "{time}", "How often the breaker opened"),
    _Metric("holdfast.pool.replica_lag", "gauge", "s", "How far a standby is behind"),
    _Metric("consistency_lag_ms", "gauge", "ms", "Age of an agent's oldest write that the database lacks; the worst"),
    _Metric("consistency_violations", "counter", "{violation}", "Agents found behind by more than the window"),
    _Metric("consistency_window_p95", "gauge", "ms", "Age of a write when it is committed, in the last minute"),
    _Metric("holdfast.consistency.oldest_write", "gauge", "ms", "Age of the oldest write that the database lacks"),
    _Metric("dirty_entries", "gauge", "{entry}", "Writes that the database does not have"),
    _Metric("kv_entries", "gauge", "{entry}", "Keys of the state bucket"),
    _Metric("holdfast.journal.fullness", "gauge", "1", "1: no write is taken any more"),
    _Metric("holdfast.flush.written", "counter", "{row}", "Rows that were flushed"),
    _Metric("holdfast.flush.failures", "counter", "{batch}", "Batches that have to be tried again"),
    _Metric("holdfast.flush.parked", "gauge", "{row}", "Values that the database refuses for what they are"),
    _Metric("holdfast.outbox.backlog", "gauge", "{event}", "Events that are not published yet, 10,000 at most"),
    _Metric("holdfast.outbox.oldest", "gauge", "s", "Age of the oldest of them"),
    _Metric("holdfast.outbox.held", "gauge", "{event}", "Events that wait for an older transaction"),
    _Metric("holdfast.outbox.published", "counter", "{event}", "Events that this relay published"),
    _Metric("holdfast.outbox.duplicates", "counter", "{event}", "Events that had been published before"),
    _Metric("holdfast.outbox.failures", "counter", "{batch}", "Batches that have to be tried again"),
    _Metric("holdfast.work.unfinished", "gauge", "{saga}", "Sagas that have not ended"),
    _Metric("holdfast.work.oldest", "gauge", "s", "Age of the oldest of them"),
)

Readings = dict[str, list[tuple[float, Mapping[str, str]]]]


def instrument(
    plane: Plane,
    *,
    meter_provider: MeterProvider | None = None,
    tracer_provider: TracerProvider | None = None,
    interval_s: float = 10.0,
    agents: int = 20,
) -> Telemetry:
    """Measure and trace a plane until it is closed, or ``Telemetry.close``. The providers are the global ones.

    Metrics are read every ``interval_s`` seconds, so that an exporter's thread finds them ready. ``agents``: how many
    of the agents that lag most have a ``consistency_lag_ms`` of their own at one time; 0 for none.

    Spans: each flush, transaction of ``plane.transactions``, piece of ``plane.work`` and published batch, with the
    correlation ids of what is in them. An event noted while a span is active carries it as ``traceparent``
    (https://www.w3.org/TR/trace-context/), and the batch that publishes it has a link to it. Raises
    ConfigurationError for a plane that is instrumented already; HoldfastError outside of its event loop.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise HoldfastError(
            "call instrument in the plane's event loop; a plane of holdfast.sync has an instrument() of its own"
        ) from None
    if id(plane) in _LIVE:
        raise ConfigurationError("the plane is instrumented already: close that telemetry first")
    return Telemetry(
        plane,
        _board(meter_provider or metrics.get_meter_provider()),
        (tracer_provider or trace.get_tracer_provider()).get_tracer("holdfast", __version__),
        interval_s,
        agents,
    )


class _Board:
    """The instruments of one meter provider, which takes each name once, and the planes that they tell of."""

    def __init__(self, provider: MeterProvider) -> None:
        meter = provider.get_meter("holdfast", __version__)
        self.planes: list[Telemetry] = []
        self.flush_duration = meter.create_histogram("flush_duration_ms", "ms", "How long a flush took")
        for metric in METRICS:
            create = getattr(meter, f"create_observable_{metric.kind}")
            create(metric.name, [partial(self._observe, metric.name)], metric.unit, metric.description)

    def _observe(self, name: str, options: CallbackOptions) -> Iterable[Observation]:
        found = (reading for plane in tuple(self.planes) for reading in plane.readings.get(name, ()))
        return [metrics.Observation(value, attributes) for value, attributes in found]


_BOARDS: WeakKeyDictionary[MeterProvider, _Board] = WeakKeyDictionary()
#: The planes that are instrumented, by ``id``.
_LIVE: set[int] = set()


def _board(provider: MeterProvider) -> _Board:
    if provider not in _BOARDS:
        _BOARDS[provider] = _Board(provider)
    return _BOARDS[provider]


class Telemetry:
    """Made by ``instrument``. ``readings`` are the last ones: by metric, values with their attributes."""

    def __init__(self, plane: Plane, board: _Board, tracer: trace.Tracer, interval_s: float, agents: int) -> None:
        self._plane, self._board, self._tracer = plane, board, tracer
        self._interval_s, self._agents = interval_s, agents
        self._labels = {"holdfast.plane": plane.contract.plane, "holdfast.env": plane.contract.env}
        self._undo: list[Callable[[], None]] = []
        self.readings: Readings = {}
        try:
            self._trace_all()
        except BaseException:
            self._untrace()
            raise
        board.planes.append(self)
        _LIVE.add(id(plane))
        outbox.trace_headers = _trace_headers
        self._task = asyncio.create_task(self._run(), name="holdfast telemetry")
        self._task.add_done_callback(lambda _: self._let_go())
        plane.keep(self._task)

    async def close(self) -> None:
        """Measure and trace no more."""
        await end(self._task)

    async def sample(self) -> None:
        """Read all metrics now. What cannot be asked has none until it answers again."""
        found: Readings = {}
        self._read_pools(found)
        for part in (self._read_state, self._read_outbox, self._read_work):
            try:
                await part(found)
            except HoldfastError as error:
                _log.info("some metrics cannot be read now: %s", error)
        self.readings = found

    async def _run(self) -> None:
        while True:
            try:
                await self.sample()
            except Exception:
                _log.exception("the metrics of the plane could not be read, and are tried again")
            await asyncio.sleep(self._interval_s)

    def _untrace(self) -> None:
        for undo in reversed(self._undo):
            undo()
        self._undo.clear()

    def _let_go(self) -> None:
        self._untrace()
        self.readings = {}
        self._board.planes.remove(self)
        _LIVE.discard(id(self._plane))
        if not _LIVE:
            outbox.trace_headers = dict

    # Metrics -------------------------------------------------------------------------------------------------

    def _note(self, found: Readings, values: Mapping[str, float | None], **labels: str) -> None:
        """Add what is known, under this plane's labels and ``labels``."""
        given = self._labels | labels
        for name, value in values.items():
            if value is not None:
                found.setdefault(name, []).append((value, given))

    def _read_pools(self, found: Readings) -> None:
        for pool in self._plane.pools.metrics():
            of_pool = {_POOL: pool.pool_name}
            for count, state in ((pool.active, "used"), (pool.idle, "idle")):
                self._note(found, {_COUNT: count}, **of_pool, **{_STATE: state})
            values: dict[str, float | None] = {
                "db.client.connection.max": self._plane.pools.named[pool.pool_name].spec.max,
                "db.client.connection.pending_requests": pool.pending_acquisitions,
                "holdfast.pool.acquisition_time_p95": pool.acquisition_time_p95,
                "holdfast.pool.connection_errors": pool.connection_errors,
                "holdfast.pool.health_check_success_rate": pool.health_check_success_rate,
                "holdfast.pool.last_health_check": pool.last_health_check,
                "holdfast.pool.leaks": pool.leaks,
                "holdfast.pool.slow_statements": pool.slow_statements,
                "holdfast.pool.breaker_state": _BREAKER[pool.breaker],
                "holdfast.pool.breaker_opened": pool.times_opened,
                "holdfast.pool.replica_lag": pool.lag_s,
            }
            self._note(found, values, **of_pool)

    async def _read_state(self, found: Readings) -> None:
        if "state_bucket" not in self._plane.contract.names:
            return
        from holdfast.state.lag import lag_ms

        home, monitor = self._plane.home, self._plane.monitor
        look = await home.journal.look()
        lags = await monitor.lags(look) if look.messages and self._agents else {}
        state = (await home.bucket.state())["state"]
        worst = sorted(lags.items(), key=lambda item: -item[1])[: self._agents]
        for agent_id, lag in worst:
            self._note(found, {"consistency_lag_ms": lag}, agent=str(agent_id))
        values: dict[str, float | None] = {
            "consistency_violations": monitor.violations,
            "holdfast.consistency.oldest_write": lag_ms(look),
            "dirty_entries": look.messages + look.unsourced,
            "kv_entries": int(state.get("num_subjects", 0)),
            "holdfast.journal.fullness": look.fullness,
        }
        if home.flusher is not None:
            stats = home.flusher.stats
            values |= {
                "consistency_window_p95": stats.lag_ms.percentile(0.95),
                "holdfast.flush.written": stats.written,
                "holdfast.flush.failures": stats.failures,
                "holdfast.flush.parked": len(home.flusher.parked),
            }
        self._note(found, values)

    async def _read_outbox(self, found: Readings) -> None:
        if "outbox_table" not in self._plane.contract.names:
            return
        status = await self._plane.relay.status()
        self._note(
            found,
            {
                "holdfast.outbox.backlog": status.waiting,
                "holdfast.outbox.oldest": status.oldest_s,
                "holdfast.outbox.held": status.held,
                "holdfast.outbox.published": status.published,
                "holdfast.outbox.duplicates": status.duplicates,
                "holdfast.outbox.failures": status.failures,
            },
        )

    async def _read_work(self, found: Readings) -> None:
        if "saga_table" not in self._plane.contract.names:
            return
        from holdfast.work.recoverer import unfinished

        work = await unfinished(self._plane.pools.background, self._plane.contract)
        self._note(found, {"holdfast.work.unfinished": work["sagas"], "holdfast.work.oldest": work["oldest_s"]})

    # Spans ---------------------------------------------------------------------------------------------------

    def _trace_all(self) -> None:
        plane = self._plane
        self._wrap(plane.transactions, "run", self._transaction)
        if "state_bucket" in plane.contract.names and plane.home.flusher is not None:
            self._wrap(plane.home.flusher, "settle", self._flush)
        if "outbox_table" in plane.contract.names:
            self._wrap(plane.relay.publisher, "publish", self._publish)
        with contextlib.suppress(ConfigurationError):  # a plane without tables for it
            self._wrap(plane.work, "run", self._work)

    def _wrap(self, owner: object, name: str, around: Callable[..., Awaitable[Any]]) -> None:
        """Let one object's method go through ``around``, which is given the method first."""
        before = vars(owner).get(name)
        setattr(owner, name, partial(around, getattr(owner, name)))
        self._undo.append(partial(setattr, owner, name, before) if before else partial(delattr, owner, name))

    @contextmanager
    def _span(
        self, name: str, attributes: Mapping[str, Any], correlation_ids: Iterable[str | None] = (), **options: Any
    ) -> Iterator[Span]:
        """An active span. Of an error it keeps code and message if it is ours, which hold no secret, else the type."""
        ids = sorted({text for text in correlation_ids if text})[:_MOST]
        given = {**self._labels, **attributes, **({"holdfast.correlation_ids": ids} if ids else {})}
        options |= {"record_exception": False, "set_status_on_exception": False}
        with self._tracer.start_as_current_span(name, attributes=given, **options) as span:
            try:
                yield span
            except Exception as error:
                is_ours = isinstance(error, HoldfastError)
                span.set_attribute(
                    "error.type", error.code if isinstance(error, HoldfastError) else type(error).__name__
                )
                span.set_status(trace.StatusCode.ERROR, str(error) if is_ours else None)
                raise

    async def _flush(self, settle: Callable[..., Awaitable[None]], batch: Sequence[Any]) -> None:
        ids = (held.change.correlation_id for held in batch)
        started = time.perf_counter()
        with self._span("flush", {"db.operation.batch.size": len(batch)}, ids):
            await settle(batch)
        self._board.flush_duration.record((time.perf_counter() - started) * 1000, self._labels)

    async def _transaction(self, run: Callable[..., Awaitable[Any]], work: Any, context: Any = None) -> Any:
        from holdfast.sql.transactions import SINGLE, choose_isolation

        context = context or SINGLE
        attributes = {
            "db.system.name": "postgresql",
            "holdfast.boundary": context.boundary.value,
            "holdfast.isolation": choose_isolation(context).value,
            **({"holdfast.agent_id": str(context.agent_id)} if context.agent_id else {}),
        }
        attempts = 0

        async def counted(connection: Any) -> Any:
            nonlocal attempts
            attempts += 1
            return await work(connection)

        with self._span(f"transaction {context.boundary.value}", attributes, [context.correlation_id]) as span:
            try:
                return await run(counted, context)
            finally:
                span.set_attribute("holdfast.attempts", attempts)

    async def _work(self, run: Callable[..., Awaitable[Any]], name: str, steps: Sequence[Any], **options: Any) -> Any:
        options["correlation_id"] = options.get("correlation_id") or uuid4()
        attributes = {"holdfast.work": name, "holdfast.steps": len(steps)}
        with self._span(f"work {name}", attributes, [str(options["correlation_id"])]) as span:
            result = await run(name, steps, **options)
            span.set_attribute("holdfast.work_id", result.work_id)
            span.set_attribute("holdfast.outcome", result.outcome.value)
            if not result.is_success:
                span.set_status(trace.StatusCode.ERROR, result.reason)
            return result

    async def _publish(self, publish: Callable[..., Awaitable[Any]], rows: Sequence[Any], *skipped: Any) -> Any:
        if not rows:
            return await publish(rows, *skipped)
        attributes = {
            "messaging.system": "nats",
            "messaging.operation.type": "send",
            "messaging.operation.name": "publish",
            "messaging.batch.message_count": len(rows),
        }
        ids = (row.headers.get(CORRELATION) for row in rows)
        options = {"kind": trace.SpanKind.PRODUCER, "links": _links(row.headers for row in rows)}
        with self._span("publish outbox", attributes, ids, **options) as span:
            report = await publish(rows, *skipped)
            span.set_attribute("holdfast.published", len(report.done))
            if report.down:
                span.set_status(trace.StatusCode.ERROR, "; ".join(str(error) for error in report.down.values()))
            return report


def _trace_headers() -> Mapping[str, str]:
    """The W3C headers of the active span, none where there is none."""
    headers: dict[str, str] = {}
    _W3C.inject(headers)
    return headers


def _links(headers: Iterable[Mapping[str, str]]) -> list[trace.Link]:
    """One to each trace that noted an event."""
    found: dict[int, trace.Link] = {}
    for given in headers:
        if "traceparent" in given and len(found) < _MOST:
            context = trace.get_current_span(_W3C.extract(given)).get_span_context()
            if context.is_valid:
                found[context.span_id] = trace.Link(context)
    return list(found.values())
