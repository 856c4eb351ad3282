"""Load through ``holdfast.connect``, a ledger of what was acknowledged, and the checks of it afterwards."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import holdfast
from holdfast.errors import Fenced, HoldfastError, LeaseHeld
from holdfast.kv.bucket import Bucket
from holdfast.retry import Retry
from holdfast.sql.transactions import Boundary, TransactionContext
from holdfast.work.result import Outcome, Strategy
from holdfast.work.steps import Emit, KvPut, SqlInsert, SqlUpdate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from outages.bed import Bed

KEYS = 20
BUCKETS = ("AGENT_CONFIG", "SESSION_DATA")
_STRATEGIES = (Strategy.SAGA_PATTERN, Strategy.TWO_PHASE_COMMIT, Strategy.EVENTUAL_CONSISTENCY)
#: An event and the row it tells of, once each, through every outage of the test.
_ONCE = TransactionContext(Boundary.CROSS_SYSTEM, timeout_s=3, retry=Retry(attempts=600, base_s=0.02, cap_s=0.2))


@dataclass
class Ledger:
    """What callers were told. ``puts``: newest acknowledged number by agent and key; ``refused``: errors by name."""

    puts: dict[tuple[UUID, str], int] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)
    works: dict[str, Any] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    acknowledged: Counter[str] = field(default_factory=Counter)
    #: Longest time between two acknowledged puts.
    longest_s: float = 0.0
    _last_s: float = field(default_factory=time.monotonic)

    def told(self, agent_id: UUID, values: Iterable[tuple[str, int]]) -> None:
        self.puts.update(((agent_id, key), number) for key, number in values)
        self.acknowledged["puts"] += 1
        now = time.monotonic()
        self.longest_s, self._last_s = max(self.longest_s, now - self._last_s), now

    def failed(self, what: str, error: HoldfastError) -> None:
        assert error.retryable or isinstance(error, Fenced), f"{what}: {type(error).__name__}: {error}"
        self.refused[f"{what} {type(error).__name__}"] += 1


class Load:
    """Everything that a plane does, at once, until ``stop`` is set."""

    def __init__(self, bed: Bed, plane: holdfast.Plane, buckets: dict[str, Bucket]) -> None:
        self.bed, self.plane, self.buckets = bed, plane, buckets
        self.ledger = Ledger()
        self.stop = asyncio.Event()
        self.agents = [uuid4() for _ in range(3)]
        self.subject = f"tasks.created.{uuid4()}"

    @asynccontextmanager
    async def running(self, *, pause_s: float = 0.005) -> AsyncIterator[None]:
        """Run it while the block lasts, and wait for its end."""
        tasks = [asyncio.create_task(self._put(agent_id, pause_s)) for agent_id in self.agents]
        tasks += [asyncio.create_task(work(pause_s)) for work in (self._emit, self._work)]
        try:
            yield
            self.stop.set()
            await asyncio.wait_for(asyncio.gather(*tasks), 180)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _put(self, agent_id: UUID, pause_s: float) -> None:
        """Own an agent and write to it; own it again after the lease was lost while its servers were away."""
        numbers = itertools.count()
        while not self.stop.is_set():
            try:
                async with self.plane.agent(agent_id, wait_s=20) as agent:
                    for number in numbers:
                        if self.stop.is_set():
                            break
                        key = f"k{number % KEYS}"
                        try:
                            await agent.put(key, number)
                            self.ledger.told(agent_id, [(key, number)])
                        except Fenced:
                            raise
                        except HoldfastError as error:
                            self.ledger.failed("put", error)
                            await asyncio.sleep(0.05)
                        await asyncio.sleep(pause_s)
            except (Fenced, LeaseHeld) as error:
                self.ledger.refused[f"agent {type(error).__name__}"] += 1
            except HoldfastError as error:
                self.ledger.failed("agent", error)

    async def _emit(self, pause_s: float) -> None:
        """A row and its event in one transaction, which happens once whatever becomes of its connection."""
        while not self.stop.is_set():
            task_id = uuid4()

            async def both(connection: Any, task_id: UUID = task_id) -> str:
                await connection.execute(
                    "INSERT INTO tasks.queue (task_id, task_type, task_name) VALUES (%s, 'inference', 'event')",
                    [task_id],
                )
                return str(await self.plane.outbox.add(connection, self.subject, {"task_id": str(task_id)}))

            try:
                self.ledger.events.append(await self.plane.transactions.run(both, _ONCE))
                self.ledger.acknowledged["events"] += 1
            except HoldfastError as error:
                self.ledger.refused[f"event {type(error).__name__}"] += 1
            await asyncio.sleep(pause_s)

    async def _work(self, pause_s: float) -> None:
        """Work over bucket and database by each strategy; every fourth is a saga that has to be undone."""
        running: set[asyncio.Task[None]] = set()
        for number in itertools.count():
            if self.stop.is_set():
                break
            while len(running) >= 6:
                _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            running.add(asyncio.create_task(self._one_work(str(uuid4()), number)))
            await asyncio.sleep(4 * pause_s)
        if running:
            await asyncio.wait(running)

    async def _one_work(self, name: str, number: int) -> None:
        await patiently(lambda: self._prepare(name))
        fails = number % 4 == 3
        strategy = Strategy.SAGA_PATTERN if fails else _STRATEGIES[number % 4]
        try:
            self.ledger.works[name] = await self.plane.work.run(
                "load", steps(name, fails=fails), strategy=strategy, timeout_s=20
            )
        except HoldfastError as error:
            # Nothing has begun.
            self.ledger.works[name] = None
            self.ledger.refused[f"work {type(error).__name__}"] += 1
        self.ledger.acknowledged["works"] += 1

    async def _prepare(self, name: str) -> None:
        """The state before a piece of work: key a and the row say "old", key b is not there."""
        bucket, key = self.buckets["AGENT_CONFIG"], f"test.{name}.a"
        head = await bucket.head(key)
        await bucket.write(key, b"old", expect=head.position.revision if head else 0)
        async with self.plane.pools.primary.connection() as connection:
            await connection.execute(
                "INSERT INTO tasks.queue (task_id, task_type, task_name) VALUES (%s, 'inference', 'old')"
                " ON CONFLICT DO NOTHING",
                [name],
            )

    # The checks ----------------------------------------------------------------------------------------------

    async def settle(self, within_s: float = 120) -> float:
        """Wait until journal, outbox and journals of work are empty. Returns how long that took, in seconds."""
        start = time.monotonic()
        while True:
            left: Any = None
            try:
                look = await self.plane.home.journal.look()
                [[outbox, sagas, decisions, prepared]] = self.bed.query(_LEFT)
                left = (look.messages, look.unsourced, outbox, sagas, decisions, prepared)
                if not any(left):
                    return time.monotonic() - start
            except HoldfastError as error:
                left = error
            assert time.monotonic() - start < within_s, f"journal, source, outbox, sagas, decisions, prepared: {left}"
            await asyncio.sleep(0.1)

    async def check(self) -> dict[str, Any]:
        """No acknowledged write lost, no event lost, none twice, every piece of work whole. Returns the figures."""
        found: dict[str, Any] = {"acknowledged": dict(self.ledger.acknowledged), "refused": dict(self.ledger.refused)}
        found["longest pause between puts, s"] = round(self.ledger.longest_s, 2)
        found["state events"] = sum([await self._check_state(agent_id) for agent_id in self.agents])
        await self._check_events()
        found["works"] = dict(await self._check_works())
        return found

    async def _check_state(self, agent_id: UUID) -> int:
        async with self.plane.agent(agent_id, wait_s=30) as agent:
            items = await agent.items()
        rows = {
            key: (value, version)
            for key, value, version in self.bed.query(
                "SELECT state_key, state_value, version FROM agents.state WHERE agent_id = %s"
                " AND deleted_at IS NULL AND NOT starts_with(state_key, 'holdfast.')",
                agent_id,
            )
        }
        assert {key: value for key, (value, _) in rows.items()} == items
        told = {key: number for (owner, key), number in self.ledger.puts.items() if owner == agent_id}
        lost = {key: (number, items.get(key)) for key, number in told.items() if items.get(key, -1) < number}
        assert not lost, f"acknowledged writes are lost: {lost}"
        seen: dict[str, list[int]] = {}
        for _, payload in await messages(self.plane, "AGENT_STATE", f"agents.state.{agent_id}"):
            seen.setdefault(payload["state_key"], []).append(payload["version"])
        # Each version of a row is one committed change, which has one event.
        wanted = {key: list(range(1, version + 1)) for key, (_, version) in rows.items()}
        assert seen == wanted, "events of state are lost, there twice or out of order"
        return sum(map(len, seen.values()))

    async def _check_events(self) -> None:
        found = [name for name, _ in await messages(self.plane, "TASK_EXECUTION", self.subject)]
        known = set(self.ledger.events)
        assert [name for name in found if name in known] == self.ledger.events, "events are lost or out of order"
        assert len(found) == len(set(found)), "events are there twice"
        rows = self.bed.query("SELECT count(*) FROM tasks.queue WHERE task_name = 'event'")[0][0]
        assert len(found) == rows, "rows and events are not the same number"

    async def _whole(self, name: str) -> str:
        """All of a piece of work or nothing of it: which."""
        found = [
            await self.buckets[bucket].get(f"test.{name}.{key}") for bucket, key in zip(BUCKETS, "ab", strict=True)
        ]
        values = [entry.value if entry else None for entry in found]
        rows = self.bed.query("SELECT task_name FROM tasks.queue WHERE task_id = %s", name)
        events = self.bed.query("SELECT count(*) FROM runtime.outbox WHERE subject = %s", f"tasks.updated.{name}")
        state = (*values, *rows, *events)
        if state == (b"new", b"new", ("new",), (1,)):
            return "all"
        assert state == (b"old", None, ("old",), (0,)), f"half of the work is done: {state}"
        return "nothing"

    async def _check_works(self) -> Counter[str]:
        outcomes: Counter[str] = Counter()
        for name, result in self.ledger.works.items():
            whole = await self._whole(name)
            if result is None:
                assert whole == "nothing"
            elif result.outcome is not Outcome.SAGA_FAILED:
                assert whole == ("all" if result.is_success else "nothing"), result
            outcomes[f"{result.outcome.value if result else 'refused'}: {whole}"] += 1
        return outcomes


def steps(name: str, *, fails: bool) -> list[Any]:
    """A piece of work on two keys, a row and an event; one that fails does so at its last row."""
    key = {"task_id": name, "task_type": "inference"}
    work: list[Any] = [
        KvPut(bucket, f"test.{name}.{letter}", b"new") for bucket, letter in zip(BUCKETS, "ab", strict=True)
    ]
    work += [SqlUpdate("tasks.queue", key, {"task_name": "new"}), Emit(f"tasks.updated.{name}", {"task_id": name})]
    return [*work, SqlInsert("tasks.queue", {**key, "retry_count": -1}, list(key))] if fails else work


_LEFT = """
SELECT (SELECT count(*) FROM runtime.outbox WHERE published_at IS NULL),
       (SELECT count(*) FROM runtime.sagas WHERE state IN ('running', 'compensating')),
       (SELECT count(*) FROM runtime.decisions WHERE finished_at IS NULL),
       (SELECT count(*) FROM pg_prepared_xacts)"""


@asynccontextmanager
async def loaded(bed: Bed) -> AsyncIterator[Load]:
    """A plane with flusher, relay and recoverer, ready for load."""
    async with holdfast.connect(bed.environ, events=True) as plane:
        buckets = {name: await Bucket.open(plane.nc, plane.contract.buckets[name], timeout_s=10.0) for name in BUCKETS}
        yield Load(bed, plane, buckets)


async def patiently(work: Callable[[], Awaitable[Any]], within_s: float = 180) -> Any:
    """Try again while servers are away."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            return await work()
        except HoldfastError:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)


async def messages(plane: holdfast.Plane, stream: str, subject: str) -> list[tuple[str, Any]]:
    """What a stream holds of a subject, in order: message id and JSON."""
    jetstream = plane.nc.jetstream()
    subscription = await jetstream.subscribe(subject, stream=stream, ordered_consumer=True)
    found: list[tuple[str, Any]] = []
    try:
        pending = (await subscription.consumer_info()).num_pending or 0
        while len(found) < pending or pending == 0:
            try:
                message = await subscription.next_msg(timeout=2)
            except TimeoutError:
                break
            found.append(((message.headers or {}).get("Nats-Msg-Id", ""), json.loads(message.data)))
            pending = max(pending, len(found) + message.metadata.num_pending)
    finally:
        await subscription.unsubscribe()
    return found
