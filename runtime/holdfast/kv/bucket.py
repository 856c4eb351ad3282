"""A bucket of the plane: leader reads, and writes that are compare-and-set or nothing.

nats-py's KeyValue is not used: its put compares nothing, its update takes None for "must not exist", it loses times to
live, and it reads from followers where the bucket allows that.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from itertools import count
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

from holdfast.errors import (
    ConfigurationError,
    ConnectionFailed,
    ConsistencyViolation,
    DuplicateKey,
    HoldfastError,
    OperationTimeout,
    Unsupported,
    VersionConflict,
)
from holdfast.kv import messages, writing
from holdfast.kv.entry import WRITE_ID, Entry, Position
from holdfast.kv.link import ATTEMPT_S, Link, Silence, Tries, finish
from holdfast.kv.messages import Refusal, Ttl

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

    from holdfast.contract import BucketSpec
    from holdfast.kv.watching import Watch

Headers = Mapping[str, str] | Iterable[tuple[str, str]]

#: The first release that compares with the last sequence below a wildcard; older ones ignore the header.
OLDEST_SERVER: Final = (2, 11)
#: Newest revisions known of keys, kept to reject older reads.
_REMEMBERED: Final = 20_000
#: A read older than what is known is repeated after these pauses; then that has expired.
_STALE_PAUSES_S: Final = (0.01, 0.03, 0.1, 0.3)
#: No leader is so far behind what it has acknowledged, or behind its followers.
_SETTLED_S: Final = 10.0
_CREATE_TRIES: Final = 16
_CREATE_PAUSE_S: Final = 0.01

_log = logging.getLogger("holdfast.kv")


class Bucket:
    """One bucket, opened with :meth:`open`.

    ``incarnation`` is when its stream was created, in nanoseconds since 1970: revisions of two incarnations are not
    comparable. ``max_age_s`` (0: none) and ``history`` are those of the live bucket. Every method raises
    ConnectionFailed or OperationTimeout after ``timeout_s`` seconds without an answer.
    """

    def __init__(self, client: Client, spec: BucketSpec, *, timeout_s: float = 5.0) -> None:
        self.name = spec.name
        self.spec = spec
        self.link = Link(client)
        self.incarnation = 0
        self.max_age_s = 0.0
        self.history = 1
        self.allows_ttl = self._in_memory = False
        self.timeout_s = timeout_s
        self.stream: Final = f"KV_{spec.name}"
        self.prefix: Final = f"$KV.{spec.name}."
        self._read: Final = f"$JS.API.STREAM.MSG.GET.{self.stream}"
        self._writer = secrets.token_hex(8)
        self._numbers = count()
        self._filters: dict[str, str] = {}
        self._highest = 0
        #: What the bucket should have and has not: it went back, and nothing is read or written until it is rebuilt.
        self.missing: Position | None = None
        self._behind_s: float | None = None
        #: Newest revision written or watched of a key, and when it was noted.
        self._floors: dict[str, tuple[int, float]] = {}
        # Reasons to think that the bucket may be another one, and how many of them the last look has cleared.
        self._reasons = 0
        self._cleared = (-1, 0)
        self._looking: asyncio.Task[None] | None = None
        self._listeners: list[Callable[[int], None]] = []
        self._advisories: Subscription | None = None
        self._is_supported = False

    @classmethod
    async def open(cls, nc: Client, spec: BucketSpec, *, timeout_s: float = 5.0) -> Self:
        """Find the bucket. Raises ConfigurationError where it does not exist."""
        bucket = cls(nc, spec, timeout_s=timeout_s)
        subject = f"$JS.EVENT.ADVISORY.STREAM.*.{bucket.stream}"
        try:
            bucket._advisories = await nc.subscribe(subject, cb=bucket._on_advisory)
            await bucket._look(is_patient=False)
        except BaseException:
            await bucket.close()
            raise
        return bucket

    async def close(self) -> None:
        """Stop listening to the bucket. The connection stays open."""
        await self.link.close()
        advisories, self._advisories = self._advisories, None
        if advisories is not None and not self.link.client.is_closed:
            await advisories.unsubscribe()

    # Reading -------------------------------------------------------------------------------------------------

    async def get(self, key: str) -> Entry | None:
        """The newest live value of a key, as the leader has it; None for absent, deleted and expired."""
        entry = await self.head(key)
        return entry if entry is not None and entry.operation == "put" else None

    async def head(self, key: str) -> Entry | None:
        """The newest message of a key, a delete or an expiry marker too; None where nothing is left of it."""
        subject = self.prefix + messages.check_key(key)
        for pause_s in (*_STALE_PAUSES_S, None):
            entry = await self._newest(subject)
            revision, noted_s = self._floors.get(key, (0, 0.0))
            if (entry.position.revision if entry is not None else 0) >= revision:
                break
            if pause_s is None or time.monotonic() - noted_s > _SETTLED_S:
                self._floors.pop(key, None)
                break
            await asyncio.sleep(pause_s)
        return entry

    async def last(self, pattern: str) -> Entry | None:
        """The newest message of all keys that a filter such as ``agent.>`` matches, as the leader has it."""
        return await self._newest(self.prefix + messages.check_filter(pattern))

    async def following(self, subject: str, revision: int, *, timeout_s: float | None = None) -> Entry | None:
        """The first message that is still there at or after ``revision``; ``subject`` is a full one or a wildcard."""
        return await self._message({"seq": revision, "next_by_subj": subject}, timeout_s)

    async def entries(self, pattern: str = ">", *, after: Position | None = None) -> AsyncIterator[Entry]:
        """The newest message of every key, deletes and markers too, in the order of revisions.

        A key that is written meanwhile may come twice, the newer entry later. ``after`` leaves out what is not newer.
        """
        from holdfast.kv.watching import heads

        async for entry in heads(self, pattern, after):
            yield entry

    def watch(self, pattern: str = ">", *, after: Position | None = None, initial: bool = True) -> Watch:
        """Every key's newest entry (``initial``) or what follows ``after``, then each write as it happens.

        Iterate over it in ``async with``. It goes on after a restart of the server and over a rebuilt bucket, whose
        entries carry the later incarnation. Nothing tells of an expiry unless the bucket makes markers.
        """
        from holdfast.kv.watching import Watch

        return Watch(self, pattern, after=after, initial=initial)

    # Writing -------------------------------------------------------------------------------------------------

    async def write(
        self,
        key: str,
        value: bytes | None,
        *,
        expect: int | Position,
        subtree: str | None = None,
        ttl_s: Ttl = None,
        headers: Headers = (),
    ) -> Position:
        """Store ``value`` (None: a delete) if ``expect`` is still the last revision of the key, or of ``subtree``.

        ``expect`` 0 means that nothing may be there; a Position is refused once the bucket is another one, a number
        is taken to be of the present one. ``ttl_s`` counts for this write alone: give it on every one.
        A write whose acknowledgement was lost is found again. Raises VersionConflict when nothing was written;
        OperationTimeout or ConnectionFailed say whether that is unknown; Unsupported for a ``ttl_s`` that the bucket
        cannot keep, or that is shorter than that of an older value which the bucket keeps.
        """
        write = self.prepare(key, value, expect=expect, subtree=subtree, ttl_s=ttl_s, headers=headers)
        try:
            return await self.perform(write)
        except VersionConflict as error:
            error.current = await self.head(key)
            raise

    async def create(self, key: str, value: bytes, *, ttl_s: Ttl = None, headers: Headers = ()) -> Position:
        """Store ``value`` where the key is absent, deleted or expired. Raises DuplicateKey."""
        expect = 0
        for number in range(_CREATE_TRIES):
            try:
                return await self.write(key, value, expect=expect, ttl_s=ttl_s, headers=headers)
            except VersionConflict as error:
                if error.current is not None and error.current.operation == "put":
                    raise DuplicateKey(f"{key} is in the bucket {self.name} already") from None
                expect = error.current.position.revision if error.current is not None else 0
            await asyncio.sleep(_CREATE_PAUSE_S * number)
        raise VersionConflict(f"{key} changes faster than it can be created")

    def prepare(
        self,
        key: str,
        value: bytes | None,
        *,
        expect: int | Position,
        subtree: str | None = None,
        ttl_s: Ttl = None,
        headers: Headers = (),
    ) -> writing.Write:
        """A write with an id of its own, for :meth:`perform`. Nothing is sent."""
        subject = self.prefix + messages.check_key(key)
        incarnation, revision = expect if isinstance(expect, tuple) else (self.incarnation, expect)
        fields = {messages.EXPECTED: str(revision), WRITE_ID: f"{self._writer}{next(self._numbers):x}"}
        scope = subject
        if subtree is not None:
            self.require_subtrees()
            scope = self._scope(subtree)
            fields[messages.EXPECTED_SUBJECT] = scope
        if value is None:
            fields[messages.OPERATION] = "DEL"
        lives_s = self._add_ttl(fields, ttl_s)
        fields.update(headers)
        return writing.Write(key, subject, value or b"", fields, revision, scope, lives_s, incarnation)

    async def perform(self, write: writing.Write) -> Position:
        """Send a prepared write. As :meth:`write`, but a VersionConflict has no ``current``.

        When the caller is cancelled, the outcome is found out first, so that ``write.position`` tells it.
        """
        if self._is_doubtful:
            await self._be_sure()
            if write.scope != write.subject:
                self.require_subtrees()
        if write.expect and write.incarnation != self.incarnation:
            raise writing.conflict(write)
        if self.history != 1 and write.lives_s < (self.max_age_s or math.inf):
            await self._require_longest(write)
        write.incarnation, write.floor = self.incarnation, self._highest
        refused: Refusal | None = None
        try:
            data = await self.link.ask(write.subject, write.payload, min(ATTEMPT_S, self.timeout_s), write.headers)
            revision = messages.acknowledged(data)
            if revision is None:
                answer = messages.decode(data)
                refused = messages.refusal(answer)
                revision = int(answer.get("seq", 0))
        except Silence as silence:
            self._reasons += 1
            return await finish(self._settle(write, silence, None))
        except asyncio.CancelledError as error:
            await finish(self._settle(write, Silence(is_sent=True, cause=error), None))
            raise
        if refused is not None:
            if refused.code == messages.WRONG_SEQUENCE:
                raise writing.conflict(write)
            return await finish(self._settle(write, None, refused))
        return await self._note(write, revision)

    # The bucket itself ---------------------------------------------------------------------------------------

    async def refresh_incarnation(self) -> int:
        """Ask the leader when the bucket was created. Raises ConsistencyViolation if the bucket went back."""
        self._reasons += 1
        await self._be_sure()
        return self.incarnation

    async def require(self, position: Position) -> None:
        """Raise ConsistencyViolation unless the bucket has come to a position that somebody has had from it.

        Revisions that are given again would lose against those of the database. Asks only where that is not known.
        """
        if position > Position(self.incarnation, self._highest):
            await self.refresh_incarnation()
        if position > Position(self.incarnation, self._highest):
            await self._reach(position)

    @property
    def highest(self) -> int:
        """The highest revision that the bucket has shown here."""
        return self._highest

    async def _reach(self, wanted: Position, *, is_patient: bool = True) -> dict[str, Any]:
        """STREAM.INFO of a bucket that has come to ``wanted``. Raises ConsistencyViolation for one that went back.

        Its server lost writes with its power, or an older store was put in its place, or a server made it whose clock
        is behind. A leader with followers is given time to catch up. A bucket in memory may begin again.
        """
        end = time.monotonic() + self.timeout_s
        while True:
            answer = await self.state(is_patient=is_patient)
            here = Position(messages.nanoseconds(answer["created"]), int(answer["state"]["last_seq"]))
            if self.missing is not None:
                if here.incarnation <= self.missing.incarnation:
                    raise self.went_back()
                _log.warning("the bucket %s, which had gone back, was rebuilt", self.name)
                self.missing = None
            if here >= wanted:
                self._behind_s = None
                if here.incarnation == self.incarnation:
                    self._highest = max(self._highest, here.revision)
                return answer
            if answer["config"].get("storage") == "memory" and here.incarnation == wanted.incarnation:
                self._highest = here.revision
                self._floors.clear()
                return answer
            now = time.monotonic()
            self._behind_s = now if self._behind_s is None else self._behind_s
            if answer["config"].get("num_replicas", 1) == 1 or now - self._behind_s > _SETTLED_S:
                self.give_up(wanted)
            if now > end:
                raise OperationTimeout(f"the leader of the bucket {self.name} is behind; nothing was changed")
            await asyncio.sleep(_STALE_PAUSES_S[1])

    def give_up(self, wanted: Position) -> NoReturn:
        """Use a bucket no more that has lost ``wanted``. Raises ConsistencyViolation, and so does all that follows."""
        self._behind_s, self.missing = None, wanted
        self._reasons += 1
        _log.error("%s", self.went_back())
        raise self.went_back()

    def went_back(self) -> ConsistencyViolation:
        """The error of a bucket with something ``missing``."""
        return ConsistencyViolation(
            f"the bucket {self.name} went back behind what it had acknowledged, so nothing is written any more: look at"
            f" the servers' disks and clocks, and delete its stream {self.stream}; `holdfast apply` rebuilds it"
        )

    def on_rebuilt(self, callback: Callable[[int], None]) -> Callable[[], None]:
        """Call ``callback(incarnation)`` whenever the bucket is found to be a new one; the answer ends that."""
        self._listeners.append(callback)
        return lambda: self._listeners.remove(callback) if callback in self._listeners else None

    def require_subtrees(self) -> None:
        """Raise Unsupported unless the servers compare with the last sequence below a wildcard."""
        if not self._is_supported:
            oldest = ".".join(map(str, OLDEST_SERVER))
            raise Unsupported(
                f"the bucket {self.name} needs nats-server {oldest} or newer on every server: older ones would let two"
                " owners write; upgrade them"
            )

    @property
    def _is_doubtful(self) -> bool:
        return self._cleared != (self._reasons, self.link.reconnects)

    async def _be_sure(self) -> None:
        """Look until the last reason for doubt is older than the look. Many callers share one look."""
        while self._is_doubtful:
            if self._looking is None or self._looking.done():
                self._looking = asyncio.get_running_loop().create_task(self._look())
                self._looking.add_done_callback(lambda task: task.cancelled() or task.exception())
            await asyncio.shield(self._looking)

    async def _look(self, *, is_patient: bool = True) -> None:
        reasons = self._reasons, self.link.reconnects
        answer = await self._reach(Position(self.incarnation, self._highest), is_patient=is_patient)
        self._cleared = reasons
        config, created = answer["config"], messages.nanoseconds(answer["created"])
        self.max_age_s = config.get("max_age", 0) / 1e9
        self.history = int(config.get("max_msgs_per_subject", 1))
        self._in_memory = config.get("storage") == "memory"
        self.allows_ttl = bool(config.get("allow_msg_ttl", False))
        # The server that answers, the leader, writes its release here since 2.11.
        release = str((config.get("metadata") or {}).get("_nats.ver", "0.0")).split(".")
        version = self.link.client.connected_server_version
        self._is_supported = min((int(release[0]), int(release[1])), (version.major, version.minor)) >= OLDEST_SERVER
        if created == self.incarnation:
            return
        is_rebuilt = self.incarnation != 0
        self.incarnation = created
        self._highest = int(answer["state"]["last_seq"])
        self._floors.clear()
        if is_rebuilt:
            for listener in tuple(self._listeners):
                try:
                    listener(created)
                except Exception:
                    _log.exception("a listener to the bucket %s failed", self.name)

    async def state(self, *, is_patient: bool = True, timeout_s: float | None = None) -> dict[str, Any]:
        """The server's STREAM.INFO of the bucket, from its leader."""
        subject = f"$JS.API.STREAM.INFO.{self.stream}"
        answer = await self.link.call(subject, None, timeout_s or self.timeout_s, is_patient=is_patient)
        if not isinstance(answer, Refusal):
            return answer
        if answer.code == messages.NO_STREAM:
            raise ConfigurationError(f"the bucket {self.name} does not exist; holdfast apply makes it")
        raise HoldfastError(f"NATS refused to tell of the bucket {self.name} with its error {answer.code}")

    async def now_s(self) -> float:
        """The leader's clock, which gives every entry its ``created_ns``, in seconds since 1970."""
        return messages.nanoseconds((await self.state())["ts"]) / 1e9

    async def _on_advisory(self, message: Msg) -> None:
        """Something happened to the stream: was it rebuilt? Listeners hear of it also when nothing is written."""
        self._reasons += 1
        if message.subject.split(".")[4] == "CREATED":
            try:
                await self._be_sure()
            except HoldfastError as error:
                _log.warning("the bucket %s could not be looked at: %s", self.name, error)

    def _scope(self, pattern: str) -> str:
        """The subjects of a filter, checked; the last few are remembered."""
        scope = self._filters.get(pattern)
        if scope is None:
            scope = self.prefix + messages.check_filter(pattern)
            if len(self._filters) >= _REMEMBERED:
                self._filters.clear()
            self._filters[pattern] = scope
        return scope

    async def _newest(self, subject: str) -> Entry | None:
        return await self._message({"last_by_subj": subject}, None)

    async def _message(self, query: Mapping[str, Any], timeout_s: float | None) -> Entry | None:
        while True:
            if self._is_doubtful:
                await self._be_sure()
            incarnation = self.incarnation
            answer = await self.link.call(self._read, query, timeout_s or self.timeout_s)
            if not self._is_doubtful and self.incarnation == incarnation:
                break
        if not isinstance(answer, Refusal):
            return messages.entry_of_stored(answer["message"], len(self.prefix), incarnation)
        if answer.code == messages.NO_MESSAGE:
            return None
        if answer.code == messages.NO_STREAM:
            raise ConfigurationError(f"the bucket {self.name} does not exist; holdfast apply makes it")
        raise HoldfastError(f"NATS refused to read from the bucket {self.name} with its error {answer.code}")

    def _add_ttl(self, fields: dict[str, str], ttl_s: Ttl) -> float:
        """Add the header where it is needed. Returns how long the write lives at least, infinite for ever."""
        bucket_s = self.max_age_s or math.inf
        if ttl_s is None:
            return bucket_s
        lives_s = math.inf if ttl_s == "never" else float(ttl_s)
        text = "never" if ttl_s == "never" else messages.ttl_text(lives_s)
        if self.allows_ttl:
            fields[messages.TTL] = text
        elif lives_s < bucket_s or (ttl_s == "never" and self.max_age_s):
            raise Unsupported(f"the bucket {self.name} takes no time to live for a single write")
        return lives_s if ttl_s == "never" else min(lives_s, bucket_s)

    async def _require_longest(self, write: writing.Write) -> None:
        """Refuse a write that would expire before an older value of its key, which would then be the newest again."""
        if write.expect == 0:
            return
        older = await self.get(write.key)
        if older is not None and messages.life_of(older.headers, self.max_age_s or math.inf) > write.lives_s:
            raise Unsupported(
                f"the bucket {self.name} keeps older values of a key: {write.key} would have one again after this time"
                " to live, which is shorter than theirs; delete the key first, or use a bucket with history 1"
            )

    async def _settle(self, write: writing.Write, silence: Silence | None, refused: Refusal | None) -> Position:
        tries = Tries(self.link, self.timeout_s)
        if silence is not None:
            await tries.pause(silence)
        return await self._note(write, await writing.settle(self, write, tries, refused))

    async def _note(self, write: writing.Write, revision: int) -> Position:
        """Remember a stored write. Where there is doubt about its incarnation, find that out first."""
        incarnation = write.incarnation
        if revision <= write.floor:
            self._reasons += 1
        if self._is_doubtful or self.incarnation != incarnation:
            try:
                incarnation = await finish(self._incarnation_of(write, revision, incarnation))
            except (OperationTimeout, ConnectionFailed) as error:
                raise OperationTimeout(
                    f"{write.key} was stored, but whether in this bucket {self.name} is unknown",
                    driver_error=error.driver_error,
                ) from None
        write.position = Position(incarnation, revision)
        if incarnation == self.incarnation:
            self._highest = max(self._highest, revision)
            self.remember(write.key, revision)
        return write.position

    async def _incarnation_of(self, write: writing.Write, revision: int, incarnation: int) -> int:
        """Which bucket holds a write that was acknowledged: the one it was meant for, or one that was built since."""
        await self._be_sure()
        if self.incarnation == incarnation:
            if revision <= write.floor and not self._in_memory:
                self.give_up(Position(incarnation, write.floor))
            return incarnation
        stored = await self.following(write.subject, revision)
        is_here = stored is not None and stored.headers.get(WRITE_ID) == write.write_id
        return self.incarnation if is_here else incarnation

    def remember(self, key: str, revision: int) -> None:
        """No read of ``key`` is older than this from now on: a leader may be behind the follower that a watch is at."""
        if revision < self._floors.get(key, (0, 0.0))[0]:
            return
        if len(self._floors) >= _REMEMBERED:
            for old in tuple(self._floors)[: _REMEMBERED // 2]:
                del self._floors[old]
        self._floors[key] = revision, time.monotonic()
