"""One write under compare-and-set: sent, recognised after a lost acknowledgement, or refused for certain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from holdfast.errors import (
    BackPressure,
    CodecError,
    ConnectionFailed,
    HoldfastError,
    OperationTimeout,
    Unsupported,
    VersionConflict,
)
from holdfast.kv import messages
from holdfast.kv.entry import WRITE_ID, Entry, Position
from holdfast.kv.link import ATTEMPT_S, Silence, Tries
from holdfast.kv.messages import Refusal

if TYPE_CHECKING:
    from holdfast.kv.bucket import Bucket

_UNSETTLED_TRIES: Final = 8


@dataclass(slots=True)
class Write:
    """A write and what became of it. ``position`` is set as soon as it is known to be stored."""

    key: str
    subject: str
    payload: bytes
    headers: dict[str, str]
    expect: int
    #: The subject, or the wildcard below which nothing may have been written after ``expect``.
    scope: str
    #: The shortest time after which the server may expire it.
    lives_s: float
    #: Incarnation of the bucket that ``expect`` belongs to; where that is 0, the one it was sent to.
    incarnation: int
    #: Highest revision that the bucket had shown when it was sent.
    floor: int = 0
    position: Position | None = None

    @property
    def write_id(self) -> str:
        return self.headers[WRITE_ID]


async def settle(bucket: Bucket, write: Write, tries: Tries, refused: Refusal | None) -> int:
    """Bring a write to a certain end after its first attempt gave no revision: the revision at which it is stored.

    ``refused`` is what the first attempt was answered, None when it was not. Raises VersionConflict without ``current``
    when it is certain that the write is not stored; OperationTimeout or ConnectionFailed when that stays unknown.
    """
    unsettled = 0
    while True:
        if refused is not None:
            unsettled += refused.code == messages.UNSETTLED_SEQUENCE
            # The write that is on its way may be an earlier attempt of this one: then there is nothing but to wait.
            is_certain = unsettled > _UNSETTLED_TRIES and not tries.is_unknown
            if refused.code == messages.WRONG_SEQUENCE or is_certain:
                return await _decide(bucket, write, tries, refused)
            if refused.code != messages.UNSETTLED_SEQUENCE and not refused.is_passing:
                return await _look_back(bucket, write, tries, refused)
            # A leader that steps down refuses what it has proposed already.
            tries.is_unknown |= refused.code not in {messages.UNSETTLED_SEQUENCE, messages.NO_STREAM}
            if tries.is_over:
                raise tries.error()
            await tries.pause(None)
        try:
            data = await bucket.link.ask(write.subject, write.payload, await tries.next_s(), write.headers)
        except Silence as silence:
            refused = None
            await tries.pause(silence)
            continue
        answer = messages.decode(data)
        refused = messages.refusal(answer)
        if refused is None:
            return int(answer["seq"])


async def _look_back(bucket: Bucket, write: Write, tries: Tries, refused: Refusal) -> int:
    """Refused for good, as by a full bucket, unless an earlier attempt got in."""
    if tries.is_unknown:
        try:
            following = await bucket.following(write.scope, write.expect + 1)
        except (OperationTimeout, ConnectionFailed):
            raise tries.error() from None
        if following is not None and following.headers.get(WRITE_ID) == write.write_id:
            return following.position.revision
    raise failure(bucket, refused)


async def _decide(bucket: Bucket, write: Write, tries: Tries, refused: Refusal) -> int:
    """What a wrong sequence means: a conflict, or one's own earlier attempt."""
    if not tries.is_unknown:
        raise conflict(write)
    try:
        if await bucket.refresh_incarnation() != write.incarnation:
            raise conflict(write)
        return await _find(bucket, write, tries, refused)
    except (OperationTimeout, ConnectionFailed):
        raise tries.error() from None


async def _find(bucket: Bucket, write: Write, tries: Tries, refused: Refusal) -> int:
    """Tell a write whose acknowledgement was lost from one that another was faster than.

    A compare-and-set that succeeded is the next message of its scope after ``expect``.
    """
    while True:
        left_s = max(tries.left_s, 0.001)
        following = await bucket.following(write.scope, write.expect + 1, timeout_s=left_s)
        if following is not None or (refused.sequence or 0) <= write.expect:
            break
        if tries.is_over:
            raise tries.error()
        # What the server refused by is not committed yet, or not applied by a member that has just become leader.
        await tries.pause(None)
    if following is None:
        # What was there has expired; ours may have been that, if it had the time.
        if tries.elapsed_s + ATTEMPT_S < write.lives_s:
            raise conflict(write)
        raise tries.error()
    if following.headers.get(WRITE_ID) == write.write_id:
        return following.position.revision
    if await _is_direct_successor(bucket, write, following, tries):
        raise conflict(write)
    raise tries.error()


async def _is_direct_successor(bucket: Bucket, write: Write, following: Entry, tries: Tries) -> bool:
    """Whether nothing, so not our write either, stood between ``expect`` and the message that follows it now."""
    if following.headers.get(messages.EXPECTED) == str(write.expect):
        return True
    if write.expect == 0:
        return False
    # The bucket forgets a key's oldest messages first: while the expected one is there, none after it is missing.
    before = await bucket.following(write.scope, write.expect, timeout_s=max(tries.left_s, 0.001))
    return before is not None and before.position.revision == write.expect and before.key == write.key


def conflict(write: Write) -> VersionConflict:
    return VersionConflict(f"{write.key} was written by somebody else since revision {write.expect}")


def failure(bucket: Bucket, refused: Refusal) -> HoldfastError:
    """The error for what the server refuses for good; nothing was written."""
    if refused.is_full:
        return BackPressure(f"the bucket {bucket.name} is full")
    if refused.code == messages.MESSAGE_TOO_LARGE:
        return CodecError(f"the value is larger than the bucket {bucket.name} takes")
    if refused.code in {messages.TTL_DISABLED, messages.TTL_INVALID}:
        return Unsupported(f"the bucket {bucket.name} takes no time to live for a single write")
    return HoldfastError(f"NATS refused a write to the bucket {bucket.name} with its error {refused.code}")
