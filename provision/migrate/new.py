"""Start a migration: two files with their headers, numbered and versioned after the last."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from provision.migrate.files import VERSION, Migration, order_of
from provision.spec.errors import InputError

_UP = "-- version: {version}\n-- description: {description}\n-- kind: {kind}\n\n"
_DOWN = "-- version: {version}\n\n"


def write(
    folder: Path, name: str, migrations: Sequence[Migration], *, version: str | None = None, kind: str = "schema"
) -> tuple[Path, Path]:
    """Write the up and down file of a new migration. Raises InputError for a version not later than the last."""
    numbers = [int(path.name[:4]) for path in folder.glob("[0-9][0-9][0-9][0-9]_*.sql")] if folder.is_dir() else []
    last = max((m.version for m in migrations), key=order_of, default=None)
    given = version or following(last)
    if not VERSION.fullmatch(given):
        raise InputError(f"{given} is no version", "Write three numbers: 1.2.0.")
    if last is not None and order_of(given) <= order_of(last):
        raise InputError(f"version {given} is not later than {last}", f"The next one is {following(last)}.")
    stem = f"{max(numbers, default=0) + 1:04}_{name}"
    words = {"version": given, "kind": kind, "description": name.replace("_", " ").capitalize()}
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / f"{stem}.up.sql", folder / f"{stem}.down.sql"
    for path, text in zip(paths, (_UP, _DOWN), strict=True):
        with path.open("x") as file:
            file.write(text.format(**words))
    return paths


def following(version: str | None) -> str:
    """The next minor version; the first is 1.0.0."""
    if version is None:
        return "1.0.0"
    major, minor, _ = version.partition("-")[0].split(".")
    return f"{major}.{int(minor) + 1}.0"
