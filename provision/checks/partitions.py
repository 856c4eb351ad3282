"""Rules about partitioned tables: keys, complete sets, windows of time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provision.checks.rule import Finding, listed, rule
from provision.checks.sqltext import spelled, tokenize, words
from provision.checks.tables import is_plain_name
from provision.spec.nearest import nearest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provision.checks.scene import Scene
    from provision.checks.tables import Key, Table


def _missing(table: Table, key: Key) -> list[str]:
    """What a key lacks of the partition key; an expression can never be part of a key."""
    return [part for part in table.partition_key if part not in key.columns]


def _completed(table: Table, key: Key, missing: list[str]) -> str:
    if not all(map(is_plain_name, missing)):
        return "Partition by plain columns; a key cannot contain an expression."
    columns = ", ".join((*key.columns, *missing))
    return (
        f"Write {key.record.address.kind}: [{columns}]."
        if key.record.address.kind == "primary_key"
        else (f"Make it ({columns}), partition by ({', '.join(key.columns)}), or do not partition {table.qualified}.")
    )


@rule("HF0312", "pk-misses-partition-key", "primary key of")
def primary_key_misses_partition_key(scene: Scene) -> Iterator[Finding]:
    """Primary key lacks the partition key.

    PostgreSQL keeps uniqueness only inside each partition, so every column of the partition key must be part of
    the primary key; a server refuses the table with SQLSTATE 0A000. The type of the column does not matter: the
    rule looks at names, so a domain over a time stamp is seen too. A key column also becomes NOT NULL.

    Fix: add the missing columns to the primary key.

    Source: PostgreSQL documentation, Table Partitioning, Limitations. Mistakes: SB-01, SB-02, SB-03, SB-04.

    Bad:
        schemas:
          shop:
            tables:
              events:
                columns: {event_id: {type: uuid, default: gen_random_uuid()}, at: {type: timestamptz, nullable: false}}
                primary_key: [event_id]
                partitions: {by: range, key: [at], every: 1 day, premake: 7, retain: 30 days, on_expiry: drop}

    Good:
        schemas:
          shop:
            tables:
              events:
                columns: {event_id: {type: uuid, default: gen_random_uuid()}, at: {type: timestamptz, nullable: false}}
                primary_key: [event_id, at]
                partitions: {by: range, key: [at], every: 1 day, premake: 7, retain: 30 days, on_expiry: drop}
    """
    for table in scene.partitioned:
        key = table.primary_key
        missing = _missing(table, key) if key else []
        if key and missing:
            yield Finding(
                key.where,
                f"primary key of {table.qualified} lacks the partition key {', '.join(missing)}",
                f"{_completed(table, key, missing)} Postgres keeps uniqueness only inside each partition.",
            )


@rule("HF0313", "unique-misses-partition-key", "unique key")
def unique_misses_partition_key(scene: Scene) -> Iterator[Finding]:
    """Unique constraint or index lacks the partition key.

    Uniqueness holds inside one partition only, so a unique constraint or index of a partitioned table must contain
    every column of the partition key (SQLSTATE 0A000). A token that must be unique as a whole cannot be kept
    unique in a table that is split by something else.

    Fix: split the table by the unique column, add the partition key to the constraint, or do not partition.

    Source: PostgreSQL documentation, Table Partitioning, Limitations. Mistakes: SB-05.

    Bad:
        schemas:
          shop:
            tables:
              sessions:
                columns: {id: {type: uuid, default: gen_random_uuid()}, token: {type: text, nullable: false}}
                primary_key: [id]
                unique: {sessions_token_key: [token]}
                partitions: {by: hash, key: [id], modulus: 4}

    Good:
        schemas:
          shop:
            tables:
              sessions:
                columns: {id: {type: uuid, default: gen_random_uuid()}, token: {type: text, nullable: false}}
                primary_key: [id, token]
                unique: {sessions_token_key: [token]}
                partitions: {by: hash, key: [token], modulus: 4}
    """
    for table in scene.partitioned:
        for key in (*table.keys, *table.unique_indexes):
            missing = _missing(table, key)
            if missing and key is not table.primary_key:
                yield Finding(
                    key.where,
                    f"unique key {key.record.address.name} of {table.qualified} lacks the partition key "
                    f"{', '.join(missing)}",
                    f"{_completed(table, key, missing)} Uniqueness holds only inside each partition.",
                )


@rule("HF0314", "partition-key-missing", "partition key of")
def partition_key_missing(scene: Scene) -> Iterator[Finding]:
    """Partition key names a column that the table lacks.

    A table is split by its own columns, or by expressions over them (SQLSTATE 42703 otherwise).

    Fix: name a declared column, or declare it.

    Source: PostgreSQL documentation, CREATE TABLE, PARTITION BY.

    Bad:
        schemas:
          shop:
            tables:
              log:
                columns: {sent_at: {type: timestamptz, nullable: false}}
                partitions: {by: range, key: [created_at], every: 1 day, premake: 7}

    Good:
        schemas:
          shop:
            tables:
              log:
                columns: {sent_at: {type: timestamptz, nullable: false}}
                partitions: {by: range, key: [sent_at], every: 1 day, premake: 7}
    """
    for table in scene.partitioned:
        assert table.partitions is not None
        for i, part in enumerate(table.partition_key):
            if is_plain_name(part) and table.lacks(part):
                yield Finding(
                    (*(table.partitions.origin or ()), "key", i),
                    f"partition key of {table.qualified} names the column {part}, which the table lacks",
                    nearest(part, table.columns, f"Declare {part}, or name one of its columns."),
                )


@rule("HF0330", "list-leaves-values-out", "list partitions of")
def list_leaves_values_out(scene: Scene) -> Iterator[Finding]:
    """List partitions leave values of the key out.

    A row whose value belongs to no partition is refused (SQLSTATE 23514). For a key of an enum type the rule counts
    the values; a list table without any partition is refused when the spec is read.

    Fix: give every value a partition, or write `default: true`.

    Source: PostgreSQL documentation, Table Partitioning. Mistakes: SB-14.

    Bad:
        schemas:
          shop:
            enums: {kind: [mail, report, backup]}
            tables:
              jobs:
                columns: {kind: {type: shop.kind, nullable: false}}
                partitions: {by: list, key: [kind], values: {mail: [mail], report: [report]}}

    Good:
        schemas:
          shop:
            enums: {kind: [mail, report, backup]}
            tables:
              jobs:
                columns: {kind: {type: shop.kind, nullable: false}}
                partitions: {by: list, key: [kind], values: {mail: [mail]}, default: true}
    """
    for table in scene.partitioned:
        record = table.partitions
        assert record is not None
        if record.settings.get("by") != "list" or record.settings.get("default"):
            continue
        values = record.settings.get("values") or {}
        column = table.columns.get(table.partition_key[0]) if table.partition_key else None
        enum = scene.enum_values(table.target, column.settings["type"]) if column else None
        taken = {v for partition in values.values() for v in partition}
        left = [v for v in enum or () if v not in taken]
        if left:
            yield Finding(
                (*(record.origin or ()), "values"),
                f"list partitions of {table.qualified} leave out {listed(left)}",
                "Give each value a partition, or write default: true.",
            )


@rule("HF0332", "range-without-default-or-premake", "range partitions of", severity="warning")
def range_not_ahead(scene: Scene) -> Iterator[Finding]:
    """Range partitions are not made ahead of time.

    A row beyond the last partition is refused (SQLSTATE 23514). Maintenance makes partitions ahead, as many as
    `premake` says; a table without `premake` and without a default partition refuses rows as time goes on. A
    default takes everything, but rows in it block the partition that they belong to.

    Fix: declare `premake`, at least 1.

    Source: PostgreSQL documentation, Table Partitioning. Mistakes: SB-16.

    Bad:
        schemas:
          shop:
            tables:
              events:
                columns: {at: {type: timestamptz, nullable: false}}
                partitions: {by: range, key: [at], every: 1 day, premake: 0}

    Good:
        schemas:
          shop:
            tables:
              events:
                columns: {at: {type: timestamptz, nullable: false}}
                partitions: {by: range, key: [at], every: 1 day, premake: 7}
    """
    for table in scene.partitioned:
        record = table.partitions
        assert record is not None
        settings = record.settings
        if settings.get("by") == "range" and not settings.get("premake") and not settings.get("default"):
            yield Finding(
                (*(record.origin or ()), "premake"),
                f"range partitions of {table.qualified} are not made ahead, and no default takes other rows",
                "Declare premake: 7, or another number of intervals.",
            )


@rule("HF0333", "list-value-repeated", "list value")
def list_value_repeated(scene: Scene) -> Iterator[Finding]:
    """Two list partitions claim one value.

    A value belongs to exactly one partition (SQLSTATE 42P17 otherwise).

    Fix: leave the value in one partition.

    Source: PostgreSQL documentation, CREATE TABLE, FOR VALUES IN.

    Bad:
        schemas:
          shop:
            tables:
              jobs:
                columns: {kind: {type: text, nullable: false}}
                partitions: {by: list, key: [kind], values: {mail: [mail], other: [report, mail]}, default: true}

    Good:
        schemas:
          shop:
            tables:
              jobs:
                columns: {kind: {type: text, nullable: false}}
                partitions: {by: list, key: [kind], values: {mail: [mail], other: [report]}, default: true}
    """
    for table in scene.partitioned:
        record = table.partitions
        assert record is not None
        seen: dict[object, tuple[str | int, ...]] = {}
        for name, values in (record.settings.get("values") or {}).items():
            for i, value in enumerate(values):
                where = (*(record.origin or ()), "values", name, i)
                if value in seen:
                    yield Finding(
                        where,
                        f"list value {value} of {table.qualified} has two partitions",
                        f"Leave {value} in one of them.",
                        related=((seen[value], "the other place"),),
                    )
                seen.setdefault(value, where)


_TIMES = {"timestamp with time zone", "timestamp without time zone", "date"}
_NUMBERS = {"smallint", "integer", "bigint", "numeric"}


@rule("HF0334", "date-bounds", "partition window of")
def window_does_not_fit(scene: Scene) -> Iterator[Finding]:
    """Partition interval does not fit the key.

    Bounds of a `timestamptz` key are written in UTC by Holdfast, so they depend on no session. A `date` holds
    whole days: an hourly interval collapses to an empty range (SQLSTATE 42P17). A calendar interval needs a key of
    time, a number of integers a numeric key.

    Fix: choose an interval of at least a day for `date`, or a `timestamptz` key.

    Source: PostgreSQL documentation, Date/Time Types. Mistakes: SB-33.

    Bad:
        schemas:
          shop:
            tables:
              events:
                columns: {day: {type: date, nullable: false}}
                partitions: {by: range, key: [day], every: 1 hour, premake: 7}

    Good:
        schemas:
          shop:
            tables:
              events:
                columns: {at: {type: timestamptz, nullable: false}}
                partitions: {by: range, key: [at], every: 1 hour, premake: 7}
    """
    for table in scene.partitioned:
        record = table.partitions
        assert record is not None
        every = record.settings.get("every")
        column = table.columns.get(table.partition_key[0]) if len(table.partition_key) == 1 else None
        if record.settings.get("by") != "range" or not every or column is None:
            continue
        base = scene.base_type(table.target, column.settings["type"]).name
        numeric = every.rstrip("s").endswith("integer")
        fits = base in (_NUMBERS if numeric else _TIMES)
        if not fits or (base == "date" and "hour" in every):
            yield Finding(
                (*(record.origin or ()), "every"),
                f"partition window of {table.qualified}, every {every}, does not fit the key's type {base}",
                "Use 1 day or more for date, a calendar interval for timestamptz, integers for numbers.",
            )


_HOURS = {"hour": 1, "day": 24, "week": 168, "month": 730, "year": 8760, "integer": 1}


def _hours(interval: str) -> int:
    count, unit = interval.split(" ")
    return int(count) * _HOURS[unit.rstrip("s")]


@rule("HF0335", "partition-policy-contradicts-itself", "partition policy of")
def policy_contradicts_itself(scene: Scene) -> Iterator[Finding]:
    """Partition policy contradicts itself.

    `min_ahead` is the part of `premake` that must always be there, so it cannot be larger. `retain` shorter than
    one interval would expire the partition that is being written. `on_expiry` without `retain` never happens.

    Fix: bring the numbers in order.

    Source: Holdfast, partition sets.

    Bad:
        schemas:
          shop:
            tables:
              events:
                columns: {at: {type: timestamptz, nullable: false}}
                partitions: {by: range, key: [at], every: 1 month, premake: 2, retain: 7 days, on_expiry: drop}

    Good:
        schemas:
          shop:
            tables:
              events:
                columns: {at: {type: timestamptz, nullable: false}}
                partitions: {by: range, key: [at], every: 1 month, premake: 2, retain: 6 months, on_expiry: drop}
    """
    for table in scene.partitioned:
        record = table.partitions
        assert record is not None
        settings, origin = record.settings, record.origin or ()
        every, retain = settings.get("every"), settings.get("retain")
        subject = f"partition policy of {table.qualified}"
        if every and retain and _hours(retain) < _hours(every):
            yield Finding(
                (*origin, "retain"),
                f"{subject} keeps {retain}, less than one interval of {every}",
                f"Retain at least {every}.",
            )
        if (settings.get("min_ahead") or 0) > (settings.get("premake") or 0):
            yield Finding(
                (*origin, "min_ahead"),
                f"{subject} wants {settings['min_ahead']} partitions ahead and makes {settings.get('premake') or 0}",
                "Make premake at least as large as min_ahead.",
            )
        if scene.stated(record, "on_expiry") and not retain:
            yield Finding(
                (*origin, "on_expiry"),
                f"{subject} says what happens on expiry, but nothing expires",
                "Declare retain, or leave on_expiry out.",
            )


_DROPS = {"drop", "detach"}


@rule("HF0336", "partition-drop-by-name-pattern", "partitions are chosen by name in")
def drop_by_name_pattern(scene: Scene) -> Iterator[Finding]:
    """Partitions to drop are found by a pattern of names.

    In LIKE an underscore stands for any character, so `ev_2020` also finds `evx2020`; a name with a schema never
    equals a bare table name. Strangers are dropped, and real partitions stay.

    Fix: read the children of the parent from pg_inherits, or let `retain` with `on_expiry` do it.

    Source: PostgreSQL documentation, Pattern Matching; pg_inherits. Mistakes: SB-32.

    Bad:
        schemas:
          shop:
            functions:
              expire:
                returns: void
                language: plpgsql
                body: |
                  DECLARE victim text;
                  BEGIN
                    FOR victim IN SELECT tablename FROM pg_catalog.pg_tables WHERE tablename LIKE 'ev_%' LOOP
                      EXECUTE format('DROP TABLE shop.%I', victim);
                    END LOOP;
                  END

    Good:
        schemas:
          shop:
            functions:
              expire:
                arguments: [{name: parent, type: regclass}]
                returns: void
                language: plpgsql
                body: |
                  DECLARE victim regclass;
                  BEGIN
                    FOR victim IN SELECT inhrelid FROM pg_catalog.pg_inherits WHERE inhparent = parent LOOP
                      EXECUTE format('DROP TABLE %s', victim);
                    END LOOP;
                  END
    """
    for text in scene.bodies:
        known = text.sql.words
        if not known & {"pg_tables", "pg_class", "tables", "pg_stat_user_tables"} or "pg_inherits" in known:
            continue
        drops = known & _DROPS or any(
            t.kind == "string" and words(tokenize(t.text)) & _DROPS and "table" in words(tokenize(t.text))
            for t in text.tokens
        )
        pattern = next(
            (t for t in text.tokens if (t.kind == "word" and t.text == "like") or t.text in ("~", "~~")), None
        )
        if drops and pattern is not None:
            yield Finding(
                text.where,
                f"partitions are chosen by name in {scene.name(text.record)}, with {spelled((pattern,)).upper()}",
                "Walk pg_inherits from the parent table, or declare retain and on_expiry.",
                offset=pattern.start,
            )


RULES = (
    primary_key_misses_partition_key, unique_misses_partition_key, partition_key_missing, list_leaves_values_out,
    range_not_ahead, list_value_repeated, window_does_not_fit, policy_contradicts_itself,
    drop_by_name_pattern,
)  # fmt: skip
