"""All pools of a plane: primary, replicas, background, analytics, watched once a second.

A failed primary is replaced by the promoted one, pools that recovered come back by themselves, and reads go to standbys
that are healthy and, on demand, have seen one's own writes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from types import MappingProxyType, TracebackType
from typing import Any, Final, Self

from holdfast.contract import Contract, PoolSpec
from holdfast.errors import ConfigurationError, ConnectionFailed, OperationTimeout, PoolExhausted
from holdfast.settings import Settings
from holdfast.sql.endpoints import PRIMARY, Place, Reach
from holdfast.sql.metrics import Health, Lag, PoolMetrics
from holdfast.sql.pool import Pool
from holdfast.sql.primary import Primary
from holdfast.sql.sources import Dialler, Nowhere, Source, ToAny, ToPrimary, prober
from holdfast.tasks import end, together

_LOG = logging.getLogger("holdfast.pools")
#: Pools whose name begins with this serve reads that may lag.
REPLICA: Final = "replica"
#: Every so many rounds of the watch: look for a promotion, adapt sizes.
_LOOK_EVERY, _ADAPT_EVERY = 5, 10
#: When the other pools are looked at first: whoever connects is not to wait for their logins, too.
_FIRST_S: Final = 0.05
#: How long a patient start waits for the first connection.
_PATIENCE_S: Final = 3.0


class Pools:
    """The pools of a plane. ``await Pools.open(…)``; ``await pools.close()``, or ``async with``. For one event loop."""

    def __init__(self, contract: Contract, settings: Settings, *, interval_s: float = 1.0, max_lag_s: float = 30.0):
        self._contract, self._settings = contract, settings
        self._interval_s, self._max_lag_s = interval_s, max_lag_s
        self._reach = Reach(contract, settings)
        #: By target and the ways to it: a pool with a pooler of its own has another than the rest.
        self._primaries: dict[tuple[str, tuple[Place, ...]], Primary] = {}
        self._lag = Lag()
        self._turn = 0
        self._watching: asyncio.Task[None] | None = None
        named: dict[str, Pool] = {}
        readers: list[Pool] = []
        for name, declared in contract.pools.items():
            made = self._make(name, settings.sized(declared), len(readers))
            named |= {pool.name: pool for pool in made}
            if name.startswith(REPLICA):
                readers += made
        #: Every pool by its name; the members of the read pool are replica_0, replica_1, …
        self.named: Mapping[str, Pool] = MappingProxyType(named)
        self._readers = tuple(readers)

    @classmethod
    async def open(
        cls,
        contract: Contract,
        settings: Settings,
        *,
        interval_s: float = 1.0,
        max_lag_s: float = 30.0,
        is_patient: bool = False,
    ) -> Pools:
        """Connect to the primary, then watch all pools every ``interval_s`` seconds.

        Standbys that are more than ``max_lag_s`` behind get no reads. ``is_patient`` opens the pools of a primary that
        cannot be reached at the moment, too. Raises ConfigurationError, and
        ConnectionFailed or OperationTimeout where no primary can be reached.
        """
        pools = cls(contract, settings, interval_s=interval_s, max_lag_s=max_lag_s)
        try:
            async with pools.primary.connection(_PATIENCE_S if is_patient else None):
                pass
        except (ConnectionFailed, OperationTimeout, PoolExhausted) as error:
            if not is_patient:
                await pools.close()
                raise
            _LOG.warning("the database is not there yet: %s", error)
        except BaseException:
            await pools.close()
            raise
        pools._watching = asyncio.create_task(pools._watch(), name="holdfast-pools")
        return pools

    def _make(self, name: str, spec: PoolSpec, replicas: int) -> list[Pool]:
        try:
            places = self._reach.places(spec)
        except ConfigurationError as reason:
            if spec.endpoint == PRIMARY:
                raise
            return [Pool(name, spec, Nowhere(reason))]
        dialler = Dialler(spec, self._reach, float(self._settings.connect_timeout_s))
        if spec.endpoint == PRIMARY:
            primary = self._primaries.setdefault((spec.target, places), Primary(places, prober(dialler)))
            source: Source = ToPrimary(dialler, primary)
            return [Pool(f"{REPLICA}_{replicas}" if name.startswith(REPLICA) else name, spec, source)]
        if not name.startswith(REPLICA):
            return [_settled(name, spec, dialler, places)]
        return [_settled(f"{REPLICA}_{replicas + i}", spec, dialler, (place,)) for i, place in enumerate(places)]

    # For users ---------------------------------------------------------------------------------------------

    @property
    def primary(self) -> Pool:
        """Writes, and reads that must see them."""
        return self._named("primary")

    @property
    def background(self) -> Pool:
        """Flushing, clean-up, relay; the primary pool where the plane declares none."""
        return self.named.get("background") or self.primary

    @property
    def analytics(self) -> Pool:
        """Reporting."""
        return self._named("analytics")

    def read(self, after_lsn: int | None = None) -> Pool:
        """The next healthy replica in turn, or the primary when there is none.

        With ``after_lsn`` (``position`` gave it after a write) only a replica that has replayed so far. What is
        known of replicas is a second old at most, so shortly after a write the answer is the primary.
        """
        for step in range(len(self._readers)):
            pool = self._readers[(self._turn + step) % len(self._readers)]
            if self._may_read(pool, after_lsn):
                self._turn = (self._turn + step + 1) % len(self._readers)
                return pool
        return self.primary

    def _may_read(self, pool: Pool, after_lsn: int | None) -> bool:
        if not pool.health.healthy or pool.breaker.state == "open":
            return False
        standing = pool.standing
        if standing is None:
            return False
        if pool.source.writes:
            return True  # It follows the primary itself.
        if not standing.is_standby and (standing.timeline or 0) < self._timeline(pool):
            return False
        if (pool.lag_s or 0.0) > self._max_lag_s:
            return False
        return after_lsn is None or standing.lsn >= after_lsn

    def _timeline(self, pool: Pool) -> int:
        found = (p.timeline for (target, _), p in self._primaries.items() if target == pool.spec.target)
        return max(found, default=0)

    async def position(self) -> int:
        """The log position of the primary now: everything committed before this call lies below it.

        It serves ``read(after_lsn=…)``. Raises HoldfastError.
        """
        async with self.primary.connection() as connection:
            cursor = await connection.execute("SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::int8")
            row = await cursor.fetchone()
        return int(row[0]) if row else 0

    def metrics(self) -> list[PoolMetrics]:
        """Figures of every pool."""
        return [pool.metrics() for pool in self.named.values()]

    async def check(self) -> list[Health]:
        """Ask every server now."""
        checked = await together(pool.check() for pool in self.named.values())
        self._measure_lag()
        return checked

    def _named(self, name: str) -> Pool:
        found = self.named.get(name)
        if found is None:
            raise ConfigurationError(f"the plane declares no pool {name}; it has {', '.join(self.named) or 'none'}")
        return found

    # Watch -------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Check, measure and keep up all pools until closed."""
        rounds = 0
        await asyncio.sleep(min(_FIRST_S, self._interval_s))
        while True:
            try:
                await self._round(rounds)
            except Exception:
                _LOG.exception("the watch over the pools failed and goes on")
            rounds += 1
            await asyncio.sleep(self._interval_s)

    async def _round(self, rounds: int) -> None:
        if rounds % _LOOK_EVERY == 0:
            await together(p.look() for p in self._primaries.values() if len(p.places) > 1)
        before = {name: pool.health.healthy for name, pool in self.named.items()}
        for health in await self.check():
            if health.healthy != before[health.name]:
                _LOG.warning("pool %s %s", health.name, "is well again" if health.healthy else f"fails: {health.error}")
        await together(pool.maintain() for pool in self.named.values())
        if rounds % _ADAPT_EVERY == _ADAPT_EVERY - 1:
            for pool in self.named.values():
                pool.adapt()

    def _measure_lag(self) -> None:
        """Hold standbys against where the primary was; a primary that does not answer makes no one late."""
        primary = self.named.get("primary")
        if primary and primary.health.healthy and primary.standing:
            self._lag.written(primary.standing.lsn)
        for pool in self._readers:
            is_standby = pool.standing is not None and pool.standing.is_standby
            pool.lag_s = self._lag.of(pool.standing.lsn) if is_standby and pool.standing else None

    # Life --------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Stop the watch and close all pools; connections in use are closed as they come back."""
        if self._watching is not None:
            await end(self._watching)
            self._watching = None
        await asyncio.gather(*(pool.close() for pool in self.named.values()))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _settled(name: str, spec: PoolSpec, dialler: Dialler, places: Any) -> Pool:
    """A pool whose servers stay the same. What was known of one says nothing of the one connected to next."""

    def forget() -> None:
        pool.standing = None

    pool = Pool(name, spec, ToAny(dialler, places, forget))
    return pool
