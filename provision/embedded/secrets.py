"""The passwords of one embedded environment: made when missing, kept in one private file, never printed."""

from __future__ import annotations

import os
import re
import secrets
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

#: The superuser of every embedded PostgreSQL server of an environment.
ADMIN_PASSWORD: Final = "HOLDFAST_ADMIN_PASSWORD"  # noqa: S105
_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
_HEADER = "# Made by Holdfast for servers on this machine. Delete a line to get a new value at the next start.\n"


def read(path: Path) -> dict[str, str]:
    """Names and values of a ``secrets.env``, which a shell can source too; empty when it does not exist."""
    values = {}
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return {}
    for line in lines:
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if equals and _NAME.match(name):
            values[name] = "".join(shlex.split(value))
    return values


def ensure(path: Path, names: Iterable[str]) -> dict[str, str]:
    """Add a random value for each name that the file lacks, and return all of them."""
    known = read(path)
    missing = {name: secrets.token_urlsafe(24) for name in dict.fromkeys(names) if name not in known}
    if missing:
        _write(path, known | missing)
    return known | missing


def _write(path: Path, values: Mapping[str, str]) -> None:
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(_HEADER)
        file.writelines(f"{name}={shlex.quote(value)}\n" for name, value in values.items())
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
