"""Requests to JetStream with a time limit, on a connection that may come and go."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Mapping
from itertools import count
from typing import TYPE_CHECKING, Any, Final, TypeVar

from holdfast.errors import CodecError, ConnectionFailed, HoldfastError, OperationTimeout
from holdfast.kv.messages import NO_STREAM, Refusal, decode, refusal

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

T = TypeVar("T")

_FIRST_PAUSE_S: Final = 0.02
_LAST_PAUSE_S: Final = 0.25
#: An attempt that was not answered is repeated after this, later after a little more: what was sent to a server that
#: died or lost the lead is never answered.
ATTEMPT_S: Final = 1.0
_LONGEST_ATTEMPT_S: Final = 1.5


class Silence(Exception):
    """No answer. ``is_sent``: the server may have acted all the same."""

    def __init__(self, *, is_sent: bool, cause: BaseException) -> None:
        super().__init__()
        self.is_sent = is_sent
        self.cause = cause


class Link:
    """A client of nats-py, asked so that only this library's errors come out.

    Answers come to an inbox of our own: the client's request costs a tenth of a write more than this.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self._inbox = f"{client.new_inbox()}."
        self._waiting: dict[str, asyncio.Future[Msg]] = {}
        self._numbers = count()
        self._answers: Subscription | None = None
        self._opening = asyncio.Lock()

    async def close(self) -> None:
        """Hear no more answers. The client stays open."""
        answers, self._answers = self._answers, None
        if answers is not None and not self.client.is_closed:
            await answers.unsubscribe()

    @property
    def reconnects(self) -> int:
        """How often the connection was lost and found again."""
        reconnects: int = self.client.stats["reconnects"]
        return reconnects

    async def ping(self, timeout_s: float) -> None:
        """A round trip to the server: a message to ourselves. Raises Silence, ConnectionFailed.

        ``Client.flush`` would do, but an answer to it that comes after its time ends the client's reading for good
        (nats-py 2.16, ``_process_pong`` sets a result on a cancelled future).
        """
        await self.ask("", b"", timeout_s)

    async def ask(self, subject: str, payload: bytes, timeout_s: float, headers: dict[str, str] | None = None) -> bytes:
        """One attempt; without a subject we answer ourselves. Raises Silence; ConnectionFailed for a closed client."""
        loop = asyncio.get_running_loop()
        token = str(next(self._numbers))
        answer: asyncio.Future[Msg] = loop.create_future()
        self._waiting[token] = answer
        timer = loop.call_later(timeout_s, _give_up, answer)
        try:
            if self._answers is None:
                await self._open()
            reply = self._inbox + token
            await self.client.publish(subject or reply, payload, reply=reply, headers=headers)
            message = await answer
        except Exception as error:
            raise _translated(error) from None
        finally:
            timer.cancel()
            del self._waiting[token]
        data: bytes = message.data
        if not data and message.headers and message.headers.get("Status") == "503":
            raise Silence(is_sent=False, cause=ConnectionRefusedError("no responders"))
        return data

    async def _open(self) -> None:
        async with self._opening:
            if self._answers is None:
                self._answers = await self.client.subscribe(f"{self._inbox}*", cb=self._on_answer)

    async def _on_answer(self, message: Msg) -> None:
        waiting = self._waiting.get(message.subject[len(self._inbox) :])
        if waiting is not None and not waiting.done():
            waiting.set_result(message)

    async def call(
        self, subject: str, body: Mapping[str, Any] | None, timeout_s: float, *, is_patient: bool = True
    ) -> dict[str, Any] | Refusal:
        """Ask an idempotent question until it is answered.

        ``is_patient`` waits for a stream that is not there, too. Raises ConnectionFailed, OperationTimeout.
        """
        tries = Tries(self, timeout_s, is_question=True)
        payload = json.dumps(body).encode() if body is not None else b""
        refused: Refusal | None = None
        while refused is None or not tries.is_over:
            try:
                answer = decode(await self.ask(subject, payload, await tries.next_s()))
            except Silence as silence:
                await tries.pause(silence)
                continue
            refused = refusal(answer)
            if refused is None:
                return answer
            if not refused.is_passing or (refused.code == NO_STREAM and not is_patient):
                break
            await tries.pause(None)
        return refused


def _give_up(answer: asyncio.Future[Msg]) -> None:
    if not answer.done():
        answer.set_exception(TimeoutError())


def _translated(error: Exception) -> Exception:
    """Our word for what nats-py raises."""
    from nats import errors

    if isinstance(error, TimeoutError):
        return Silence(is_sent=True, cause=error)
    if isinstance(error, errors.OutboundBufferLimitError):
        return Silence(is_sent=False, cause=error)
    if isinstance(error, errors.MaxPayloadError):
        return CodecError("the value is larger than NATS takes", driver_error=error)
    if isinstance(error, (errors.Error, OSError)):
        return ConnectionFailed("the connection to NATS is closed", driver_error=error)
    return error


class Tries:
    """The attempts of one operation: how long the next may take, the pause before it, the error at the end."""

    def __init__(self, link: Link, timeout_s: float, *, is_question: bool = False) -> None:
        self._link = link
        self._clock = asyncio.get_running_loop().time
        self._start = self._clock()
        self._end = self._start + timeout_s
        self._attempt_s = ATTEMPT_S
        self._pause_s = _FIRST_PAUSE_S
        self._cause: BaseException | None = None
        self._is_question = is_question
        #: Whether an attempt may have taken effect without an answer.
        self.is_unknown = False

    @property
    def left_s(self) -> float:
        return self._end - self._clock()

    @property
    def elapsed_s(self) -> float:
        return self._clock() - self._start

    @property
    def is_over(self) -> bool:
        return self.left_s <= 0

    async def next_s(self) -> float:
        """Wait for a connection, then say how long the attempt may take. Raises ConnectionFailed, OperationTimeout."""
        while not self._link.client.is_connected:
            if self._link.client.is_closed or self.is_over:
                raise self.error()
            await asyncio.sleep(min(_FIRST_PAUSE_S, max(self.left_s, 0)))
        if self.is_over:
            raise self.error()
        attempt_s = min(self._attempt_s, self.left_s)
        self._attempt_s = min(self._attempt_s * 2, _LONGEST_ATTEMPT_S)
        return attempt_s

    async def pause(self, silence: Silence | None) -> None:
        """Note why the last attempt failed, and wait a moment where it failed at once."""
        if silence is not None:
            self._cause = silence.cause
            self.is_unknown = self.is_unknown or (silence.is_sent and not self._is_question)
            if silence.is_sent:
                return
        await asyncio.sleep(max(0, min(self._pause_s, self.left_s)))
        self._pause_s = min(self._pause_s * 2, _LAST_PAUSE_S)

    def error(self) -> HoldfastError:
        """What to raise when the time is over."""
        outcome = "whether it took effect is unknown" if self.is_unknown else "nothing was changed"
        if self._link.client.is_connected:
            return OperationTimeout(f"NATS did not answer in time; {outcome}", driver_error=self._cause)
        reason = "was closed: use a plane inside of its `async with`" if self._link.client.is_closed else "is lost"
        return ConnectionFailed(f"the connection to NATS {reason}; {outcome}", driver_error=self._cause)


async def finish(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work``, which has a time limit of its own, to its end even while the caller is being cancelled.

    Raises CancelledError afterwards where the caller was cancelled, else what ``work`` raises.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()
        raise cancelled
    return task.result()
