"""Rules about indexes: what they cover, what they cannot hold, which are spare."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provision.checks.rule import Finding, rule
from provision.checks.sql import Sql, sql_of
from provision.checks.sqltext import CLOCK, clock_calls
from provision.checks.tables import is_plain_name
from provision.spec.nearest import nearest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provision.checks.scene import Scene
    from provision.checks.tables import Index, IndexColumn, Table
    from provision.spec.record import Pointer, Record


def _plain(item: IndexColumn) -> str | None:
    """The column of an item; an expression that is one bare name is meant as a column."""
    if item.column is None and item.expression and is_plain_name(item.expression):
        return item.expression
    return item.column


@rule("HF0325", "index-on-missing-column", "index")
def index_on_missing_column(scene: Scene) -> Iterator[Finding]:
    """Index names a column that its table lacks.

    Columns and included columns must be declared in the table (SQLSTATE 42703). An index copied from another
    table often names that table's time column.

    Fix: name a declared column.

    Source: PostgreSQL documentation, CREATE INDEX. Mistakes: SB-30.

    Bad:
        schemas:
          shop:
            tables:
              log:
                columns: {sent_at: {type: timestamptz, nullable: false}}
                indexes: {log_time: {columns: [created_at]}}

    Good:
        schemas:
          shop:
            tables:
              log:
                columns: {sent_at: {type: timestamptz, nullable: false}}
                indexes: {log_time: {columns: [sent_at]}}
    """
    for table, index in scene.indexes:
        included = index.record.settings["include"]
        if index.plain is not None and not included and all(c in table.columns for c, _ in index.plain):
            continue
        named = [(("columns", i), name) for i, item in enumerate(index.items) if (name := _plain(item))]
        named += [(("include", i), name) for i, name in enumerate(included)]
        for path, column in named:
            if table.lacks(column):
                yield Finding(
                    (*index.origin, *path),
                    f"index {index.name} names the column {column}, which {table.qualified} lacks",
                    nearest(column, table.columns, f"Declare {column}, or name a declared column."),
                )


@rule("HF0321", "redundant-index", "index", severity="warning")
def redundant_index(scene: Scene) -> Iterator[Finding]:
    """Index repeats the beginning of another index or key.

    A b-tree serves every query that its leading columns serve, so an index over the same columns, or over a
    prefix of them, costs writes and space and answers nothing new. Keys have an index of their own.

    Fix: leave the index out.

    Source: PostgreSQL documentation, Multicolumn Indexes. Mistakes: SB-21.

    Bad:
        schemas:
          shop:
            tables:
              users:
                columns: {mail: {type: text, nullable: false}, org: {type: text, nullable: false}}
                unique: {users_org_mail_key: [org, mail]}
                indexes: {users_org: {columns: [org]}}

    Good:
        schemas:
          shop:
            tables:
              users:
                columns: {mail: {type: text, nullable: false}, org: {type: text, nullable: false}}
                unique: {users_org_mail_key: [org, mail]}
                indexes: {users_mail: {columns: [mail]}}
    """
    for table in scene.tables.values():
        plain = [(i, columns) for i in table.indexes if (columns := _comparable(i)) is not None]
        if not plain:
            continue
        covering: list[tuple[Record, list[tuple[str, str]]]] = [
            (k.record, [(c, "asc") for c in k.columns]) for k in table.keys
        ]
        # One that includes columns may cover one that does not, so those come last.
        covering += [(i.record, c) for i, c in sorted(plain, key=lambda p: bool(p[0].record.settings["include"]))]
        for index, columns in plain:
            for other, theirs in covering:
                if theirs[0] != columns[0] or other is index.record:
                    continue
                if _repeats(index.record, columns, other, theirs):
                    yield Finding(
                        index.origin,
                        f"index {index.name} ({', '.join(c for c, _ in columns)}) repeats the beginning of "
                        f"{other.address.name} ({', '.join(c for c, _ in theirs)})",
                        "Leave it out.",
                        related=((other.origin or (), "covers it"),),
                        at_key=True,
                    )
                    break


def _comparable(index: Index) -> list[tuple[str, str]] | None:
    """Columns of a b-tree that another may repeat: no predicate, expression or operator class."""
    if index.method != "btree" or index.record.settings["where"] or index.has_opclass:
        return None
    return index.plain


def _repeats(index: Record, columns: list[tuple[str, str]], other: Record, theirs: list[tuple[str, str]]) -> bool:
    if theirs[: len(columns)] != columns:
        return False
    own, included = set(index.settings.get("include") or ()), set(other.settings.get("include") or ())
    if not own <= included | {c for c, _ in theirs}:
        return False
    if index.settings.get("unique"):
        return len(theirs) == len(columns) and other.address.kind != "index"
    if len(theirs) == len(columns) and other.address.kind == "index" and not other.settings.get("unique"):
        # Of two equal ones only the later is spare.
        return own < included or (own == included and str(other.origin) < str(index.origin))
    return True


@rule("HF0322", "index-order-cannot-serve-queue", "access order", severity="warning")
def access_order_not_served(scene: Scene) -> Iterator[Finding]:
    """No index gives the declared order of access.

    A queue is read in one order, such as most urgent first and oldest first among those. An index gives its own
    order or the exact reverse; (priority, created_at) gives neither priority DESC, created_at, so every read
    sorts. Columns before the order are taken as fixed by equality.

    Fix: write the order into the index, `{column: priority, order: desc}`.

    Source: PostgreSQL documentation, Indexes and ORDER BY. Mistakes: SB-22.

    Bad:
        schemas:
          shop:
            tables:
              jobs:
                columns: {priority: {type: integer, nullable: false}, at: {type: timestamptz, nullable: false}}
                access_orders: {next: [priority desc, at]}
                indexes: {jobs_next: {columns: [priority, at]}}

    Good:
        schemas:
          shop:
            tables:
              jobs:
                columns: {priority: {type: integer, nullable: false}, at: {type: timestamptz, nullable: false}}
                access_orders: {next: [priority desc, at]}
                indexes: {jobs_next: {columns: [{column: priority, order: desc}, at]}}
    """
    for table in scene.tables.values():
        for name, wanted in (table.record.settings.get("access_orders") or {}).items():
            order = [_direction(item) for item in wanted]
            turned = [(c, "asc" if d == "desc" else "desc") for c, d in order]
            have = [i.plain for i in table.indexes if i.plain is not None]
            have += [[(c, "asc") for c in k.columns] for k in table.keys]
            if not any(_serves(columns, order) or _serves(columns, turned) for columns in have):
                shown = ", ".join(c if d == "asc" else f"{{column: {c}, order: desc}}" for c, d in order)
                yield Finding(
                    (*(table.record.origin or ()), "access_orders", name),
                    f"access order {name} of {table.qualified}, {', '.join(wanted)}, has no index that gives it",
                    f"Declare an index with columns: [{shown}].",
                )


def _direction(item: str) -> tuple[str, str]:
    column, _, direction = item.strip().partition(" ")
    return column, "desc" if direction.strip().lower().startswith("desc") else "asc"


def _serves(columns: list[tuple[str, str]], order: list[tuple[str, str]]) -> bool:
    return any(columns[i : i + len(order)] == order for i in range(len(columns) - len(order) + 1))


#: A b-tree tuple is at most a third of a page (nbtree, BTMaxItemSize).
_BTREE_BYTES = 2704
_NEVER_BOUNDED = frozenset({"jsonb", "json", "bytea", "xml"})
_TEXT = frozenset({"text", "character varying"})


@rule("HF0323", "unbounded-column-in-btree", "index", severity="warning")
def unbounded_column_in_btree(scene: Scene) -> Iterator[Finding]:
    """B-tree holds a column without a bound of length.

    An index tuple may have 2704 bytes; a row with a longer one cannot be written at all (SQLSTATE 54000). Included
    columns count too, and are never compressed away for certain. Text in the key itself is not reported: keys
    are usually short, but a `varchar(n)` says so.

    Fix: include only bounded columns; index documents with gin, or a digest of the value.

    Source: PostgreSQL documentation, B-Tree Indexes; Index-Only Scans and Covering Indexes. Mistakes: SB-13.

    Bad:
        schemas:
          shop:
            tables:
              state:
                columns: {id: {type: uuid, nullable: false}, body: {type: jsonb}}
                indexes: {state_cover: {columns: [id], include: [body]}}

    Good:
        schemas:
          shop:
            tables:
              state:
                columns: {id: {type: uuid, nullable: false}, size: {type: bigint}}
                indexes: {state_cover: {columns: [id], include: [size]}}
    """
    long = {t for target, t in scene.columns_by_type if _may_be_long(scene, target, t)}
    for table in scene.tables.values() if long else ():
        unbounded = [c for c, r in table.columns.items() if r.settings["type"] in long]
        records = [i.record for i in table.indexes if i.method == "btree"] if unbounded else []
        for record in (*records, *table.of("unique"), *table.of("primary_key")) if unbounded else ():
            for path, column, included in _held(record):
                if column in unbounded and _unbounded(scene, table, column, included):
                    yield Finding(
                        (*(record.origin or ()), *path),
                        f"index {record.address.name} holds {column}, {table.columns[column].settings['type']}, "
                        f"which may exceed {_BTREE_BYTES} bytes",
                        "Include bounded columns only; index documents with gin or a digest.",
                    )


def _held(record: Record) -> Iterator[tuple[Pointer, str, bool]]:
    for i, item in enumerate(record.settings.get("columns") or ()):
        column = item if isinstance(item, str) else item.get("column")
        if column:
            yield ("columns", i), column, False
    for i, column in enumerate(record.settings.get("include") or ()):
        yield ("include", i), column, True


def _may_be_long(scene: Scene, target: str, declared: str) -> bool:
    base = scene.base_type(target, declared)
    if base.is_array or base.name in _NEVER_BOUNDED:
        return True
    # A character may take four bytes.
    return base.name in _TEXT and (not base.modifiers or int(base.modifiers) * 4 > _BTREE_BYTES)


def _unbounded(scene: Scene, table: Table, column: str, included: bool) -> bool:
    base = scene.base_type(table.target, table.columns[column].settings["type"])
    return included or base.is_array or base.name in _NEVER_BOUNDED


@rule("HF0324", "ivfflat-on-empty-table", "index", severity="warning")
def ivfflat_on_empty_table(scene: Scene) -> Iterator[Finding]:
    """An ivfflat index is built before the rows are there.

    ivfflat learns its lists from the rows present when it is built; made together with the table it has low
    recall, and the server only says so in a notice. hnsw needs no rows, up to 2000 dimensions.

    Fix: use `method: hnsw`, or build the index in a migration after loading.

    Source: pgvector, README, IVFFlat. Mistakes: SB-20.

    Bad:
        extensions: {vector: {}}
        schemas:
          shop:
            tables:
              items:
                columns: {v: {type: public.vector(3), nullable: false}}
                indexes: {items_v: {method: ivfflat, columns: [{column: v, opclass: public.vector_cosine_ops}]}}

    Good:
        extensions: {vector: {}}
        schemas:
          shop:
            tables:
              items:
                columns: {v: {type: public.vector(3), nullable: false}}
                indexes: {items_v: {method: hnsw, columns: [{column: v, opclass: public.vector_cosine_ops}]}}
    """
    for table, index in scene.indexes:
        if index.method == "ivfflat":
            yield Finding(
                (*index.origin, "method"),
                f"index {index.name} on {table.qualified} is ivfflat, made while the table is empty",
                "Write method: hnsw, or build it in a migration after loading.",
            )


@rule("HF0326", "index-expression-parens", "index")
def index_expression_parens(scene: Scene) -> Iterator[Finding]:
    """Parentheses of an index expression do not match.

    In CREATE INDEX an expression that is not one bare call needs parentheses of its own (SQLSTATE 42601).
    Holdfast writes those, so the spec holds the expression alone; what it cannot do is find a parenthesis that
    is missing inside.

    Fix: close what is open.

    Source: PostgreSQL documentation, Indexes on Expressions. Mistakes: SB-12.

    Bad:
        schemas:
          shop:
            tables:
              jobs:
                columns: {allowed: {type: interval}}
                indexes: {jobs_allowed: {columns: [{expression: "(extract(epoch FROM allowed)::integer"}]}}

    Good:
        schemas:
          shop:
            tables:
              jobs:
                columns: {allowed: {type: interval}}
                indexes: {jobs_allowed: {columns: [{expression: "extract(epoch FROM allowed)::integer"}]}}
    """
    for table, index in scene.indexes:
        for path, expression in index.expressions:
            if not _balanced(expression):
                yield Finding(
                    (*index.origin, *path),
                    f"index {index.name} on {table.qualified} has parentheses that do not match",
                    "Close each parenthesis; the expression needs none around the whole.",
                )


def _balanced(expression: str) -> bool:
    if "(" not in expression and ")" not in expression:
        return True
    depth = 0
    for token in sql_of(expression).tokens:
        if token.kind == "op":
            depth += (token.text in "([") - (token.text in ")]")
            if depth < 0:
                return False
    return depth == 0


#: Built-in functions that are not IMMUTABLE (pg_proc.provolatile) and turn up in indexes.
_CHANGING = frozenset(
    "random gen_random_uuid uuidv4 uuidv7 age current_setting to_timestamp pg_sleep nextval currval txid_current "
    "pg_backend_pid inet_client_addr current_schema set_config".split()
)
_CHANGING_WORDS = frozenset({"current_user", "session_user", "user", "current_role"})


_SUSPECT = _CHANGING | _CHANGING_WORDS | CLOCK


def changing_calls(scene: Scene, target: str, sql: Sql) -> list[str]:
    """The functions of an expression that are not immutable, as written."""
    if sql.mentions.isdisjoint(_SUSPECT) and sql.mentions.isdisjoint(scene.function_names):
        return []
    found = clock_calls(sql.tokens)
    found += [t.text for t in sql.tokens if t.kind == "word" and t.text in _CHANGING_WORDS]
    for call in sql.called:
        declared = scene.functions.get((target, call.qualified))
        if declared is not None and all(f.settings.get("volatility") != "immutable" for f in declared):
            found.append(f"{call.qualified}()")
        elif call.last in _CHANGING and call.parts[:-1] in ((), ("pg_catalog",)):
            found.append(f"{call.last}()")
    return found


@rule("HF0327", "nonimmutable-index-predicate", "index")
def changing_index_expression(scene: Scene) -> Iterator[Finding]:
    """Index uses a function whose result may change.

    Predicates and expressions of indexes must be IMMUTABLE (SQLSTATE 42P17): an entry is made once, when the row
    is written. A predicate over now() would be wrong a moment later. The same holds for generated columns.

    Fix: take the time out of the predicate and put it into the query; index the time column itself.

    Source: PostgreSQL documentation, CREATE INDEX; Function Volatility Categories. Mistakes: SB-11.

    Bad:
        schemas:
          shop:
            tables:
              sessions:
                columns: {until: {type: timestamptz, nullable: false}}
                indexes: {sessions_live: {columns: [until], where: until > now()}}

    Good:
        schemas:
          shop:
            tables:
              sessions:
                columns: {until: {type: timestamptz, nullable: false}}
                indexes: {sessions_live: {columns: [until]}}
    """
    for table, index in scene.indexes:
        for path, expression in index.expressions:
            found = changing_calls(scene, table.target, sql_of(expression))
            if found:
                yield Finding(
                    (*index.origin, *path),
                    f"index {index.name} on {table.qualified} uses {found[0]}, whose result may change",
                    "Only IMMUTABLE functions are allowed there; compare with the time in the query.",
                )
    for text in scene.generated:
        found = changing_calls(scene, text.record.address.target, text.sql)
        if found:
            yield Finding(
                text.where,
                f"index or generated column {scene.name(text.record)} uses {found[0]}, whose result may change",
                "Only IMMUTABLE functions are allowed there; fill the column with a default or trigger.",
            )


#: What methods other than b-tree can do (documentation, Index Types; pg_indexam_has_property).
_INCLUDES = frozenset({"btree", "gist", "spgist"})
_MANY_COLUMNS = frozenset({"btree", "gist", "gin", "brin", "bloom", "rum"})


@rule("HF0328", "index-method-cannot", "index")
def index_method_cannot(scene: Scene) -> Iterator[Finding]:
    """Index asks its method for something that it cannot do.

    Only b-tree is unique and ordered, only b-tree, GiST and SP-GiST include columns, hash takes one column
    (SQLSTATE 0A000). A gin index over plain text or numbers needs an operator class (SQLSTATE 42704).

    Fix: choose another method, or drop the option.

    Source: PostgreSQL documentation, CREATE INDEX; Index Types.

    Bad:
        schemas:
          shop:
            tables:
              items:
                columns: {tags: {type: jsonb, nullable: false}}
                indexes: {items_tags: {method: gin, columns: [tags], unique: true}}

    Good:
        schemas:
          shop:
            tables:
              items:
                columns: {tags: {type: jsonb, nullable: false}}
                indexes: {items_tags: {method: gin, columns: [tags]}}
    """
    for _, index in scene.indexes:
        settings, method, items = index.record.settings, index.method, index.items
        if method == "btree":
            continue
        wrong: list[tuple[Pointer, str]] = []
        if settings.get("unique"):
            wrong.append((("unique",), "cannot be unique"))
        if method not in _INCLUDES and settings.get("include"):
            wrong.append((("include",), "cannot include columns"))
        if method not in _MANY_COLUMNS and len(items) > 1:
            wrong.append((("columns",), "takes one column"))
        wrong += [(("columns", i, "order"), "has no order") for i, item in enumerate(items) if item.order == "desc"]
        for path, problem in wrong:
            yield Finding(
                (*index.origin, *path),
                f"index {index.name} is {method}, which {problem}",
                "Use btree, or leave the option out.",
            )


RULES = (
    index_on_missing_column, redundant_index, access_order_not_served, unbounded_column_in_btree,
    ivfflat_on_empty_table, index_expression_parens, changing_index_expression, index_method_cannot,
)  # fmt: skip
