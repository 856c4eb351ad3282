"""Which code of ours is running: part of every cache key, so that a change of the product is a change of input."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from hashlib import blake2b
from pathlib import Path


@cache
def code_stamps() -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of every module: what Python itself trusts for its compiled files."""
    root = Path(__file__).parent.parent
    return tuple(sorted(_stamps(root, len(str(root)) + 1)))


def code_digest() -> str:
    """The stamps as one short text."""
    return blake2b(repr(code_stamps()).encode(), digest_size=16).hexdigest()


def _stamps(folder: Path, strip: int) -> Iterator[tuple[str, int, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _stamps(Path(entry.path), strip)
            elif entry.name.endswith((".py", ".json", ".sql")):
                status = entry.stat()
                yield entry.path[strip:], status.st_size, status.st_mtime_ns
