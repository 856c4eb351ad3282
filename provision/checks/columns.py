"""Rules about columns: their types, defaults and who fills them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provision.checks.rule import Finding, rule
from provision.checks.sql import sql_of
from provision.checks.sqltext import tokenize
from provision.checks.statements import branches
from provision.postgres import types
from provision.spec.nearest import nearest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provision.checks.scene import Scene
    from provision.checks.sqltext import Tokens
    from provision.spec.record import Record


@rule("HF0308", "timestamp-without-tz", "column", severity="warning")
def timestamp_without_zone(scene: Scene) -> Iterator[Finding]:
    """Column holds a time without its zone.

    `timestamp` stores what the clock on the wall said; read in another time zone it means another moment, and
    comparisons with `now()` depend on the session. `timestamptz` stores the moment.

    Fix: write `timestamptz`.

    Source: PostgreSQL wiki, Don't Do This; documentation, Date/Time Types. Mistakes: SB-27.

    Bad:
        schemas:
          shop:
            tables:
              events:
                columns: {at: {type: timestamp, nullable: false}}

    Good:
        schemas:
          shop:
            tables:
              events:
                columns: {at: {type: timestamptz, nullable: false}}
    """
    for (_, declared), columns in scene.columns_by_type.items():
        zoneless = declared.startswith("timestamp") and declared.removesuffix("[]").endswith("without time zone")
        for table, name, column in columns if zoneless else ():
            yield Finding(
                (*(column.origin or ()), "type"),
                f"column {table.qualified}.{name} holds a time without its zone",
                "Write type: timestamptz.",
            )


_TOUCHED = frozenset({"updated_at", "modified_at", "last_modified", "last_updated"})


@rule("HF0309", "updated-at-never-touched", "column", severity="warning")
def updated_at_never_touched(scene: Scene) -> Iterator[Finding]:
    """Column says when a row changed, but nothing keeps it.

    A default fills the column once; afterwards it stays, and readers trust a time that is wrong.

    Fix: declare a BEFORE UPDATE trigger that sets it and name the column in `touch:`, or write
    `writer_touches: true` where every writer sets it.

    Source: PostgreSQL documentation, Trigger Functions. Mistakes: SB-24.

    Bad:
        schemas:
          shop:
            tables:
              orders:
                columns: {updated_at: {type: timestamptz, nullable: false, default: now()}}

    Good:
        schemas:
          shop:
            tables:
              orders:
                columns: {updated_at: {type: timestamptz, nullable: false, default: now()}}
                writer_touches: true
    """
    for table in scene.tables.values():
        settings = table.record.settings
        for name in _TOUCHED & table.columns.keys() if not settings.get("writer_touches") else ():
            triggers = table.of("trigger")
            kept = any(
                t.settings.get("timing") == "before"
                and any(str(e).lower().startswith("update") for e in t.settings.get("events") or ())
                for t in triggers
            )
            if not kept and settings.get("touch") != name:
                yield Finding(
                    table.columns[name].origin or (),
                    f"column {table.qualified}.{name} is never touched after the insert",
                    f"Declare touch: {name} with a BEFORE UPDATE trigger, or writer_touches: true.",
                    at_key=True,
                )


_MADE_UP = frozenset({"uuid", "smallint", "integer", "bigint"})


@rule("HF0310", "primary-key-without-source", "primary key", severity="warning")
def primary_key_without_source(scene: Scene) -> Iterator[Finding]:
    """Primary key has no source of values.

    A generated kind of key (uuid, integer) without default or identity must come with every insert; a trigger or
    a plain INSERT that leaves it out fails (SQLSTATE 23502). Keys that refer to another table, and keys of
    several columns, are the application's.

    Fix: give the column `default: gen_random_uuid()` or an identity.

    Source: PostgreSQL documentation, Default Values. Mistakes: SB-96.

    Bad:
        schemas:
          shop:
            tables:
              audit:
                columns: {id: {type: uuid, nullable: false}, what: {type: text}}
                primary_key: [id]

    Good:
        schemas:
          shop:
            tables:
              audit:
                columns: {id: {type: uuid, nullable: false, default: gen_random_uuid()}, what: {type: text}}
                primary_key: [id]
    """
    for table in scene.tables.values():
        key = table.primary_key
        own = [c for c in key.columns if c not in table.partition_key] if key else []
        name = own[0] if len(own) == 1 else (key.columns[0] if key and len(key.columns) == 1 else None)
        column = table.columns.get(name) if name else None
        if key is None or name is None or column is None:
            continue
        settings = column.settings
        filled = settings["default"] or settings["identity"] or settings["generated"]
        if filled:
            continue
        refers = any(name in (k.settings.get("columns") or ()) for k in table.of("foreign_key"))
        domain_default = any(d.settings.get("default") for d in scene.domains(table.target, settings["type"]))
        made_up = scene.base_type(table.target, settings["type"]).name in _MADE_UP
        if made_up and not refers and not domain_default:
            yield Finding(
                column.origin or (),
                f"primary key {name} of {table.qualified} has no default, so an insert must always bring it",
                "Add default: gen_random_uuid(), or identity: always.",
                at_key=True,
            )


def refuses_null(scene: Scene, target: str, declared: str) -> Record | None:
    """The domain behind a type that refuses NULL, by NOT NULL or by a check that is nothing else."""
    for domain in scene.domains(target, declared):
        if domain.settings.get("nullable") is False:
            return domain
        for expression in (domain.settings.get("checks") or {}).values():
            if any(_is_not_null_test(part) for part in branches(tokenize(expression), "and")):
                return domain
    return None


def _is_not_null_test(tokens: Tokens) -> bool:
    return [t.text for t in tokens] == ["value", "is", "not", "null"]


@rule("HF0319", "notnull-domain-on-nullable-column", "column")
def not_null_domain_on_optional_column(scene: Scene) -> Iterator[Finding]:
    """Optional column has a domain that refuses NULL.

    The domain's check runs for every value, NULL too, so the column is required whatever it says: a root without
    parent cannot be stored (SQLSTATE 23514). A NOT NULL in a domain also fails in outer joins.

    Fix: take the NULL test out of the domain and put `nullable: false` on the columns that need it.

    Source: PostgreSQL documentation, CREATE DOMAIN, Notes. Mistakes: SB-07.

    Bad:
        schemas:
          shop:
            domains: {node_id: {type: uuid, checks: {node_id_check: VALUE IS NOT NULL}}}
            tables:
              nodes:
                columns:
                  id: {type: shop.node_id, nullable: false, default: gen_random_uuid()}
                  parent: {type: shop.node_id}
                primary_key: [id]

    Good:
        schemas:
          shop:
            domains: {node_id: {type: uuid}}
            tables:
              nodes:
                columns:
                  id: {type: shop.node_id, nullable: false, default: gen_random_uuid()}
                  parent: {type: shop.node_id}
                primary_key: [id]
    """
    if not scene.of("domain"):
        return
    for (target, declared), columns in scene.columns_by_type.items():
        domain = refuses_null(scene, target, declared) if "." in declared else None
        for table, name, column in columns if domain is not None else ():
            if domain is None or not table.is_nullable(name) or column.settings.get("default"):
                continue
            yield Finding(
                (*(column.origin or ()), "type"),
                f"column {table.qualified}.{name} is optional, but its {scene.name(domain)} refuses NULL",
                "Put nullable: false on columns, not into the domain.",
                related=((domain.origin or (), "the domain"),),
            )


@rule("HF0341", "column-filled-twice", "column")
def column_filled_twice(scene: Scene) -> Iterator[Finding]:
    """Column has two sources of values.

    Default, identity and generation exclude each other (SQLSTATE 42601).

    Fix: keep one of them.

    Source: PostgreSQL documentation, CREATE TABLE.

    Bad:
        schemas:
          shop:
            tables:
              orders:
                columns: {id: {type: bigint, nullable: false, identity: always, default: 1}}

    Good:
        schemas:
          shop:
            tables:
              orders:
                columns: {id: {type: bigint, nullable: false, identity: always}}
    """
    for column in scene.made_columns:
        settings = column.settings
        sources = [s for s in ("default", "identity", "generated") if settings[s] is not None]
        if len(sources) > 1:
            yield Finding(
                (*(column.origin or ()), sources[-1]),
                f"column {scene.name(column)} has both {' and '.join(sources)}",
                "Keep one of them.",
            )


_IDENTITY = frozenset({"smallint", "integer", "bigint"})


@rule("HF0342", "identity-type", "column")
def identity_type(scene: Scene) -> Iterator[Finding]:
    """Identity column is not an integer.

    An identity is fed by a sequence of integers (SQLSTATE 22023); a domain over one is refused too.

    Fix: use bigint, or a default such as gen_random_uuid().

    Source: PostgreSQL documentation, CREATE TABLE, GENERATED AS IDENTITY.

    Bad:
        schemas:
          shop:
            tables:
              orders:
                columns: {id: {type: uuid, nullable: false, identity: always}}

    Good:
        schemas:
          shop:
            tables:
              orders:
                columns: {id: {type: bigint, nullable: false, identity: always}}
    """
    for column in scene.made_columns:
        declared = column.settings["type"]
        if column.settings["identity"] is not None and declared not in _IDENTITY:
            yield Finding(
                (*(column.origin or ()), "identity"),
                f"column {scene.name(column)} is an identity of type {declared}",
                "Use smallint, integer or bigint, or a default instead of an identity.",
            )


@rule("HF0343", "default-not-in-enum", "default of")
def default_not_in_enum(scene: Scene) -> Iterator[Finding]:
    """Default is not a value of the column's enum.

    The literal is read when the table is made (SQLSTATE 22P02).

    Fix: use one of the enum's values.

    Source: PostgreSQL documentation, Enumerated Types.

    Bad:
        schemas:
          shop:
            enums: {status: [open, paid, sent]}
            tables:
              orders:
                columns: {status: {type: shop.status, nullable: false, default: "'opened'"}}

    Good:
        schemas:
          shop:
            enums: {status: [open, paid, sent]}
            tables:
              orders:
                columns: {status: {type: shop.status, nullable: false, default: "'open'"}}
    """
    if not scene.of("enum"):
        return
    for (target, declared), columns in scene.columns_by_type.items():
        values = scene.enum_values(target, declared) if "." in declared else None
        if values is None or types.parse(declared).is_array:
            continue
        for table, name, column in columns:
            literal = _literal(column.settings["default"])
            if literal is not None and literal not in values:
                yield Finding(
                    (*(column.origin or ()), "default"),
                    f"default of {table.qualified}.{name} is '{literal}', which its enum lacks",
                    nearest(literal, values, f"Use one of {', '.join(values)}."),
                )


def _literal(default: str | None) -> str | None:
    """The text of a default that is one string, cast or not."""
    if not default or "'" not in default:
        return None
    tokens = sql_of(default).tokens
    is_alone = len(tokens) == 1 or (len(tokens) > 1 and tokens[1].text == "::")
    return tokens[0].text if is_alone and tokens[0].kind == "string" else None


@rule("HF0344", "policy-without-row-security", "row security of", severity="warning")
def policy_without_row_security(scene: Scene) -> Iterator[Finding]:
    """Row security and policies do not go together.

    Policies do nothing until row security is enabled; enabled without a policy, it hides every row from all but
    the owner. Both look as if rows were protected, or served, and are not.

    Fix: declare both, or neither.

    Source: PostgreSQL documentation, Row Security Policies.

    Bad:
        schemas:
          shop:
            tables:
              orders:
                columns: {owner_name: {type: name, nullable: false}}
                policies: {own_rows: {for: select, using: owner_name = CURRENT_USER}}

    Good:
        schemas:
          shop:
            tables:
              orders:
                columns: {owner_name: {type: name, nullable: false}}
                row_security: true
                policies: {own_rows: {for: select, using: owner_name = CURRENT_USER}}
    """
    for table in scene.tables.values():
        security = table.record.settings.get("row_security")
        enabled = security.get("enabled") if isinstance(security, dict) else bool(security)
        policies = table.of("policy")
        if policies and not enabled:
            yield Finding(
                policies[0].origin or (),
                f"row security of {table.qualified} is off, so its policies do nothing",
                "Write row_security: true.",
                at_key=True,
            )
        if enabled and not policies:
            yield Finding(
                (*(table.record.origin or ()), "row_security"),
                f"row security of {table.qualified} is on without a policy, so only its owner sees rows",
                "Declare policies, or leave row_security out.",
            )


RULES = (
    timestamp_without_zone, updated_at_never_touched, primary_key_without_source,
    not_null_domain_on_optional_column, column_filled_twice, identity_type, default_not_in_enum,
    policy_without_row_security,
)  # fmt: skip
