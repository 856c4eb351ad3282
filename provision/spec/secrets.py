"""The only place that reads the values of specs from the environment and from secret files.

Everything else handles references, ``{env: NAME}`` or ``{file: path}``. Values go straight to a server or
into a Redactor, never into a record, a plan, an error or a log.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

from provision.spec.errors import InputError

_MASK = "***"
#: A shorter secret is masked only where it stands alone: masking every "a" would tell more than it hides.
_SHORT = 4
_URL_PASSWORD = re.compile(r"(?<=://)([^\s/@:]*):([^\s@/]+)@")
_KEYWORD_PASSWORD = re.compile(r"(?i)\b(password|sslpassword|passfile|token)(\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s'&]+)")


class SecretMissing(InputError):
    """A referenced secret is not there. ``name`` is the variable or the file, never a value."""

    code = "HF0131"

    def __init__(self, name: str, why: str, help: str) -> None:
        super().__init__(f"secret {name} {why}", help)
        self.name = name


def describe(reference: Mapping[str, str]) -> str:
    """Name a reference for people: ``env PRIMARY_DB_PASSWORD``."""
    return " ".join(next(iter(reference.items())))


def resolve(reference: Mapping[str, str], root: Path, extra: Mapping[str, str] | None = None) -> str:
    """Give the value behind a reference.

    ``root`` is where relative ``file`` paths start. The process environment wins over ``extra`` (the
    generated secrets of embedded servers). An empty value counts as missing. Raises SecretMissing.
    """
    if "env" in reference:
        name = reference["env"]
        value = os.environ.get(name) or (extra or {}).get(name, "")
        if not value:
            why = "is set but empty" if name in os.environ else "is not set"
            raise SecretMissing(name, why, f"Set the environment variable {name} and run again.")
        return value
    path = reference["file"]
    try:
        value = (root / path).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        # The cause of a UnicodeError carries the bytes of the secret.
        raise SecretMissing(path, f"cannot be read: {reason}", f"Write the secret into {path}.") from None
    if not value:
        raise SecretMissing(path, "is an empty file", f"Write the secret into {path}.")
    return value


def is_set(reference: Mapping[str, str], root: Path, extra: Mapping[str, str] | None = None) -> bool:
    """Whether the reference leads to a value."""
    try:
        resolve(reference, root, extra)
    except SecretMissing:
        return False
    return True


class Redactor:
    """Masks known secrets in text: as they are, and as URLs and JSON spell them."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._forms: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        for value in values:
            self.add(value)

    def add(self, value: str) -> None:
        """Mask this value from now on."""
        if value:
            self._forms |= {
                value,
                quote(value, safe=""),
                quote(value),
                json.dumps(value)[1:-1],
                repr(value)[1:-1],
            }
            self._forms |= {part for part in value.splitlines() if len(part.strip()) >= _SHORT}
            self._pattern = None

    def __call__(self, text: str) -> str:
        """Give the text with every known secret, and every password of a connection string, masked."""
        if self._forms:
            if self._pattern is None:
                longest_first = sorted(self._forms, key=lambda form: (-len(form), form))
                self._pattern = re.compile("|".join(map(_form, longest_first)))
            text = self._pattern.sub(_MASK, text)
        text = _URL_PASSWORD.sub(rf"\1:{_MASK}@", text)
        return _KEYWORD_PASSWORD.sub(rf"\1\2{_MASK}", text)


def _form(value: str) -> str:
    escaped = re.escape(value)
    return escaped if len(value) >= _SHORT else rf"(?<!\w){escaped}(?!\w)"
