"""SCRAM-SHA-256 verifiers as PostgreSQL stores them: built from a password, or compared with one.

RFC 5802 and RFC 7677; the text form is that of pg_authid.rolpassword (PostgreSQL docs, pg_authid). Passwords
reach the server only in this form, so no log of the server can hold one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import stringprep
import unicodedata
from collections.abc import Callable
from typing import NamedTuple

#: PostgreSQL's own (scram_iterations, src/include/common/scram-common.h).
ITERATIONS = 4096
_SALT_BYTES = 16
_FORM = re.compile(r"^SCRAM-SHA-256\$(\d+):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)$")


class Verifier(NamedTuple):
    """The parts of a verifier. They do not give the password away, but allow guessing it offline."""

    iterations: int
    salt: bytes
    stored_key: bytes
    server_key: bytes

    def __str__(self) -> str:
        salt, stored, server = (base64.b64encode(part).decode() for part in self[1:])
        return f"SCRAM-SHA-256${self.iterations}:{salt}${stored}:{server}"

    def __repr__(self) -> str:
        return f"Verifier(iterations={self.iterations}, …)"


def build_verifier(password: str, *, salt: bytes | None = None, iterations: int = ITERATIONS) -> str:
    """Give the text to store for a password: ``SCRAM-SHA-256$4096:salt$StoredKey:ServerKey``.

    The salt is random unless given. Raises ValueError for an empty password, which PostgreSQL refuses too.
    """
    if not password:
        raise ValueError("an empty password cannot be used to log in")
    return str(_derive(password, salt or secrets.token_bytes(_SALT_BYTES), iterations))


def parse_verifier(text: str) -> Verifier | None:
    """Read a stored verifier; None when the text is not one (an MD5 hash, for example)."""
    match = _FORM.match(text)
    if match is None:
        return None
    try:
        salt, stored, server = (base64.b64decode(part, validate=True) for part in match.groups()[1:])
    except binascii.Error:
        return None
    valid = int(match[1]) > 0 and len(stored) == len(server) == hashlib.sha256().digest_size
    return Verifier(int(match[1]), salt, stored, server) if valid else None


def verify(password: str, stored: str | None, role: str = "") -> bool:
    """Say whether what pg_authid holds for a role is a SCRAM verifier made from this password.

    An MD5 hash never counts, even of the same password: the answer "differs" then leads to a verifier.
    """
    known = parse_verifier(stored) if stored is not None else None
    if known is None or not password:
        return False
    mine = _derive(password, known.salt, known.iterations)
    same_client = hmac.compare_digest(mine.stored_key, known.stored_key)
    return same_client and hmac.compare_digest(mine.server_key, known.server_key)


def _derive(password: str, salt: bytes, iterations: int) -> Verifier:
    salted = hashlib.pbkdf2_hmac("sha256", _prepared(password), salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    return Verifier(iterations, salt, hashlib.sha256(client_key).digest(), server_key)


def _prepared(password: str) -> bytes:
    """SASLprep; what it refuses is used as it is, as in PostgreSQL (pg_saslprep)."""
    try:
        return saslprep(password).encode()
    except ValueError:
        return password.encode("utf-8", "surrogateescape")


_PROHIBITED: tuple[Callable[[str], bool], ...] = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
    stringprep.in_table_a1,
)


def saslprep(text: str) -> str:
    """Normalise a password (RFC 4013). Raises ValueError for prohibited characters and mixed directions."""
    if text.isascii() and text.isprintable():
        return text
    mapped = "".join(" " if stringprep.in_table_c12(c) else c for c in text if not stringprep.in_table_b1(c))
    result = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    if not result:
        raise ValueError("nothing is left of the password")
    if any(prohibits(c) for c in result for prohibits in _PROHIBITED):
        raise ValueError("the password holds a prohibited character")
    if any(map(stringprep.in_table_d1, result)):
        ends = stringprep.in_table_d1(result[0]) and stringprep.in_table_d1(result[-1])
        if any(map(stringprep.in_table_d2, result)) or not ends:
            raise ValueError("the password mixes directions of writing")
    return result
