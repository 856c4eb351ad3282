"""The health of a plane as this process meets it: database, pools, buckets, JetStream, consistency.

Each check uses what the application uses, so a pool that is all in use fails like the application's next acquire would.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from holdfast.errors import ConnectionFailed, HoldfastError, OperationTimeout
from holdfast.tasks import end

if TYPE_CHECKING:
    from holdfast.contract import BucketSpec
    from holdfast.kv.bucket import Bucket
    from holdfast.kv.link import Link
    from holdfast.plane import Plane
    from holdfast.sql.pool import Pool

_log = logging.getLogger("holdfast.health")
#: What is left of a check's time for the statement where the acquire took nearly all of it.
_LEAST_S: Final = 0.1


class HealthStatus(StrEnum):
    """From best to worst."""

    HEALTHY = "healthy"
    #: It works, and slower or fuller than it should.
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


_ORDER: Final = tuple(HealthStatus)


@dataclass(frozen=True)
class HealthLimits:
    """From when a check is DEGRADED, in milliseconds; ``limit_s`` is how long a check may take, in seconds.

    ``database_ms`` is for ``SELECT 1`` on an open connection, ``pool_ms`` for that and the wait for a connection.
    ``consistency_ms`` None is the plane's consistency_window, 200 ms unless its specs say otherwise.
    """

    database_ms: float = 10.0
    pool_ms: float = 100.0
    bucket_ms: float = 50.0
    jetstream_ms: float = 50.0
    consistency_ms: float | None = None
    limit_s: float = 5.0


@dataclass(frozen=True)
class Check:
    """One part. ``reason`` is a sentence without hosts and secrets, None when healthy.

    ``figures``: of a pool ``query_ms``, ``active``, ``idle``, ``pending``; of a bucket ``entries``, ``bytes``,
    ``ttl_s`` (0: for ever), of JetStream those of the state bucket; of consistency ``p95_ms`` of the last minute's
    flushes here, ``oldest_ms`` (age of the oldest write that the database does not have), ``dirty``, ``parked``,
    ``fullness`` of the journal (0 to 1). What could not be asked is left out.
    """

    name: str
    status: HealthStatus
    took_ms: float
    reason: str | None = None
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class HealthReport:
    """All checks at one moment; ``at`` is seconds since 1970. ``consistency`` is None without a state bucket.

    Only mappings, numbers and text: ``json.dumps(dataclasses.asdict(report))`` is a body for a probe.
    """

    status: HealthStatus
    at: float
    database: Check
    pools: Mapping[str, Check]
    buckets: Mapping[str, Check]
    jetstream: Check
    consistency: Check | None

    @property
    def checks(self) -> tuple[Check, ...]:
        """Every check."""
        last = (self.consistency,) if self.consistency else ()
        return (self.database, *self.pools.values(), *self.buckets.values(), self.jetstream, *last)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it is not healthy, a sentence for each check."""
        return tuple(f"{check.name}: {check.reason}" for check in self.checks if check.reason)


async def health(plane: Plane, limits: HealthLimits | None = None, *, skip: Collection[str] = ()) -> HealthReport:
    """Check everything at once; the status is the worst one. Takes ``limits.limit_s`` at most and raises nothing.

    ``skip`` names pools and buckets that do not matter here, such as a pool whose password this process is not given;
    the primary pool always matters.
    """
    limits = limits or HealthLimits()
    names, is_only = plane.contract.names, len(plane.contract.targets.get("nats", {})) < 2
    pools = [pool for name, pool in plane.pools.named.items() if name not in skip or pool is plane.pools.primary]
    # The connection goes to one target; buckets of another are not to be seen through it.
    seen = [spec for spec in plane.contract.buckets.values() if spec.target == "main" or is_only]
    specs = [spec for spec in seen if spec.name not in skip]
    asked = asyncio.gather(*(_pool(pool, limits) for pool in pools))
    looked = asyncio.gather(*(_bucket(plane, spec, limits) for spec in specs))
    pool_checks, bucket_checks, ping, consistency = await asyncio.gather(
        asked, looked, _ping(plane, limits), _consistency(plane, limits)
    )
    by_pool = {pool.name: check for pool, check in zip(pools, pool_checks, strict=True)}
    by_bucket = {spec.name: check for spec, check in zip(specs, bucket_checks, strict=True)}
    report = HealthReport(
        HealthStatus.HEALTHY,
        time.time(),
        _database(plane.pools.primary, pools, by_pool, limits),
        by_pool,
        by_bucket,
        _jetstream(ping, by_bucket.get(names.state_bucket) if "state_bucket" in names else None),
        consistency,
    )
    return replace(report, status=max((check.status for check in report.checks), key=_ORDER.index))


