"""Rules about telling others of changes: NOTIFY, its limit, and what triggers leave out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provision.checks.rule import Finding, rule
from provision.checks.sqltext import arguments, is_op, is_word, words
from provision.checks.tables import unquoted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provision.checks.scene import Scene, Text
    from provision.checks.sqltext import Tokens
    from provision.checks.tables import Table
    from provision.spec.record import Record

_DOCUMENTS = frozenset(
    "row_to_json to_json to_jsonb json_build_object jsonb_build_object json_agg jsonb_agg json_build_array "
    "jsonb_build_array hstore_to_json repeat string_agg xmlforest query_to_xml".split()
)
_BOUNDING = frozenset({"left", "substr", "substring", "md5", "sha256"})


@rule("HF0416", "notify-payload-limit", "payload of NOTIFY")
def notify_payload_limit(scene: Scene) -> Iterator[Finding]:
    """NOTIFY carries a document without bound.

    A payload of 8000 bytes or more is an error (SQLSTATE 22023) and aborts the transaction that wrote the row.

    Fix: store the document in the outbox and send its id.

    Source: PostgreSQL documentation, NOTIFY. Mistakes: SB-43.

    Bad:
        schemas:
          shop:
            functions:
              tell:
                returns: trigger
                language: plpgsql
                body: BEGIN PERFORM pg_notify('orders', row_to_json(NEW)::text); RETURN NEW; END

    Good:
        schemas:
          shop:
            functions:
              tell:
                returns: trigger
                language: plpgsql
                body: BEGIN PERFORM pg_notify('orders', NEW.id::text); RETURN NEW; END
    """
    for text in scene.bodies:
        for call in text.sql.called:
            if call.last != "pg_notify":
                continue
            given = arguments(text.tokens, call)
            payload = given[1] if len(given) > 1 else ()
            if payload and _is_unbounded(scene, text, payload):
                yield Finding(
                    text.where,
                    f"payload of NOTIFY in {scene.name(text.record)} has no bound, and 8000 bytes are an error",
                    "Send the id of an outbox row.",
                    offset=payload[0].start,
                )


def _is_unbounded(scene: Scene, text: Text, payload: Tokens) -> bool:
    known = words(payload)
    if known & _BOUNDING:
        return False
    if known & _DOCUMENTS:
        return True
    for i, token in enumerate(payload):
        if not is_word(payload, i, "new", "old"):
            continue
        if not is_op(payload, i + 1, "."):
            return True
        column = payload[i + 2].text if i + 2 < len(payload) else token.text
        for table in scene.tables_with_trigger(text.record):
            record = table.columns.get(column)
            if record is not None and scene.base_type(table.target, record.settings["type"]).name in ("jsonb", "json"):
                return True
    return False


def _notifies(text: Text) -> bool:
    return any(c.last == "pg_notify" for c in text.sql.called) or "notify" in text.sql.words


def _is_outbox(name: str) -> bool:
    return "outbox" in name or "event" in name


def _outbox_writes(text: Text) -> list[str]:
    return [m.qualified for m in text.sql.relations if m.clause == "into"]


@rule("HF0417", "notify-as-durable-transport", "changes of", severity="warning")
def notify_as_transport(scene: Scene) -> Iterator[Finding]:
    """Changes leave the database by NOTIFY alone.

    A notification reaches those who listen at that moment and is lost for everyone else; a listener that was away
    never hears of the change. As a wake-up call for an outbox it is fine.

    Fix: insert the event into an outbox table in the same transaction, and notify from there.

    Source: PostgreSQL documentation, NOTIFY. Mistakes: SB-44.

    Bad:
        schemas:
          shop:
            functions:
              tell:
                returns: trigger
                language: plpgsql
                body: BEGIN PERFORM pg_notify('orders', NEW.id::text); RETURN NEW; END
            tables:
              orders:
                columns: {id: {type: bigint, nullable: false, identity: always}}
                triggers:
                  tell: {timing: after, events: [insert, update, delete], for_each: row, function: shop.tell}

    Good:
        schemas:
          shop:
            functions:
              wake:
                returns: trigger
                language: plpgsql
                body: BEGIN PERFORM pg_notify('outbox', NEW.id::text); RETURN NEW; END
            tables:
              outbox:
                columns: {id: {type: bigint, nullable: false, identity: always}, event: {type: jsonb}}
                triggers: {wake: {timing: after, events: [insert], for_each: row, function: shop.wake}}
    """
    for text in scene.bodies:
        if text.role != "body" or not _notifies(text) or _outbox_writes(text):
            continue
        for table in scene.tables_with_trigger(text.record):
            if not _is_outbox(table.name):
                yield Finding(
                    text.where,
                    f"changes of {table.qualified} leave by NOTIFY alone, which is lost when nobody listens",
                    "Insert the event into an outbox table in the same transaction.",
                    related=_triggers(table, text.record),
                )


def _triggers(table: Table, function: Record) -> tuple[tuple[tuple[str | int, ...], str], ...]:
    return tuple((t.origin or (), "its trigger") for t in _triggers_of(table, function))


def _triggers_of(table: Table, function: Record) -> list[Record]:
    name = f"{function.address.names[0]}.{function.address.name.split('(', 1)[0]}"
    return [t for t in table.of("trigger") if unquoted(t.settings["function"]) == name]


@rule("HF0418", "event-coverage-gap", "trigger", severity="warning")
def event_coverage_gap(scene: Scene) -> Iterator[Finding]:
    """Trigger publishes changes and leaves one kind out.

    Followers that see inserts and updates but no deletes keep what is gone.

    Fix: add the missing event, or publish from another trigger.

    Source: PostgreSQL documentation, CREATE TRIGGER. Mistakes: SB-46.

    Bad:
        schemas:
          shop:
            functions:
              log:
                returns: trigger
                language: plpgsql
                body: BEGIN INSERT INTO shop.outbox (op) VALUES (TG_OP); RETURN NULL; END
            tables:
              outbox: {columns: {op: {type: text, nullable: false}}}
              orders:
                columns: {a: {type: integer}}
                triggers: {log: {timing: after, events: [insert, update], for_each: row, function: shop.log}}

    Good:
        schemas:
          shop:
            functions:
              log:
                returns: trigger
                language: plpgsql
                body: BEGIN INSERT INTO shop.outbox (op) VALUES (TG_OP); RETURN NULL; END
            tables:
              outbox: {columns: {op: {type: text, nullable: false}}}
              orders:
                columns: {a: {type: integer}}
                triggers: {log: {timing: after, events: [insert, update, delete], for_each: row, function: shop.log}}
    """
    for text in scene.bodies:
        if text.role != "body":
            continue
        publishes = _notifies(text) or any(_is_outbox(name) for name in _outbox_writes(text))
        for table in scene.tables_with_trigger(text.record) if publishes else ():
            triggers = _triggers_of(table, text.record)
            events = {str(e).lower().split(" ", 1)[0] for t in triggers for e in t.settings.get("events") or ()}
            if "insert" in events and "update" in events and "delete" not in events and not _is_outbox(table.name):
                yield Finding(
                    (*(triggers[0].origin or ()), "events"),
                    f"trigger {triggers[0].address.name} publishes no deletes of {table.qualified}",
                    "Add delete to its events.",
                )


RULES = (notify_payload_limit, notify_as_transport, event_coverage_gap)
