"""Where a user's machine keeps what we remember. The front ends ask; nothing below them does."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The user's cache folder for parsed specs, canonical expressions and scratch servers."""
    base = os.environ.get("HOLDFAST_CACHE") or os.environ.get("XDG_CACHE_HOME")
    return Path(base) / "holdfast" if base else Path.home() / ".cache" / "holdfast"
