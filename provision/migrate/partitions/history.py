"""What the run before acted under, kept with the runs of the ledger: so a retention that became shorter is seen.

A run of maintenance has as its fingerprint the retention of each set, by address, that it was allowed to act on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from provision.postgres.errors import refusal_of, translate

if TYPE_CHECKING:
    from provision.postgres.connect import Connection

#: The fingerprint of a run that has not come to retirement.
BEGUN = "partitions"
_LATEST = """
    SELECT fingerprint FROM holdfast.runs
     WHERE plane = %s AND env = %s AND starts_with(fingerprint, 'partitions {')
     ORDER BY started_at DESC LIMIT 1"""


def former(connection: Connection, plane: str, env: str) -> dict[str, str | None]:
    """The retention by address of set that was last acted on; the ledger must exist."""
    rows = _execute(connection, _LATEST, [plane, env])
    if not rows:
        return {}
    found: dict[str, str | None] = json.loads(rows[0][0].removeprefix(BEGUN))
    return found


def note(connection: Connection, run: str, policies: Mapping[str, str | None]) -> None:
    """Say under which policies a run retired."""
    text = f"{BEGUN} {json.dumps(policies, sort_keys=True)}"
    _execute(connection, "UPDATE holdfast.runs SET fingerprint = %s WHERE id = %s", [text, run])


def _execute(connection: Connection, statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    import psycopg

    try:
        cursor = connection.execute(statement.encode(), values)
        return cursor.fetchall() if cursor.description else []
    except psycopg.Error as error:
        raise translate(refusal_of(error), step="holdfast ledger", role=connection.info.user) from error
