"""What a NATS user must be allowed to publish for plan and apply, and what it lacks. Pure.

A user learns its own permissions from ``$SYS.REQ.USER.INFO`` (NATS docs, Authorization).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from provision.nats.kinds.subjects import collide, subset

#: Answers with the permissions of the user that asks.
USER_INFO = "$SYS.REQ.USER.INFO"
#: Reading: what plan, drift, status and import ask.
TO_PLAN = (
    "$JS.API.INFO",
    "$JS.API.STREAM.LIST",
    "$JS.API.STREAM.INFO.*",
    "$JS.API.STREAM.MSG.GET.*",
    "$JS.API.CONSUMER.LIST.*",
    "$JS.API.CONSUMER.INFO.*.*",
)
#: Writing: what apply and destroy send besides. The contract is a key of the bucket HOLDFAST.
TO_APPLY = (
    "$JS.API.STREAM.CREATE.*",
    "$JS.API.STREAM.UPDATE.*",
    "$JS.API.STREAM.DELETE.*",
    "$JS.API.STREAM.PURGE.KV_HOLDFAST",
    "$JS.API.CONSUMER.CREATE.*.*",
    "$JS.API.CONSUMER.DELETE.*.*",
    "$JS.API.CONSUMER.PAUSE.*.*",
    "$KV.HOLDFAST.>",
)
#: Answers come to inboxes.
INBOX = "_INBOX.>"


def lacking(permissions: Mapping[str, Any] | None, needed: Iterable[str] = (*TO_PLAN, *TO_APPLY)) -> list[str]:
    """The subjects a user may not publish to, of those that are needed; then its inbox, if it may not listen there.

    ``permissions`` is the part of that name in the server's answer; without one everything is allowed.
    """
    if not permissions:
        return []
    missing = [f"publish to {s}" for s in needed if not _allowed(permissions.get("publish") or {}, s)]
    if not _allowed(permissions.get("subscribe") or {}, INBOX):
        missing.append(f"subscribe to {INBOX}")
    return missing


def _allowed(rule: Mapping[str, Any], subject: str) -> bool:
    allow, deny = rule.get("allow"), rule.get("deny") or ()
    return (allow is None or any(subset(subject, a) for a in allow)) and not any(collide(subject, d) for d in deny)
