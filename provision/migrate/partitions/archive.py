"""Puts a detached partition into a compressed file and drops it, in this order, in one transaction.

The file is COPY's text format with a header, one line a row. It is written aside, synced, read back from the disk and
compared with a second reading of the table (row count and SHA-256), then renamed, its folder synced, and only then the
table dropped: whatever dies when, the rows are in the table or in a whole file, never in neither. The table is locked
against writers meanwhile; nobody reads it any more through its parent. To read a file back:

    zcat FILE.copy.gz | psql -c "\\copy TABLE (COLUMNS) FROM STDIN (HEADER MATCH)"
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple
from urllib.parse import quote

from provision.postgres import sql
from provision.postgres.errors import refusal_of, translate
from provision.spec.errors import OperationError

if TYPE_CHECKING:
    from provision.postgres.connect import Connection

_CHUNK = 1 << 20
_NEW = ".new"
_COLUMNS = """
    SELECT a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a
     WHERE a.attrelid = {name}::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
     ORDER BY a.attnum"""


class Damaged(OperationError):
    """What came back from the disk is not what the table holds; the table was kept."""


class Stored(NamedTuple):
    """A whole, synced archive."""

    path: Path
    rows: int


class _Content(NamedTuple):
    rows: int
    digest: str


def store_and_drop(
    connection: Connection, name: str, place: Path, about: Mapping[str, Any], *, lock_timeout_ms: int
) -> Stored:
    """Archive the table of a quoted name at ``place`` (without an ending), and drop it.

    ``about`` goes into the JSON file beside it. A file that is there already is never overwritten. Raises a
    PostgresError, an OSError, or Damaged; then the table is still there.
    """
    import psycopg

    try:
        with connection.transaction():
            for setting in (f"lock_timeout = {lock_timeout_ms}", *_SETTINGS):
                connection.execute(f"SET LOCAL {setting}".encode())
            connection.execute(f"LOCK TABLE {name} IN SHARE MODE".encode())
            stored = _store(connection, name, place, about)
            connection.execute(f"DROP TABLE {name}".encode())
        return stored
    except psycopg.Error as error:
        raise translate(refusal_of(error), step=f"archive of {name}", role=connection.info.user) from error


#: Two readings of one table must give its rows in one order.
_SETTINGS = (
    "statement_timeout = 0",
    "idle_in_transaction_session_timeout = 0",
    "row_security = off",
    "synchronize_seqscans = off",
    "max_parallel_workers_per_gather = 0",
)


def _store(connection: Connection, name: str, place: Path, about: Mapping[str, Any]) -> Stored:
    columns = connection.execute(_COLUMNS.format(name=sql.quote_literal(name)).encode()).fetchall()
    listed = ", ".join(sql.quote_ident(column) for column, _ in columns)
    query = f"COPY (SELECT {listed} FROM {name}) TO STDOUT (HEADER)"
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for stale in place.parent.glob(f".*{_NEW}"):  # of a run that was killed: ours is the only one
        stale.unlink()
    with _aside(place.parent) as (path, file):
        with gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=6, mtime=0) as packed:
            for part in _read(connection, query):
                packed.write(part)
        _sync(file)
        found = _content(_unpacked(path))
        _compare(connection, name, found, _content(_read(connection, query)))
        final = _free_name(place, found)
        _write(final.with_suffix(".json"), {**about, "columns": dict(columns), "rows": found.rows,
                                            "sha256": found.digest, "format": "copy text header"})  # fmt: skip
        os.replace(path, final)
    _sync_folder(place.parent)
    return Stored(final, found.rows)


def place_of(folder: Path, *names: str) -> Path:
    """Where the archive of a partition goes, without an ending: a folder for each name but the last."""
    return folder.joinpath(*(quote(name, safe=" ").replace(".", "%2E") for name in names))


def _read(connection: Connection, query: str) -> Iterator[bytes]:
    with connection.cursor().copy(query.encode()) as rows:
        for part in rows:
            yield bytes(part)


def _unpacked(path: Path) -> Iterator[bytes]:
    with gzip.open(path, "rb") as file:
        while part := file.read(_CHUNK):
            yield part


def _content(parts: Iterator[bytes]) -> _Content:
    """Rows and digest of COPY's text: every row is one line, the first is the header."""
    digest, lines = hashlib.sha256(), 0
    for part in parts:
        digest.update(part)
        lines += part.count(b"\n")
    return _Content(lines - 1, digest.hexdigest())


def _compare(connection: Connection, name: str, disk: _Content, table: _Content) -> None:
    (counted,) = connection.execute(f"SELECT count(*) FROM {name}".encode()).fetchone() or (0,)
    if disk == table and disk.rows == counted:
        return
    message = f"the archive of {name} has {disk.rows} rows where the table has {counted}, or differs in content"
    raise Damaged(message, "The table was kept. Look at the disk, then run it again.")


def _free_name(place: Path, found: _Content) -> Path:
    """A name that no other content has taken; the same content may be there from a run that was interrupted."""
    number = 1
    while True:
        path = place.with_name(f"{place.name}{f'-{number}' if number > 1 else ''}.copy.gz")
        if not path.exists():
            return path
        with suppress(OSError, EOFError):
            if _content(_unpacked(path)) == found:
                return path
        number += 1


@contextmanager
def _aside(folder: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A file beside its place, gone unless it was renamed."""
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".", suffix=_NEW)
    try:
        with os.fdopen(handle, "wb") as file:
            yield Path(temporary), file
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    with _aside(path.parent) as (temporary, file):
        file.write(json.dumps(content, indent=2).encode() + b"\n")
        _sync(file)
        os.replace(temporary, path)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make the names durable as well as the contents: the file's, and those of folders that may be new."""
    for each in (folder, *folder.parents[:5]):
        handle = os.open(each, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
