"""Changes of rows together with what undoes them. Values pass as jsonb and take the columns' types in the database.

What undoes a step is made by the database from what it holds, never from what Python read: numbers keep their digits.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from holdfast.errors import NotFound, VersionConflict
from holdfast.events.outbox import encode, qualified
from holdfast.work.steps import SqlDelete, SqlInsert, SqlUpdate

if TYPE_CHECKING:
    from psycopg import AsyncConnection
    from psycopg.sql import Composed, Identifier

Change = SqlInsert | SqlUpdate | SqlDelete


async def apply(connection: AsyncConnection[Any], step: Change) -> str:
    """Make one change in the open transaction. Returns as JSON text what ``undo`` needs.

    Raises NotFound for a row that is not there, and psycopg's errors.
    """
    from psycopg.sql import SQL

    table = _table(step.table)
    if isinstance(step, SqlInsert):
        query = SQL(
            "INSERT INTO {table} AS t ({columns}) SELECT {columns} FROM jsonb_populate_record(NULL::{table}, %s)"
            " RETURNING jsonb_build_object('kind', 'delete', 'key', {key}, 'now', {now})::text"
        ).format(table=table, columns=_names(step.row), key=_object(step.key), now=_object(step.row))
        return await _one(connection, query, [encode(dict(step.row))], step.table)
    key = encode(dict(step.key))
    if isinstance(step, SqlUpdate):
        lock = SQL(
            "SELECT jsonb_build_object('kind', 'update', 'key', {key}, 'before', {columns})::text"
            " FROM {table} AS t, jsonb_populate_record(NULL::{table}, %s) AS k WHERE {match} FOR UPDATE OF t"
        ).format(table=table, key=_object(step.key), columns=_object(step.changes), match=_match(step.key))
        before = await _one(connection, lock, [key], step.table)
        query = SQL(
            "UPDATE {table} AS t SET {assigned} FROM jsonb_populate_record(NULL::{table}, %s) AS k,"
            " jsonb_populate_record(NULL::{table}, %s) AS n WHERE {match}"
            " RETURNING (%s::jsonb || jsonb_build_object('now', {now}))::text"
        ).format(table=table, assigned=_assigned(step.changes), match=_match(step.key), now=_object(step.changes))
        return await _one(connection, query, [key, encode(dict(step.changes)), before], step.table)
    query = SQL(
        "DELETE FROM {table} AS t USING jsonb_populate_record(NULL::{table}, %s) AS k WHERE {match}"
        " RETURNING jsonb_build_object('kind', 'insert', 'row', to_jsonb(t))::text"
    ).format(table=table, match=_match(step.key))
    return await _one(connection, query, [key], step.table)


async def undo(connection: AsyncConnection[Any], table: str, undo: str) -> None:
    """Take one change back in the open transaction.

    Raises VersionConflict when somebody has changed the row since: their change stays.
    """
    from psycopg.sql import SQL

    name = _table(table)
    cursor = await connection.execute(
        "SELECT u->>'kind', ARRAY(SELECT jsonb_object_keys(u->'key')), ARRAY(SELECT jsonb_object_keys(u->'now')),"
        " (u->'key')::text, (u->'now')::text, (u->'before')::text, (u->'row')::text"
        " FROM (SELECT %s::jsonb AS u) AS undo",
        [undo],
    )
    row = await cursor.fetchone()
    assert row is not None
    kind, key, columns, key_json, now, before, deleted = row
    if kind == "insert":
        await _restore(connection, table, deleted)
        return
    unchanged = SQL("{now} = %s::jsonb").format(now=_object(columns))
    if kind == "delete":
        query = SQL(
            "DELETE FROM {table} AS t USING jsonb_populate_record(NULL::{table}, %s) AS k WHERE {match} AND {unchanged}"
        ).format(table=name, match=_match(key), unchanged=unchanged)
        values = [key_json, now]
    else:
        query = SQL(
            "UPDATE {table} AS t SET {assigned} FROM jsonb_populate_record(NULL::{table}, %s) AS k,"
            " jsonb_populate_record(NULL::{table}, %s) AS n WHERE {match} AND {unchanged}"
        ).format(table=name, assigned=_assigned(columns), match=_match(key), unchanged=unchanged)
        values = [key_json, before, now]
    if (await connection.execute(query, values)).rowcount != 1:
        raise VersionConflict(f"a row of {table} was changed since: it is left as it is")


async def _restore(connection: AsyncConnection[Any], table: str, row: str) -> None:
    from psycopg.sql import SQL

    cursor = await connection.execute(
        "SELECT a.attname FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = to_regclass(%s)"
        " AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum",
        [qualified(table)],
    )
    columns = [name for (name,) in await cursor.fetchall()]
    query = SQL(
        "INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE"
        " SELECT {columns} FROM jsonb_populate_record(NULL::{table}, %s) ON CONFLICT DO NOTHING"
    ).format(table=_table(table), columns=_names(columns))
    if (await connection.execute(query, [row])).rowcount != 1:
        raise VersionConflict(f"a row of {table} was made again since: it is left as it is")


async def _one(connection: AsyncConnection[Any], query: Composed, values: list[str], table: str) -> str:
    cursor = await connection.execute(query, values)
    row = await cursor.fetchone()
    if row is None:
        raise NotFound(f"the row of {table} is not there")
    found: str = row[0]
    return found


def _table(table: str) -> Identifier:
    from psycopg.sql import Identifier

    schema, _, name = table.partition(".")
    return Identifier(schema, name)


def _names(columns: Iterable[str]) -> Composed:
    from psycopg.sql import SQL, Identifier

    return SQL(", ").join(Identifier(column) for column in columns)


def _object(columns: Iterable[str]) -> Composed:
    """The columns of ``t`` as a jsonb object; built in parts, as a function takes at most 100 arguments."""
    from psycopg.sql import SQL, Identifier, Literal

    pairs = (SQL("jsonb_build_object({}, {})").format(Literal(column), Identifier("t", column)) for column in columns)
    return SQL("({})").format(SQL(" || ").join(pairs))


def _match(key: Iterable[str]) -> Composed:
    from psycopg.sql import SQL, Identifier

    return SQL(" AND ").join(SQL("{} = {}").format(Identifier("t", name), Identifier("k", name)) for name in key)


def _assigned(columns: Iterable[str]) -> Composed:
    from psycopg.sql import SQL, Identifier

    return SQL(", ").join(SQL("{} = {}").format(Identifier(name), Identifier("n", name)) for name in columns)
