"""Watches how far the database is behind, sees to what lags, and looks after the handles of this process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from holdfast.errors import HoldfastError, NotFound
from holdfast.events.limited import limited
from holdfast.events.outbox import qualified
from holdfast.state.flush_sql import Change, newest
from holdfast.state.lag import Consistency, lag_ms
from holdfast.state.rebuilt import change_of

if TYPE_CHECKING:
    from holdfast.kv.entry import Position
    from holdfast.state.agent import AgentState
    from holdfast.state.home import Home
    from holdfast.state.journal import Look

_log = logging.getLogger("holdfast.state")
_PERIOD_S: Final = 0.5
_COUNT_S: Final = 20.0
#: Asking to flush comes first; what lags for so long still is written past the journal.
_REPAIR_S: Final = 5.0
_AGENTS: Final = 100

Handles = Callable[[], Collection["AgentState[Any]"]]
#: The open handle that owns an agent, or None.
Owner = Callable[[UUID], "AgentState[Any] | None"]


class Monitor:
    """One for each plane of a process."""

    def __init__(self, home: Home, handles: Handles, owner: Owner) -> None:
        self._home = home
        self._handles = handles
        self._owner = owner
        self._behind_since: dict[UUID, float] = {}
        self.violations = 0
        self.repaired = 0

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            try:
                await self._round()
            except HoldfastError as error:
                _log.info("the consistency of the plane could not be looked at: %s", error)
            except Exception:
                _log.exception("the watch over the plane failed and goes on")
            await asyncio.sleep(_PERIOD_S)

    async def _round(self) -> None:
        home = self._home
        before_ns, highest = time.time_ns(), home.bucket.highest
        try:
            look = await home.journal.look()
        except NotFound:
            await self._hand_over()
            raise
        home.pressure.note(look)
        if home.flusher is not None:
            home.flusher.offset_ns = look.now_ns - (before_ns + time.time_ns()) // 2
        if look.bucket_created_ns != home.bucket.incarnation or look.bucket_last < highest:
            await home.bucket.refresh_incarnation()
        await asyncio.gather(*(handle.look_after() for handle in tuple(self._handles()) if handle.needs_care()))
        if lag_ms(look) > home.contract.limits.consistency_window * 1000:
            await self._see_to(await self.lags(look))
        else:
            self._behind_since.clear()

    async def _see_to(self, lags: Mapping[UUID, float]) -> None:
        """Count agents that are too far behind, have them flushed, and write past the journal what stays behind."""
        window_ms = self._home.contract.limits.consistency_window * 1000
        late = {agent_id for agent_id, lag in lags.items() if lag > window_ms}
        self.violations += len(late)
        now = time.monotonic()
        self._behind_since = {agent_id: self._behind_since.get(agent_id, now) for agent_id in late}
        if late and self._home.flusher is not None:
            self._home.flusher.ask()
        for agent_id, since in tuple(self._behind_since.items()):
            if now - since > _REPAIR_S and not (self._home.flusher and self._home.flusher.trouble):
                self._behind_since[agent_id] = now  # what cannot be repaired is not tried all the time
                with contextlib.suppress(HoldfastError):
                    await self.repair(agent_id)

    async def repair(self, agent_id: UUID) -> int:
        """Write what bucket and journal have of an agent to the database. Returns how many rows were looked at.

        The journal's messages stay where they are; when they come, the rows are newer already.
        """
        home = self._home
        changes = await home.journal.unflushed(agent_id, home.bucket.incarnation)
        async for entry in home.bucket.entries(f"{agent_id}.state.>"):
            change = change_of(entry)
            if change is not None:
                changes.append(change)
        rows = await self._write(changes)
        self.repaired += 1
        return rows

    async def _hand_over(self) -> None:
        """The bucket is gone, perhaps for longer than a lease lasts: meanwhile the database gets what it lacks.

        Later would be too late: the next owner would have read the rows by then.
        """
        held = [handle for handle in self._handles() if handle.owned and handle.lease.held]
        await self._write([change for handle in held for change in handle.unflushed_changes()])

    async def _write(self, changes: Sequence[Change]) -> int:
        """Write changes past the journal. Returns of how many rows they are."""
        home, rows = self._home, newest(changes)
        if home.flusher is not None:
            await home.flusher.write_directly(list(rows.values()))
        else:
            later = await home.writer.write(list(rows.values()))
            if later:
                await home.bucket.require(max(later.values()))
            self.tell({row: change.position for row, change in rows.items() if row not in later})
        return len(rows)

    def tell(self, positions: Mapping[tuple[UUID, str], Position]) -> None:
        """Tell the handles of this process what the database has."""
        for (agent_id, key), position in positions.items():
            if (handle := self._owner(agent_id)) is not None:
                handle.unflushed.flushed(key, position)

    def phase(self, agents: set[UUID], begins: bool) -> None:
        """Tell the handles that their keys are on their way."""
        for agent_id in agents:
            if (handle := self._owner(agent_id)) is not None:
                handle.flush_phase(begins=begins)

    async def lags(self, look: Look) -> dict[UUID, float]:
        """Age in milliseconds of each agent's oldest unflushed write; of the first hundred agents, by id."""
        found = {}
        for agent_id in sorted(await self._home.journal.dirty())[:_AGENTS]:
            oldest_ns = await self._home.journal.oldest_ns(agent_id)
            if oldest_ns is not None:
                found[agent_id] = max(0.0, (look.now_ns - oldest_ns) / 1e6)
        return found

    async def consistency(self) -> Consistency:
        """Bucket and database now. Raises what they raise."""
        home = self._home
        look = await home.journal.look()
        state = await home.bucket.state()
        if home.flusher is not None:
            await home.flusher.recheck()
        statement = f"SELECT count(*) FROM {qualified(home.contract.names.state_table)} WHERE deleted_at IS NULL"
        async with limited(_COUNT_S, "the database"), home.pools.background.connection() as connection:
            cursor = await connection.execute(statement)
            row = await cursor.fetchone()
        stats = home.flusher.stats if home.flusher is not None else None
        return Consistency(
            lag_ms=await self.lags(look) if look.messages else {},
            dirty_entries=look.messages + look.unsourced,
            kv_entries=int(state["state"].get("num_subjects", 0)),
            sql_rows=int(row[0]) if row else 0,
            avg_flush_ms=stats.flush_ms.mean(0.0) if stats else 0.0,
            p95_ms=stats.lag_ms.percentile(0.95) if stats else 0.0,
            violations=self.violations,
            stranded=tuple(sorted(home.stranded)),
            parked=tuple(home.flusher.parked.values()) if home.flusher is not None else (),
        )
