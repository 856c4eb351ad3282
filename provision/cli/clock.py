"""The clock as an input: ``--as-of`` or now."""

from __future__ import annotations

from datetime import UTC, datetime

import click

#: Partitions are counted from 1970, and ahead of the instant.
_YEARS = (1970, 9000)


def instant(ctx: click.Context, param: click.Parameter, value: str | None) -> datetime:
    """Read an RFC 3339 time; without an offset it is UTC. Without a value it is now."""
    if value is None:
        return datetime.now(UTC)
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter("not a time; write 2026-11-21T23:59:59Z", ctx, param) from None
    if not _YEARS[0] <= found.year <= _YEARS[1]:
        raise click.BadParameter(f"a year from {_YEARS[0]} to {_YEARS[1]}, please", ctx, param)
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
