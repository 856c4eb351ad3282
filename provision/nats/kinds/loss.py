"""Which updates make the server delete messages, and how to count them beforehand. Pure.

A probe is read by ``provision.nats.apply.count``: ``{"stream": NAME}`` counts all messages; one further key
narrows it: ``max_age`` (ns), ``max_msgs``, ``max_bytes``, ``max_msgs_per_subject`` count what is over that
limit, ``consumer`` counts what the consumer has not finished.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from provision.spec.change import Hazard
from provision.spec.units import format_duration, format_size

_LIMITS = ("max_age", "max_msgs", "max_bytes", "max_msgs_per_subject")
#: Limits that refuse new messages instead of deleting old ones where discard is new.
_GUARDED_BY_DISCARD = ("max_msgs", "max_bytes")


def all_messages(stream: str) -> Hazard:
    """Everything in the stream goes."""
    return Hazard("data_loss", f"deletes every message of stream {stream}", unit="messages", probe={"stream": stream})


def by_update(
    stream: str, before: Mapping[str, Any], after: Mapping[str, Any], has_consumers: bool
) -> tuple[Hazard, ...]:
    """What an in-place update deletes at once."""
    found = [
        Hazard(
            "data_loss",
            f"{name} {_text(name, before[name])} -> {_text(name, after[name])} deletes messages",
            unit="messages",
            probe={"stream": stream, name: after[name]},
        )
        for name in _LIMITS
        if _is_tightened(name, before, after)
    ]
    if before["retention"] == "limits" and after["retention"] == "interest":
        detail = "retention interest deletes what no consumer waits for"
        probe: dict[str, Any] = {"stream": stream}
        if has_consumers:
            detail += " (at most this many)"
        found.append(Hazard("data_loss", detail, unit="messages", probe=probe))
    return tuple(found)


def _is_tightened(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    if after[name] in (0, -1):
        return False
    lowered = before[name] in (0, -1) or after[name] < before[name]
    if name not in _GUARDED_BY_DISCARD:
        return bool(lowered)
    # Turning discard new into old makes the server enforce a limit that it has only guarded so far.
    return after["discard"] == "old" and (lowered or before["discard"] == "new")


def _text(name: str, value: int) -> str:
    if value in (0, -1):
        return "unlimited"
    if name == "max_age":
        return format_duration(value)
    return format_size(value) if name == "max_bytes" else str(value)
