"""Brings the journal's writes into the database: newest first by key, one statement a batch, acknowledged after commit.

Any number of flushers may run: the consumer deals messages out, a row only moves forward, and what a dead flusher held
is dealt out again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from holdfast.errors import CodecError, HoldfastError, OperationTimeout, TransactionFailed
from holdfast.kv.entry import WRITE_ID, Position
from holdfast.kv.pulling import Puller, wait_for_event
from holdfast.points import reach
from holdfast.sql.metrics import Window
from holdfast.state.flush_sql import LARGEST_BYTES, Change, expand, fitting, newest
from holdfast.state.keys import EDIT_KEY, FLUSHER_KEY
from holdfast.state.lag import Parked
from holdfast.state.rebuilt import read_mark
from holdfast.tasks import end

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg

    from holdfast.contract import Contract
    from holdfast.kv.bucket import Bucket
    from holdfast.kv.messages import Delivery
    from holdfast.state.journal import Journal
    from holdfast.state.writer import Writer

_log = logging.getLogger("holdfast.flusher")

#: Messages held at once; more are not asked for until these are written.
_HELD: Final = 2000
_HELD_BYTES: Final = 64 << 20
_LARGEST_BATCH: Final = 500
#: What waits is claimed again after this part of the consumer's ack_wait, or else it is dealt out again.
_CLAIM_PART: Final = 0.25
_ACK_WAIT_S: Final = 30.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0
#: The journal is emptied in bursts, after this part of flush_interval each, or sooner: fifty keys are not to wait.
_BURST_PART, _LONGEST_BURST_S = 0.4, 0.05
#: A parked message comes back after this: perhaps the schema takes it by then.
_PARKED_S: Final = 30.0
_SAMPLES: Final = 2000
#: Stands for the agent of what names none.
_NOBODY: Final = UUID(int=0)

Flushed = Callable[[Mapping[tuple[UUID, str], Position]], None]
Phase = Callable[[set[UUID], bool], None]


@dataclass(slots=True)
class _Held:
    """One message that was dealt to us."""

    change: Change
    reply: str
    arrived_ns: int
    taken_s: float
    sequence: int
    write_id: str | None


@dataclass
class FlushStats:
    """What this flusher did. The windows are of the last minute, in milliseconds; ``lag_ms``: from a write's arrival in
    the journal to its commit."""

    written: int = 0
    skipped: int = 0
    batches: int = 0
    failures: int = 0
    flush_ms: Window = field(default_factory=lambda: Window(most=_SAMPLES))
    lag_ms: Window = field(default_factory=lambda: Window(most=_SAMPLES))


class Flusher:
    """Flushes one bucket's journal.

    ``flushed`` is told the positions that a commit made durable, ``phase`` the agents whose keys begin (True) or cease
    to be on their way.
    """

    def __init__(
        self,
        nc: Client,
        contract: Contract,
        bucket: Bucket,
        journal: Journal,
        writer: Writer,
    ) -> None:
        self._nc = nc
        self._bucket = bucket
        self._journal = journal
        self._writer = writer
        self.flushed: Flushed = lambda positions: None
        self.phase: Phase = lambda agents, begins: None
        self._dirty_keys = max(1, contract.limits.flush_dirty_keys)
        self._interval_s = contract.limits.flush_interval
        self._held: list[_Held] = []
        #: How many messages go into one batch now: fewer after one that was not written in time.
        self._most = _LARGEST_BATCH
        #: About how large the larger ones of the last messages were, bytes.
        self._size = 1
        #: All that was dealt to us and is not answered, by the journal's sequence; a batch being written too.
        self._dealt: dict[int, _Held] = {}
        self._consumer = contract.names.flush_consumer
        #: Between two bursts from the journal; somebody who asks to flush has new writes flushed at once for so long.
        self._burst_s = min(self._interval_s * _BURST_PART, _LONGEST_BURST_S)
        self._puller = Puller(nc, journal.stream, self._consumer, self._take, self._room, self._burst_s)
        self._wake = asyncio.Event()
        self._stopping = False
        self._asked_until = 0.0
        self._not_before = 0.0
        self._pause_s = _FIRST_PAUSE_S
        self._tasks: list[asyncio.Task[None]] = []
        self._clock = asyncio.get_running_loop().time
        self.stats = FlushStats()
        #: What this flusher could not write, by agent and key.
        self.parked: dict[tuple[UUID, str], Parked] = {}
        #: The last failure that held everything up, None while all goes well.
        self.trouble: HoldfastError | None = None
        self._mark = f"{bucket.prefix}{FLUSHER_KEY}"
        #: The newest incarnation of the bucket of which the journal has delivered something; see Rebuilt.
        self.followed = 0
        #: Server time less ours, nanoseconds; see Lag.
        self.offset_ns = 0

    # Running -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Flush in the background until ``stop``."""
        if not self._tasks:
            self._tasks = [
                asyncio.create_task(self._puller.run(), name="holdfast flusher pull"),
                asyncio.create_task(self._run(), name="holdfast flusher"),
                asyncio.create_task(self._claim(), name="holdfast flusher claims"),
            ]

    def ask(self) -> None:
        """Flush what is there now and comes in a moment, however little."""
        self._asked_until = self._clock() + self._burst_s
        self._puller.hurry()
        self._wake.set()

    async def stop(self, timeout_s: float = 10.0) -> None:
        """Write what is held, then end. What cannot be written in time stays in the journal."""
        tasks, self._tasks = self._tasks, []
        if not tasks:
            return
        self._stopping = True
        self._wake.set()
        await asyncio.wait(tasks[1:2], timeout=timeout_s)
        await end(*tasks)
        for held in self._dealt.values():
            await self._say(held.reply, b"-NAK")

    async def _run(self) -> None:
        while True:
            await self._until_due()
            if self._stopping and (not self._held or self.trouble):
                return
            if self._held and (self._stopping or self._clock() >= self._not_before):
                await self._flush_once()

    async def _until_due(self) -> None:
        """Wait until there are enough keys, or the oldest has waited long enough, or somebody asks."""
        while not self._stopping:
            now = self._clock()
            due = self._held[0].taken_s + self._interval_s - self._burst_s if self._held else now + 1.0
            if self._held and (now < self._asked_until or len(self._held) >= self._dirty_keys):
                due = now
            due = max(due, self._not_before)
            if due <= now:
                break
            self._wake.clear()
            await wait_for_event(self._wake, min(due - now, 1.0))
            if self._clock() - now >= 1.0:
                return

    async def _flush_once(self) -> None:
        taken = fitting([held.change for held in self._held[: self._most]])
        batch, self._held = self._held[:taken], self._held[taken:]
        agents = {held.change.agent_id for held in batch}
        self.phase(agents, True)
        try:
            await self.settle(batch)
        except HoldfastError as error:
            self._hold_up(error, batch)
        except asyncio.CancelledError:
            self._held = batch + self._held
            raise
        except Exception as error:  # a fault of ours must not end the flushing of everything else
            _log.exception("a batch could not be flushed")
            self._hold_up(HoldfastError("a batch could not be flushed", driver_error=error), batch)
        else:
            self.trouble, self._pause_s, self._not_before = None, _FIRST_PAUSE_S, 0.0
            self._most = min(self._most + self._most // 4 + 1, _LARGEST_BATCH)
        finally:
            self.phase(agents, False)
        self._puller.poke()

    def _hold_up(self, error: HoldfastError, batch: list[_Held]) -> None:
        self._held = batch + self._held
        if isinstance(error, OperationTimeout):  # the same again would take as long
            self._most = max(1, len(batch) // 2)
        if self.trouble is None or type(self.trouble) is not type(error):
            _log.warning("the flusher waits: %s", error)
        self.trouble = error
        self.stats.failures += 1
        self._not_before = self._clock() + self._pause_s
        self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)

    async def write_directly(self, rows: Sequence[Change]) -> None:
        """Commit changes of distinct rows that the journal may never deliver. Raises what the database raises."""
        largest = max((change.size for change in rows), default=0)
        size = max(1, min(_LARGEST_BATCH, LARGEST_BYTES // max(1, largest)))
        await (self._halve(rows) if len(rows) <= size else self._apart(rows, size))

    # One batch -----------------------------------------------------------------------------------------------

    async def settle(self, batch: Sequence[_Held]) -> None:
        """Write a batch, then acknowledge it: only what is committed may leave the journal."""
        parked = await self._write(batch)
        kept = [held for held in batch if parked and any(part.row in parked for part in expand(held.change))]
        await self._acknowledge([held for held in batch if held not in kept] if kept else batch)
        for held in kept:
            self._dealt.pop(held.sequence, None)
            await self._say(held.reply, b'-NAK {"delay": %d}' % int(_PARKED_S * 1e9))

    async def _write(self, batch: Sequence[_Held]) -> set[tuple[UUID, str]]:
        """Commit the newest of each key. Returns the rows that are parked instead."""
        await self._place(batch)
        reach("flush.read")
        started = time.perf_counter()
        parked = await self._halve(list(newest(held.change for held in batch).values()))
        reach("flush.committed")
        self.stats.batches += 1
        self.stats.flush_ms.add((time.perf_counter() - started) * 1000)
        now_ns = time.time_ns() + self.offset_ns
        for held in batch:
            self.stats.lag_ms.add(max(0.0, (now_ns - held.arrived_ns) / 1e6))
        return parked

    async def _acknowledge(self, batch: Sequence[_Held]) -> None:
        for held in batch:
            self._dealt.pop(held.sequence, None)
            await self._say(held.reply, b"+ACK")
        reach("flush.acknowledged")

    async def _halve(self, rows: Sequence[Change]) -> set[tuple[UUID, str]]:
        """Write all; where the database refuses the data, find the row that it refuses and park that one alone."""
        try:
            later = await self._writer.write(rows)
        except (TransactionFailed, CodecError) as error:
            if not is_poison(error):
                raise
            if len(rows) == 1:
                return await self._park(rows[0], error)
            return await self._apart(rows, len(rows) // 2)
        if later:  # from another flusher, or from a bucket that has gone back since: then nothing is acknowledged
            await self._bucket.require(max(later.values()))
        self.stats.written += len(rows)
        positions = {change.row: change.position for change in rows if change.row not in later}
        self._unpark(positions)
        self.flushed(positions)
        return set()

    async def _apart(self, rows: Sequence[Change], size: int) -> set[tuple[UUID, str]]:
        """Write ``size`` rows at a time, records of edits last, and none of which a row is refused.

        A record that the database has says that the whole edit is there: the next owner would not finish it.
        """
        parked: set[tuple[UUID, str]] = set()
        fields = [change for change in rows if change.state_key != EDIT_KEY]
        for start in range(0, len(fields), size):
            parked |= await self._halve(fields[start : start + size])
        lacking = {(change.agent_id, change.position) for change in fields if change.row in parked}
        records = [change for change in rows if change.state_key == EDIT_KEY]
        whole = [change for change in records if (change.agent_id, change.position) not in lacking]
        for start in range(0, len(whole), size):
            parked |= await self._halve(whole[start : start + size])
        return parked | {change.row for change in records if (change.agent_id, change.position) in lacking}

    async def _park(self, change: Change, error: HoldfastError) -> set[tuple[UUID, str]]:
        """Keep one row aside, unless what the database has of it is newer anyway."""
        is_new = change.row not in self.parked
        parked = Parked(change.agent_id, change.state_key, change.position, error.code, str(error))
        self.parked[change.row] = parked
        await self.recheck()
        if change.row not in self.parked:
            return set()
        if is_new:
            _log.error("the value of %r of agent %s cannot be written: %s", change.state_key, change.agent_id, error)
            with contextlib.suppress(HoldfastError):
                await self._writer.tell_parked(parked)
        return {change.row}

    def _unpark(self, positions: Mapping[tuple[UUID, str], Position]) -> None:
        for row in self.parked.keys() & positions.keys():
            if self.parked[row].position <= positions[row]:
                del self.parked[row]

    async def recheck(self) -> None:
        """Forget what is parked where the database has something newer by now, whoever wrote it."""
        for row, parked in tuple(self.parked.items()):
            if parked.agent_id is None and not await self._journal.has(row[1], parked.position.revision):
                del self.parked[row]
        for agent_id in {parked.agent_id for parked in self.parked.values() if parked.agent_id is not None}:
            keys = [key for owner, key in self.parked if owner == agent_id]
            found = await self._writer.positions(agent_id, keys)
            self._unpark({(agent_id, key): position for key, position in found.items()})

    async def _place(self, batch: Sequence[_Held]) -> None:
        """Find out where a write stands whose writer may not have known yet that the bucket is a new one."""
        created = self._bucket.incarnation
        for held in batch:
            position = held.change.position
            is_doubtful = position.incarnation < created - 1 and created <= held.arrived_ns
            if is_doubtful and await self._journal.is_present(held.change, held.write_id):
                held.change = held.change._replace(position=Position(created, position.revision))

    # Messages ------------------------------------------------------------------------------------------------

    def _room(self) -> int:
        if self._stopping:
            return 0
        room = _HELD_BYTES - sum(held.change.size for held in self._held)
        return min(_LARGEST_BATCH, _HELD - len(self._held), room // self._size)

    async def _take(self, message: Msg, delivery: Delivery) -> None:
        if message.subject == self._mark:
            self.followed = max(self.followed, read_mark(message.data)[0])
        headers = message.headers or {}
        try:
            change = self._journal.parse(
                message.subject,
                headers,
                message.data,
                arrived_ns=delivery.created_ns,
                created_ns=self._bucket.incarnation,
            )
        except (CodecError, ValueError) as error:
            # It cannot be placed, so it can never be written: it stays, and is told of.
            if (_NOBODY, message.subject) not in self.parked:
                _log.error("message %d of the journal cannot be read and stays there: %s", delivery.revision, error)
            where = Position(0, delivery.revision)
            self.parked[_NOBODY, message.subject] = Parked(None, message.subject, where, CodecError.code, str(error))
            return
        if change is None:
            self.stats.skipped += 1
            await self._say(message.reply, b"+ACK")
            return
        known = self._dealt.get(delivery.revision)
        if known is not None:
            known.reply = message.reply
            return
        held = _Held(
            change, message.reply, delivery.created_ns, self._clock(), delivery.revision, headers.get(WRITE_ID)
        )
        self._dealt[held.sequence] = held
        self._held.append(held)
        self._size = max(1, change.size, self._size * 31 // 32)
        held_keys = len(self._held)
        if held_keys == 1 or held_keys == self._dirty_keys or self._clock() < self._asked_until:
            self._wake.set()

    async def _claim(self) -> None:
        """Tell the server now and then that what we hold is still being worked at."""
        pause_s = _ACK_WAIT_S * _CLAIM_PART
        try:
            pause_s = await self._journal.ack_wait_s(self._consumer) * _CLAIM_PART
        except HoldfastError as error:
            _log.info("the journal's consumer could not be looked at: %s", error)
        while True:
            await asyncio.sleep(pause_s)
            with contextlib.suppress(HoldfastError):
                await self.recheck()
            since = self._clock() - pause_s / 2
            for held in tuple(self._dealt.values()):
                if held.taken_s < since:
                    await self._say(held.reply, b"+WPI")

    async def _say(self, reply: str, word: bytes) -> None:
        """Answer a delivery. If that is lost, the message comes again and does no harm."""
        import nats.errors

        with contextlib.suppress(nats.errors.Error, OSError):
            await self._nc.publish(reply, word)


def is_poison(error: HoldfastError) -> bool:
    """Whether the database refuses the data, not the moment.

    Classes 22 and 23, what a view (44) or a trigger (P0001, its RAISE) checks, and limits of size (54).
    """
    if isinstance(error, CodecError):
        return True
    state: Any = getattr(error, "sqlstate", None)
    return isinstance(state, str) and (state == "P0001" or state[:2] in {"22", "23", "44", "54"})