class HealthMonitor:
    """Checks the plane every ``interval_s`` seconds, and keeps the last ``report``: the result of each pool is in it.

    ``changed(report, before)`` is called when the status of any check is another one than before, and for the first
    report, with None. What it raises is logged. ``limits`` and ``skip`` as of ``health``.
    """

    def __init__(
        self,
        plane: Plane,
        interval_s: float,
        *,
        limits: HealthLimits | None = None,
        skip: Collection[str] = (),
        changed: Callable[[HealthReport, HealthReport | None], object] | None = None,
    ) -> None:
        self._plane, self._interval_s, self._limits, self._skip = plane, interval_s, limits, skip
        self._changed = changed
        self._task: asyncio.Task[None] | None = None
        #: None before the first round has ended.
        self.report: HealthReport | None = None

    def start(self) -> None:
        """Check in the background until ``stop``, or until the plane is closed."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="holdfast health")
            self._plane.keep(self._task)

    async def stop(self) -> None:
        """Let the round at hand end, and check no more; the last report stays."""
        task, self._task = self._task, None
        if task is not None:
            await end(task)

    async def look(self) -> HealthReport:
        """One round now."""
        report, before = await health(self._plane, self._limits, skip=self._skip), self.report
        self.report = report
        if before is None or _statuses(before) != _statuses(report):
            if before is None or before.status is not report.status:
                level = logging.INFO if report.status is HealthStatus.HEALTHY else logging.WARNING
                _log.log(level, "the plane is %s%s", report.status, "".join(f"; {reason}" for reason in report.reasons))
            if self._changed is not None:
                try:
                    self._changed(report, before)
                except Exception:
                    _log.exception("who was told of the plane's health failed")
        return report

    async def _run(self) -> None:
        from holdfast.kv.link import finish

        while True:
            try:
                await finish(self.look())  # to cut a check off costs connections
            except Exception:
                _log.exception("the health of the plane could not be checked, and is tried again")
            await asyncio.sleep(self._interval_s)


def _statuses(report: HealthReport) -> dict[str, HealthStatus]:
    return {check.name: check.status for check in report.checks}


def _judged(name: str, took_ms: float, limit_ms: float, what: str, figures: Mapping[str, float]) -> Check:
    """Healthy, or degraded for its time."""
    if took_ms <= limit_ms:
        return Check(name, HealthStatus.HEALTHY, took_ms, None, figures)
    reason = f"{what} took {took_ms:.0f} ms, more than {limit_ms:g} ms"
    return Check(name, HealthStatus.DEGRADED, took_ms, reason, figures)


def _failed(name: str, started: float, error: HoldfastError) -> Check:
    return Check(name, HealthStatus.UNHEALTHY, _since_ms(started), str(error))


def _since_ms(started: float) -> float:
    return (time.perf_counter() - started) * 1000


# Database ------------------------------------------------------------------------------------------------------


async def _pool(pool: Pool, limits: HealthLimits) -> Check:
    """Borrow a connection as everybody does and ask the server something."""
    name, started = f"pool {pool.name}", time.perf_counter()
    try:
        async with pool.connection(limits.limit_s) as connection:
            asked = time.perf_counter()
            connection.limit_s = max(limits.limit_s - (asked - started), _LEAST_S)
            await connection.execute("SELECT 1")
            query_ms, took_ms = _since_ms(asked), _since_ms(started)
    except HoldfastError as error:
        return _failed(name, started, error)
    now = pool.metrics()
    figures = {"query_ms": query_ms, "active": now.active, "idle": now.idle, "pending": now.pending_acquisitions}
    return _judged(name, took_ms, limits.pool_ms, "a connection and SELECT 1", figures)


def _database(primary: Pool, pools: Collection[Pool], checks: Mapping[str, Check], limits: HealthLimits) -> Check:
    """The fastest answer that some pool got from the primary: a pool that is full says nothing of the server."""
    of_primary = [p for p in pools if p.source.writes and p.spec.target == primary.spec.target]
    answers = [figures["query_ms"] for p in of_primary if "query_ms" in (figures := checks[p.name].figures)]
    if not answers:
        check = checks[primary.name]
        return Check("database", HealthStatus.UNHEALTHY, check.took_ms, check.reason)
    return _judged("database", min(answers), limits.database_ms, "SELECT 1", {})


# NATS ----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _asking(plane: Plane, limit_s: float) -> AsyncIterator[None]:
    """Bound a question to NATS; without a connection it fails at once rather than waiting for one."""
    from holdfast.kv.link import Silence

    if not plane.nc.is_connected:
        raise ConnectionFailed("NATS cannot be reached")
    try:
        async with asyncio.timeout(limit_s):
            yield
    except (TimeoutError, Silence) as error:
        raise OperationTimeout(f"NATS did not answer within {limit_s:g} s", driver_error=error) from None


async def _let_go(asked: Link | Bucket) -> None:
    """Stop hearing answers; nothing hangs on it."""
    with contextlib.suppress(Exception):
        await asked.close()


async def _ping(plane: Plane, limits: HealthLimits) -> Check:
    from holdfast.kv.link import Link

    link, started = Link(plane.nc), time.perf_counter()
    try:
        async with _asking(plane, limits.limit_s):
            await link.ping(limits.limit_s)
            took_ms = _since_ms(started)
    except HoldfastError as error:
        return _failed("jetstream", started, error)
    finally:
        await _let_go(link)
    return _judged("jetstream", took_ms, limits.jetstream_ms, "a ping", {})


def _jetstream(ping: Check, bucket: Check | None) -> Check:
    """JetStream is well when NATS answers and the state bucket does."""
    if bucket is None or ping.status is HealthStatus.UNHEALTHY:
        return ping
    if bucket.status is HealthStatus.UNHEALTHY:
        return Check("jetstream", bucket.status, ping.took_ms, bucket.reason)
    return Check("jetstream", ping.status, ping.took_ms, ping.reason, bucket.figures)


async def _bucket(plane: Plane, spec: BucketSpec, limits: HealthLimits) -> Check:
    from holdfast.kv.bucket import Bucket

    name, started = f"bucket {spec.name}", time.perf_counter()
    bucket = Bucket(plane.nc, spec, timeout_s=limits.limit_s)
    try:
        async with _asking(plane, limits.limit_s):
            info = await bucket.state(is_patient=False)
            took_ms = _since_ms(started)
    except HoldfastError as error:
        return _failed(name, started, error)
    finally:
        await _let_go(bucket)
    state = info["state"]
    figures = {
        "entries": int(state.get("num_subjects", 0)),
        "bytes": int(state["bytes"]),
        "ttl_s": int(info["config"].get("max_age", 0)) / 1e9,
    }
    return _judged(name, took_ms, limits.bucket_ms, "its description", figures)


# Consistency ---------------------------------------------------------------------------------------------------


async def _consistency(plane: Plane, limits: HealthLimits) -> Check | None:
    """How far the database is behind. Counting rows takes too long here: ``plane.consistency()`` does."""
    from holdfast.state.lag import REFUSE_FROM, SLOW_FROM, lag_ms

    if "state_bucket" not in plane.contract.names:
        return None
    started, home = time.perf_counter(), plane.home
    if home.bucket.missing is not None:
        return _failed("consistency", started, home.bucket.went_back())
    window_ms = plane.contract.limits.consistency_window * 1000
    limit_ms = window_ms if limits.consistency_ms is None else limits.consistency_ms
    try:
        async with _asking(plane, limits.limit_s):
            look = await home.journal.look()
            oldest_ms = lag_ms(look)
            if oldest_ms > limit_ms:  # perhaps only a lease, which the database never gets
                oldest_ms = lag_ms(replace(look, oldest_ns=await home.journal.oldest_ns()))
    except HoldfastError as error:
        return _failed("consistency", started, error)
    took_ms = _since_ms(started)
    flusher = home.flusher
    p95_ms = flusher.stats.lag_ms.percentile(0.95) if flusher else 0.0
    parked = len(flusher.parked) if flusher else 0
    reasons = []
    if look.fullness >= SLOW_FROM:
        reasons.append(f"the journal is {look.fullness:.0%} full")
    if look.bucket_fullness >= REFUSE_FROM:
        reasons.append(f"the bucket of state is {look.bucket_fullness:.0%} full")
    if oldest_ms > limit_ms:
        # The worst case: what is not flushed at all is in no percentile.
        reasons.append(f"the database lacks a write that is {oldest_ms:.0f} ms old, more than {limit_ms:g} ms")
    if p95_ms > limit_ms:
        reasons.append(f"writes reached the database after {p95_ms:.0f} ms (p95), more than {limit_ms:g} ms")
    if flusher and flusher.trouble is not None:
        reasons.append(f"the flusher waits: {flusher.trouble}")
    if parked:
        reasons.append(f"the database refuses {parked} values for what they are")
    if home.stranded:
        reasons.append(f"{len(home.stranded)} acknowledged writes were lost with a bucket")
    figures = {
        "p95_ms": p95_ms,
        "oldest_ms": oldest_ms,
        "dirty": look.messages + look.unsourced,
        "parked": parked,
        "fullness": look.fullness,
    }
    status = HealthStatus.DEGRADED if reasons else HealthStatus.HEALTHY
    if max(look.fullness, look.bucket_fullness) >= REFUSE_FROM:
        status = HealthStatus.UNHEALTHY  # writes are refused
    return Check("consistency", status, took_ms, "; ".join(reasons) or None, figures)
