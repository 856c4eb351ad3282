"""The forms of JetStream: keys and subjects, headers, stored and delivered messages, answers. Pure."""

from __future__ import annotations

import json
import math
import re
from base64 import b64decode
from calendar import timegm
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

from holdfast.errors import CodecError, ConfigurationError
from holdfast.kv.entry import Entry, Operation, Position

# Headers of the server ---------------------------------------------------------------------------------------

EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"
EXPECTED_SUBJECT: Final = "Nats-Expected-Last-Subject-Sequence-Subject"
TTL: Final = "Nats-TTL"
OPERATION: Final = "KV-Operation"
MARKER: Final = "Nats-Marker-Reason"

# Error codes of the server (nats-server, server/errors.json) ------------------------------------------------

NO_MESSAGE: Final = 10037
MESSAGE_TOO_LARGE: Final = 10054
NO_STREAM: Final = 10059
WRONG_SEQUENCE: Final = 10071
#: The same, where another write of the subject is still on its way and the sequence is not settled.
UNSETTLED_SEQUENCE: Final = 10164
STORE_FULL: Final = 10077
TTL_INVALID: Final = 10165
TTL_DISABLED: Final = 10166

_KEY: Final = re.compile(r"[-/_=a-zA-Z0-9]+(?:\.[-/_=a-zA-Z0-9]+)*")
_FILTER: Final = re.compile(r"(?:(?:\*|[-/_=a-zA-Z0-9]+)\.)*(?:\*|>|[-/_=a-zA-Z0-9]+)")
_TIME: Final = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:Z|([+-])(\d\d):(\d\d))")
_ACKNOWLEDGED: Final = re.compile(rb'\{"stream":"[^"]*", ?(?:"domain":"[^"]*", ?)?"seq":(\d+)[,}]')
_SEQUENCE: Final = re.compile(r"wrong last sequence: (\d+)")

#: Time to live of one write: seconds; "never" outlives the bucket's; None leaves it to the bucket.
Ttl = float | Literal["never"] | None


class Refusal(NamedTuple):
    """An error that the server answered: HTTP-like ``status``, ``code`` of errors.json, its words."""

    status: int
    code: int
    description: str

    @property
    def is_passing(self) -> bool:
        """Whether a server that starts, elects or rebuilds may answer better in a moment."""
        return (self.status == 503 and not self.is_full) or self.code == NO_STREAM

    @property
    def is_full(self) -> bool:
        """Whether the stream's bound in bytes or messages is reached."""
        return self.code == STORE_FULL and "maximum" in self.description

    @property
    def sequence(self) -> int | None:
        """The last sequence that a refused compare-and-set names."""
        found = _SEQUENCE.search(self.description)
        return int(found[1]) if found else None


class Delivery(NamedTuple):
    """What the reply subject of a delivered message tells."""

    revision: int
    consumer_sequence: int
    created_ns: int
    pending: int


def check_key(key: str) -> str:
    """Give ``key`` back. Raises CodecError for what NATS does not take as a key of a bucket."""
    if _KEY.fullmatch(key) is None:
        raise CodecError(f"{key!r} is no key: use letters, digits, - / _ = in tokens that are separated by dots")
    return key


def check_filter(pattern: str) -> str:
    """Give ``pattern`` back. Raises CodecError unless it is a key with ``*`` for a token or ``>`` for the rest."""
    if _FILTER.fullmatch(pattern) is None:
        raise CodecError(f"{pattern!r} is no filter of keys: use tokens, * for one token, > for the rest")
    return pattern


def ttl_text(ttl_s: float) -> str:
    """The header's form: whole seconds, rounded up, at least one. Raises ConfigurationError unless positive."""
    if not ttl_s > 0 or math.isinf(ttl_s):
        raise ConfigurationError("a time to live is a positive number of seconds, or never")
    return f"{math.ceil(ttl_s)}s"


