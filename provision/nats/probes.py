"""Count the messages that a step would delete, from live state, reading as little as possible."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from provision.nats.api import Json, Link
from provision.nats.errors import ApiError

_NOT_FOUND = 404
_SUBJECTS_PAGE = 100_000


async def count(link: Link, probe: Mapping[str, Any]) -> int | None:
    """How many messages are at stake (see ``provision.nats.kinds.loss``); None where the object is gone."""
    name = probe["stream"]
    try:
        if "consumer" in probe:
            info = await link.request(f"$JS.API.CONSUMER.INFO.{name}.{probe['consumer']}")
            return int(info["num_pending"]) + int(info["num_ack_pending"])
        state = (await link.request(f"$JS.API.STREAM.INFO.{name}"))["state"]
        messages = int(state["messages"])
        if not messages:
            return 0
        if "max_msgs" in probe:
            return max(0, messages - int(probe["max_msgs"]))
        if "max_bytes" in probe:
            return await _over_bytes(link, name, state, int(probe["max_bytes"]))
        if "max_age" in probe:
            return await _older_than(link, name, state, int(probe["max_age"]))
        if "max_msgs_per_subject" in probe:
            return await _over_subjects(link, name, int(probe["max_msgs_per_subject"]))
    except ApiError as error:
        if error.code == _NOT_FOUND:
            return None
        raise
    return messages


async def _over_bytes(link: Link, name: str, state: Json, limit: int) -> int:
    """The oldest messages go until the rest fits. The average size is enough to say how many, rounded up."""
    size, messages = int(state["bytes"]), int(state["messages"])
    surplus = max(0, size - limit)
    return min(messages, -(-surplus * messages // size)) if surplus and size else 0


async def _older_than(link: Link, name: str, state: Json, age_ns: int) -> int:
    """Messages before the first one that is young enough, found by bisection over stored times."""
    cutoff = time.time_ns() - age_ns
    low, high = int(state["first_seq"]), int(state["last_seq"]) + 1
    while low < high:
        middle = (low + high) // 2
        found = await _message(link, name, {"seq": middle, "next_by_subj": ">"})
        if found is None or time_ns(found["time"]) >= cutoff:
            high = middle
        else:
            low = int(found["seq"]) + 1
    # Gaps of deleted messages are taken as spread evenly.
    span = int(state["last_seq"]) - int(state["first_seq"]) + 1
    older = low - int(state["first_seq"])
    return int(state["messages"]) if older >= span else -(-older * int(state["messages"]) // span)


async def _message(link: Link, name: str, body: Json) -> Json | None:
    try:
        message: Json = (await link.request(f"$JS.API.STREAM.MSG.GET.{name}", body))["message"]
    except ApiError as error:
        if error.code == _NOT_FOUND:
            return None
        raise
    return message


def time_ns(text: str) -> int:
    """Read a time of the server as nanoseconds since 1970."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    moment = datetime.fromisoformat(whole).replace(tzinfo=UTC)
    seconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)
    return seconds * 10**9 + int((fraction + "0" * 9)[:9])


async def _over_subjects(link: Link, name: str, limit: int) -> int:
    """The surplus of each subject; the server lists a hundred thousand subjects a page."""
    total, offset = 0, 0
    while True:
        body = {"subjects_filter": ">", "offset": offset}
        info = await link.request(f"$JS.API.STREAM.INFO.{name}", body, 30.0)
        subjects: Mapping[str, int] = info["state"].get("subjects") or {}
        total += sum(max(0, number - limit) for number in subjects.values())
        offset += len(subjects)
        if not subjects or offset >= int(info.get("total") or 0) or len(subjects) < _SUBJECTS_PAGE:
            return total
