"""Sends rows of the outbox to their streams: subjects side by side, the rows of one subject one after the other."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from holdfast import points
from holdfast.errors import ConfigurationError, ConnectionFailed, HoldfastError, OperationTimeout
from holdfast.events.outbox import EXPECTED_STREAM, MESSAGE_ID, Streams, check_headers, check_subject
from holdfast.kv.link import Link, Silence
from holdfast.tasks import together

if TYPE_CHECKING:
    from nats.aio.client import Client

    from holdfast.contract import Contract
    from holdfast.events.relay import Row

#: The duplicate window of a stream that declares none (NATS documentation, Streams).
_DEFAULT_WINDOW_S: Final = 120.0
#: How long a batch may take.
STEP_S: Final = 60.0
#: A row this much younger than the window is left to the server. It may be sent as late as its batch ends.
_MARGIN_S: Final = STEP_S + 10.0
#: Error codes of JetStream that no repetition mends: message too large, not the expected stream (server, errors.json).
_FINAL: Final = {10054: "it is larger than its stream allows", 10060: "another stream than declared took it"}
_NO_MESSAGE: Final = 10037
_PING_S: Final = 2.0


@dataclass
class Report:
    """What became of a batch: rows in their streams, rows that never will be, and the streams that take none now."""

    done: list[UUID] = field(default_factory=list)
    duplicates: int = 0
    refused: dict[UUID, str] = field(default_factory=dict)
    down: dict[str, HoldfastError] = field(default_factory=dict)
    #: False when NATS itself does not answer.
    is_reachable: bool = True


class Publisher:
    """Publishes batches over one connection; at most ``in_flight`` messages wait for their acknowledgement."""

    def __init__(self, client: Client, contract: Contract, streams: Streams, in_flight: int, timeout_s: float) -> None:
        self._client, self._streams, self._timeout_s = client, streams, timeout_s
        self._link = Link(client)
        self._slots = asyncio.Semaphore(in_flight)
        self._windows = {name: spec.duplicate_window_s or _DEFAULT_WINDOW_S for name, spec in contract.streams.items()}

    async def publish(self, rows: Sequence[Row], skipped: Collection[str] = ()) -> Report:
        """Send all but those of the streams ``skipped``; what fails is in the report."""
        report = Report()
        lanes: dict[str, list[Row]] = {}
        for row in rows:
            lanes.setdefault(row.subject, []).append(row)
        await together(self._lane(subject, lane, skipped, report) for subject, lane in lanes.items())
        if report.down and not report.done:
            report.is_reachable = await self._is_reachable()
        return report

    async def _is_reachable(self) -> bool:
        if not self._client.is_connected:
            return False
        try:
            await self._link.ping(_PING_S)
        except (Silence, ConnectionFailed):
            return False
        return True

    async def _lane(self, subject: str, lane: list[Row], skipped: Collection[str], report: Report) -> None:
        found = self._streams.find(subject)
        if found is None:
            report.refused.update({row.outbox_id: "no stream of the plane takes its subject" for row in lane})
            return
        stream = found[0]
        if stream in skipped:
            return
        lane = [row for row in lane if _is_sound(row, report)]
        try:
            for row in await self._missing(stream, subject, lane, report):
                async with self._slots:
                    # One failure of a stream is enough to know.
                    if stream in report.down:
                        return
                    await self._send(stream, row, report)
        except HoldfastError as error:
            report.down.setdefault(stream, error)

    async def _send(self, stream: str, row: Row, report: Report) -> None:
        from nats.errors import MaxPayloadError

        headers = {**row.headers, MESSAGE_ID: str(row.outbox_id), EXPECTED_STREAM: stream}
        try:
            answer = await self._request(row.subject, row.payload.encode(), headers)
        except MaxPayloadError:
            report.refused[row.outbox_id] = "it is larger than the server allows"
            return
        code = _code_of(answer)
        if code is not None:
            if code not in _FINAL:
                raise ConnectionFailed(f"stream {stream} does not take events now (error {code})")
            report.refused[row.outbox_id] = _FINAL[code]
            return
        # Whoever hears the subject may answer before the stream does.
        is_acknowledged = answer.get("stream") == stream and isinstance(answer.get("seq"), int)
        if not is_acknowledged and await self._last(stream, row.subject) != str(row.outbox_id):
            raise ConnectionFailed(
                f"somebody else answered for stream {stream}: subscribers to it must send no replies"
            )
        points.reach("relay.acknowledged")
        report.done.append(row.outbox_id)
        report.duplicates += bool(is_acknowledged and answer.get("duplicate"))

    async def _missing(self, stream: str, subject: str, lane: list[Row], report: Report) -> list[Row]:
        """The rows of a lane that the stream does not hold.

        The server tells for young ones. Of those older than its window a relay that crashed may have sent some: as it
        sends in order, the last message of the subject says how many.
        """
        if max((row.age_s for row in lane), default=0.0) < self._windows[stream] - _MARGIN_S:
            return lane
        last = await self._last(stream, subject)
        for place, row in enumerate(lane):
            if str(row.outbox_id) == last:
                there = lane[: place + 1]
                report.done.extend(earlier.outbox_id for earlier in there)
                report.duplicates += len(there)
                return lane[place + 1 :]
        return lane

    async def _last(self, stream: str, subject: str) -> str | None:
        """The id of the last message of a subject."""
        request = json.dumps({"last_by_subj": subject}).encode()
        answer = await self._request(f"$JS.API.STREAM.MSG.GET.{stream}", request, None)
        code = _code_of(answer)
        if code == _NO_MESSAGE:
            return None
        message = answer.get("message")
        if code is not None or not isinstance(message, dict):
            raise ConnectionFailed(f"stream {stream} cannot be read now (error {code})")
        return _message_id(message.get("hdrs"))

    async def _request(self, subject: str, payload: bytes, headers: dict[str, str] | None) -> dict[str, Any]:
        """What is answered, empty where that is no JSON object. Raises ConnectionFailed, OperationTimeout."""
        from nats.errors import Error, MaxPayloadError, NoRespondersError

        if not self._client.is_connected:  # nats-py would keep it and send it past the stream's window
            raise ConnectionFailed("NATS cannot be reached")
        try:
            async with asyncio.timeout(self._timeout_s + 1):
                reply = await self._client.request(subject, payload, timeout=self._timeout_s, headers=headers)
        except MaxPayloadError:
            raise
        except NoRespondersError as error:
            raise ConnectionFailed("no stream answers for a subject of the plane", driver_error=error) from None
        except TimeoutError as error:
            raise OperationTimeout("JetStream did not acknowledge in time", driver_error=error) from None
        except (Error, OSError) as error:
            raise ConnectionFailed("NATS cannot be reached", driver_error=error) from None
        try:
            answer = json.loads(reply.data)
        except ValueError:
            return {}
        return answer if isinstance(answer, dict) else {}


def _is_sound(row: Row, report: Report) -> bool:
    """Whether a row, which anybody may have written, can be sent at all; if not, it is refused."""
    try:
        check_subject(row.subject)
        check_headers(row.headers)
    except ConfigurationError as error:
        report.refused[row.outbox_id] = str(error)
        return False
    return True


def _code_of(answer: dict[str, Any]) -> int | None:
    """The error code of JetStream, or None where it is no error of JetStream's."""
    error = answer.get("error")
    code = error.get("err_code") if isinstance(error, dict) else None
    return code if isinstance(code, int) else None


def _message_id(headers: str | None) -> str | None:
    for line in base64.b64decode(headers or "").decode(errors="replace").split("\r\n"):
        name, _, value = line.partition(":")
        if name.lower() == MESSAGE_ID.lower():
            return value.strip()
    return None