def life_of(headers: Mapping[str, str], bucket_s: float) -> float:
    """How long a message lives after it was written; ``bucket_s`` without a time of its own."""
    text = headers.get(TTL)
    if text is None:
        return bucket_s
    number = text.removesuffix("s")
    return min(float(number), bucket_s) if number.isdigit() else math.inf


def refusal(answer: Mapping[str, Any]) -> Refusal | None:
    """The error of an answer, None where it has none."""
    error = answer.get("error")
    if error is None:
        return None
    return Refusal(int(error.get("code", 0)), int(error.get("err_code", 0)), str(error.get("description", "")))


def decode(data: bytes) -> dict[str, Any]:
    """A JSON answer of the server. Raises CodecError."""
    try:
        answer = json.loads(data)
    except ValueError as error:
        raise CodecError("a server answered something that is not JSON", driver_error=error) from None
    if not isinstance(answer, dict):
        raise CodecError("a server answered something that is no JSON object")
    return answer


def acknowledged(data: bytes) -> int | None:
    """The revision of an ordinary acknowledgement; None for what must be decoded to be understood."""
    found = _ACKNOWLEDGED.match(data)
    return int(found[1]) if found is not None else None


def nanoseconds(text: str) -> int:
    """A time of the server (RFC 3339, up to nine digits of a second) as nanoseconds since 1970. Raises CodecError."""
    found = _TIME.fullmatch(text)
    if found is None:
        raise CodecError(f"a server gave the time {text!r}, which is not RFC 3339")
    year, month, day, hour, minute, second = (int(part) for part in found.groups()[:6])
    seconds = timegm((year, month, day, hour, minute, second))
    if found[8]:
        offset = int(found[9]) * 3600 + int(found[10]) * 60
        seconds -= offset if found[8] == "+" else -offset
    return seconds * 1_000_000_000 + int((found[7] or "").ljust(9, "0"))


def headers_of(raw: bytes) -> dict[str, str]:
    """Headers as a stored message holds them, after the line ``NATS/1.0``."""
    headers: dict[str, str] = {}
    for line in raw.decode("utf-8", "replace").split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if colon:
            headers[name] = value.strip()
    return headers


def operation_of(headers: Mapping[str, str]) -> Operation:
    """What a message means. A marker of the server says whether its key expired or was removed."""
    reason = headers.get(MARKER)
    if reason is not None:
        return "expired" if reason == "MaxAge" else "delete"
    return "delete" if headers.get(OPERATION) in {"DEL", "PURGE"} else "put"


def entry_of_stored(message: Mapping[str, Any], skip: int, incarnation: int) -> Entry:
    """An entry from the answer to MSG.GET; ``skip`` is the length of the subject's part before the key."""
    raw = message.get("hdrs")
    headers = headers_of(b64decode(raw)) if raw else {}
    operation = operation_of(headers)
    value = b64decode(message.get("data") or "") if operation == "put" else None
    position = Position(incarnation, int(message["seq"]))
    return Entry(str(message["subject"])[skip:], value, position, operation, headers, nanoseconds(message["time"]))


def delivery_of(reply: str) -> Delivery | None:
    """Parse ``$JS.ACK.…``, whose newer form carries domain and account before the stream; None for anything else."""
    tokens = reply.split(".")
    if len(tokens) < 9 or tokens[:2] != ["$JS", "ACK"]:
        return None
    first = 4 if len(tokens) == 9 else 6
    revision, sequence, created, pending = tokens[first + 1 : first + 5]
    return Delivery(int(revision), int(sequence), int(created), int(pending))


def entry_of_delivered(
    subject: str, data: bytes, headers: Mapping[str, str] | None, delivery: Delivery, skip: int, incarnation: int
) -> Entry:
    """An entry from a message that a consumer delivered."""
    kept = headers or {}
    operation = operation_of(kept)
    value = data if operation == "put" else None
    return Entry(subject[skip:], value, Position(incarnation, delivery.revision), operation, kept, delivery.created_ns)
