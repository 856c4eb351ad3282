"""Keys of state as subjects: what NATS refuses in a key is escaped, and comes back the same."""

from __future__ import annotations

import re
from uuid import UUID

from holdfast.errors import CodecError

#: The columns of state keys, and of the names of agents and checkpoints, take so many characters.
MAX_LENGTH = 255
#: Those of an agent's type, and of why there is a checkpoint.
MAX_TYPE, MAX_TRIGGER = 50, 100
#: Keys of the library itself begin so; nobody else's may.
RESERVED = "holdfast."
#: The record of an edit: everything it changes, in one write. See ``edits.py``.
EDIT_KEY = "holdfast.edit"
#: Where the flusher notes which incarnation of the bucket its journal follows.
FLUSHER_KEY = "holdfast.flusher"

_LITERAL = re.compile(rb"[-/_a-zA-Z0-9]")
_ESCAPED = re.compile(r"=([0-9A-F]{2})")


def check_text(text: object, most: int, what: str) -> str:
    """Give text back that the database takes, of 1 to ``most`` characters. Raises CodecError, which names ``what``."""
    if not isinstance(text, str) or not 0 < len(text) <= most or "\0" in text:
        raise CodecError(f"{what} is text of 1 to {most} characters, without NUL")
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        raise CodecError(f"{what} is not valid Unicode")
    return text


def agent_uuid(agent_id: UUID | str) -> UUID:
    """Read an agent's id. Raises CodecError when it is no UUID."""
    if isinstance(agent_id, UUID):
        return agent_id
    try:
        return UUID(agent_id)
    except (ValueError, AttributeError, TypeError):
        raise CodecError("the id of an agent is a UUID; of a name, uuid.uuid5 makes one") from None


def encode_key(key: str) -> str:
    """Turn a state key into tokens of a subject; every byte that a key may not hold becomes ``=XX``.

    The sign is ``=`` because other clients of key-value buckets refuse ``%``. A dot that separates two parts stays,
    so that a watch can select by parts. Raises CodecError for an empty key, one of more than 255 characters, and
    one with a NUL.
    """
    raw = check_text(key, MAX_LENGTH, "a state key").encode()
    out = []
    for index in range(len(raw)):
        char = raw[index : index + 1]
        separates = char == b"." and 0 < index < len(raw) - 1 and raw[index + 1 : index + 2] != b"."
        separates = separates and raw[index - 1 : index] != b"."
        out.append(char.decode() if separates or _LITERAL.match(char) else f"={raw[index]:02X}")
    return "".join(out)


def decode_key(encoded: str) -> str:
    """Undo ``encode_key``. Raises CodecError for what it could not have made."""
    try:
        raw = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), encoded).encode("latin-1")
        key = raw.decode()
    except UnicodeError:
        raise CodecError("a key of the bucket is not one of ours") from None
    if encode_key(key) != encoded:
        raise CodecError("a key of the bucket is not one of ours")
    return key


def bucket_key(agent_id: UUID, state_key: str) -> str:
    """The bucket's key of one value. Raises CodecError."""
    return f"{agent_id}.state.{encode_key(state_key)}"


def parse_bucket_key(key: str) -> tuple[UUID, str] | None:
    """Return agent and state key, or None for leases and for what is no agent's state."""
    agent, _, rest = key.partition(".")
    kind, _, encoded = rest.partition(".")
    if kind != "state" or not encoded:
        return None
    try:
        return UUID(agent), decode_key(encoded)
    except (ValueError, CodecError):
        return None
