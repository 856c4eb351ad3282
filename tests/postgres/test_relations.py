"""Tables and all their parts on real servers: every option there and back, with labels that tell the truth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import psycopg
import pytest

from tests.postgres.documents import changed, desired, read
from tests.postgres.relation_driver import Bench, hazards, ids, world

BASE: Mapping[str, Any] = {
    "schemas": {
        "a": {
            "domains": {"pos": {"type": "int", "checks": {"p": "VALUE > 0"}}, "free": {"type": "int"}},
            "tables": {
                "t": {
                    "columns": {
                        "id": {"type": "int", "nullable": False},
                        "n": {"type": "int"},
                        "s": {"type": "varchar(10)"},
                        "x": {"type": "text"},
                        "at": {"type": "timestamptz"},
                        "d": {"type": "numeric(5,2)", "default": 1},
                        "nn": {"type": "int", "nullable": False},
                        "g": {"type": "int", "generated": "n + 1"},
                        "k": {"type": "int", "nullable": False, "identity": "always"},
                        "f": {"type": "a.free"},
                        "o": {"type": "int"},
                    },
                    "primary_key": ["id"],
                    "unique": {"u": ["n"]},
                    "checks": {"c": "n >= 0"},
                    "indexes": {"i": ["s"], "j": {"columns": ["lower(x)"], "where": "n > 0"}},
                    "foreign_keys": {"fk": {"columns": ["n"], "references": "a.r"}},
                },
                "r": {
                    "columns": {"id": {"type": "int"}, "o": {"type": "int", "nullable": False}},
                    "primary_key": ["id"],
                    "unique": {"ro": ["o"]},
                },
            },
        }
    }
}
ROWS = (
    "INSERT INTO a.r SELECT g, g FROM generate_series(1, 50) g",
    """INSERT INTO a.t (id, n, s, x, at, d, nn, o, f)
       SELECT g, g, g::text, to_json(g)::text, now(), 1, g, g, g FROM generate_series(1, 50) g""",
)
FK = {"columns": ["n"], "references": "a.r"}
REWRITE_NEW = {"rewrite:pg:main/a/t/column/new"}

#: What changes, to what, and the consents that it asks for.
TABLE_OPTIONS = [
    ("comment", "hello", set()),
    ("storage", {"fillfactor": 70, "autovacuum_vacuum_scale_factor": 0.02, "toast.autovacuum_enabled": False}, set()),
    ("unlogged", True, {"rewrite:pg:main/a/t"}),
    ("row_security", {"enabled": True, "force": True}, set()),
    ("replica_identity", "full", set()),
    ("replica_identity", "nothing", set()),
    ("replica_identity", {"index": "t_pkey"}, set()),
]
COLUMN_OPTIONS = [
    ("n.comment", "c", set()),
    ("n.default", "5", set()),
    ("n.default", "random()::int", set()),
    ("n.nullable", False, set()),
    ("n.statistics", 10, set()),
    ("n.options", {"n_distinct": 5}, set()),
    ("x.storage", "external", set()),
    ("x.compression", "pglz", set()),
    ("x.collation", "C", {"blocking:pg:main/a/t/column/x"}),
    ("s.type", "varchar(20)", set()),
    ("s.type", "text", set()),
    ("s.type", "varchar(5)", {"rewrite:pg:main/a/t/column/s"}),
    ("s.type", "jsonb", {"rewrite:pg:main/a/t/column/s"}),
    ("d.type", "numeric(7,2)", set()),
    ("d.type", "numeric(7,3)", {"rewrite:pg:main/a/t/column/d"}),
    ("d.type", "numeric(7,1)", {"rewrite:pg:main/a/t/column/d", "data_loss:pg:main/a/t/column/d"}),
    ("d.type", "text", {"rewrite:pg:main/a/t/column/d"}),
    ("at.type", "timestamp", set()),
    ("n.type", "bigint", {"rewrite:pg:main/a/t/column/n", "rewrite:pg:main/a/t/column/g"}),
    ("o.type", "oid", set()),
    ("f.type", "int", set()),
    ("f.type", "a.pos", {"rewrite:pg:main/a/t/column/f"}),
    ("g", {"type": "int"}, set()),
    ("k.identity", {"generation": "by_default", "increment": 2, "cycle": True}, set()),
    ("k", {"type": "int", "nullable": False}, set()),
    ("new", {"type": "int"}, set()),
    ("new", {"type": "int", "default": 5, "nullable": False, "comment": "x", "statistics": 5}, set()),
    ("new", {"type": "timestamptz", "default": "now()", "nullable": False}, set()),
    ("new", {"type": "uuid", "default": "gen_random_uuid()"}, set()),
    ("new", {"type": "uuid", "default": "gen_random_uuid()", "nullable": False}, REWRITE_NEW),
    ("new", {"type": "int", "identity": "always"}, REWRITE_NEW),
    ("new", {"type": "int", "generated": "n * 2"}, REWRITE_NEW),
    ("new", {"type": "a.pos"}, REWRITE_NEW),
    ("new", {"type": "a.free"}, set()),
    ("o", None, {"data_loss:pg:main/a/t/column/o"}),
]
CONSTRAINTS: list[tuple[str, Any, set[str]]] = [
    ("unique.u", None, set()),
    ("unique.u", ["n", "s"], set()),
    ("unique.u", {"columns": ["n"], "nulls_not_distinct": True, "comment": "u"}, set()),
    ("unique.u", {"columns": ["n"], "storage": {"fillfactor": 50}}, set()),
    ("unique.u", {"columns": ["n"], "deferrable": True, "include": ["s"]}, set()),
    ("unique.v", ["s", "x"], set()),
    ("primary_key", ["id", "nn"], set()),
    ("primary_key", {"columns": ["id"], "comment": "pk", "clustered": True}, set()),
    ("primary_key", {"columns": ["id"], "name": "other"}, set()),
    ("checks.c", "n > 0", set()),
    ("checks.c", None, set()),
    ("checks.c2", "n < 1000", set()),
    ("checks.c", {"expression": "n >= 0", "comment": "x"}, set()),
    ("checks.c", {"expression": "n >= 0", "no_inherit": True}, set()),
    ("checks.c", {"expression": "n >= 0", "validated": False}, set()),
    ("foreign_keys.fk", None, set()),
    ("foreign_keys.fk2", {"columns": ["nn"], "references": "a.r", "referenced_columns": ["o"]}, set()),
    ("foreign_keys.fk", {**FK, "on_delete": "set_null", "on_delete_columns": ["n"]}, set()),
    ("foreign_keys.fk", {**FK, "on_update": "cascade", "match": "full"}, set()),
    ("foreign_keys.fk", {**FK, "deferrable": True, "initially_deferred": True, "comment": "f"}, set()),
    ("foreign_keys.fk", {**FK, "validated": False}, set()),
]
INDEXES: list[tuple[str, Any, set[str]]] = [
    ("indexes.i", None, set()),
    ("indexes.i", ["s", "n"], set()),
    ("indexes.i", [{"column": "s", "order": "desc", "opclass": "text_pattern_ops"}], set()),
    ("indexes.i", [{"column": "s", "nulls": "first", "collation": "C"}], set()),
    ("indexes.i", {"columns": ["s"], "unique": True, "nulls_not_distinct": True, "include": ["n"]}, set()),
    ("indexes.i", {"columns": ["s"], "storage": {"fillfactor": 50}, "comment": "c", "clustered": True}, set()),
    ("indexes.i", {"columns": ["s"], "method": "hash"}, set()),
    ("indexes.i", {"columns": ["id"], "method": "brin", "storage": {"pages_per_range": 16}}, set()),
    ("indexes.i2", ["at"], set()),
    ("indexes.j", {"columns": ["lower(x)"], "where": "n > 1", "statistics": {"1": 50}}, set()),
]
ONLY_18 = [
    ("columns.g.generated", "n + 2", {"rewrite:pg:main/a/t/column/g"}),
    ("columns.new", {"type": "int", "generated": {"expression": "n * 3", "stored": False}}, set()),
    ("foreign_keys.fk", {**FK, "enforced": False}, None),
    ("checks.c", {"expression": "n >= 0", "enforced": False}, set()),
]
EVERY = [
    *TABLE_OPTIONS,
    *((f"columns.{path}", value, consents) for path, value, consents in COLUMN_OPTIONS),
    *CONSTRAINTS,
    *INDEXES,
]
SMOKE = [case for case in EVERY if case[0] in ("storage", "columns.n.nullable", "unique.u", "indexes.i", "columns.new")]


@pytest.fixture(scope="module")
def bench(pg_server: Any) -> Iterator[Bench]:
    found = Bench(pg_server, "relations", BASE, ROWS)
    yield found
    found.end()


@pytest.fixture(scope="module")
def bench16(pg16_server: Any) -> Iterator[Bench]:
    found = Bench(pg16_server, "relations", BASE, ROWS)
    yield found
    found.end()


def _label(case: Any) -> str:
    return str(case)[:60] if isinstance(case, str | dict | list) else ""


@pytest.mark.parametrize(("path", "value", "consents"), [*EVERY, *ONLY_18], ids=_label)
def test_every_option_goes_there_and_back_in_its_online_form(
    bench: Bench, path: str, value: Any, consents: Any
) -> None:
    with bench.use() as w:
        plan = w.there_and_back(BASE, f"schemas.a.tables.t.{path}", value)
        assert consents is None or hazards(plan) == consents
        assert w.one("SELECT count(*) FROM a.t") == 50


@pytest.mark.parametrize(("path", "value", "consents"), SMOKE, ids=_label)
def test_the_same_holds_on_the_older_server(bench16: Bench, path: str, value: Any, consents: Any) -> None:
    with bench16.use() as w:
        plan = w.there_and_back(BASE, f"schemas.a.tables.t.{path}", value)
        assert hazards(plan) == consents


def test_before_17_another_expression_is_another_column(bench16: Bench) -> None:
    with bench16.use() as w:
        plan = w.there_and_back(BASE, "schemas.a.tables.t.columns.g.generated", "n + 2")
        assert ids(plan) == ["a/t/column/g#drop.drop", "a/t/column/g#create"]
        assert hazards(plan) == {"rewrite:pg:main/a/t/column/g"}


WIDE: Mapping[str, Any] = {
    "extensions": {"vector": {}},
    "schemas": {
        "a": {
            "enums": {"st": ["x", "y"]},
            "domains": {"pos": {"type": "int", "checks": {"p": "VALUE > 0"}}},
            "tables": {
                "registry": {
                    "comment": "agents",
                    "columns": {
                        "id": {"type": "uuid", "default": "gen_random_uuid()"},
                        "name": {"type": "varchar(255)", "nullable": False, "default": "'n'"},
                        "st": {"type": "a.st", "default": "'x'", "nullable": False},
                        "n": {
                            "type": "int",
                            "identity": {"generation": "always", "start": 10, "increment": -2, "min": -99, "max": 50},
                        },
                        "g": {"type": "text", "generated": "lower(name)"},
                        "p": {"type": "a.pos"},
                        "v": {"type": "public.vector(3)", "storage": "external"},
                        "c": {
                            "type": "text",
                            "collation": "C",
                            "storage": "main",
                            "compression": "pglz",
                            "statistics": 200,
                            "options": {"n_distinct": -0.5},
                            "comment": "it's",
                        },
                        "ts": {"type": "timestamptz(3)", "default": "now()"},
                        "arr": {"type": "text[]"},
                        "amount": {"type": "decimal(5,2)", "default": 0},
                        "parent": {"type": "uuid"},
                        "Odd name": {"type": "bool", "default": True},
                    },
                    "primary_key": ["id"],
                    "unique": {
                        "u": {
                            "columns": ["name", "c"],
                            "nulls_not_distinct": True,
                            "include": ["n"],
                            "storage": {"fillfactor": 80},
                            "comment": "uu",
                        }
                    },
                    "checks": {
                        "low": "n < 100",
                        "kind": {"expression": "st <> 'y'::a.st", "no_inherit": True, "comment": "kk"},
                        "unproven": {"expression": "amount >= 0", "validated": False},
                    },
                    "foreign_keys": {
                        "self": {
                            "columns": ["parent"],
                            "references": "a.registry",
                            "on_delete": "set_null",
                            "deferrable": True,
                        },
                        "there": {
                            "columns": ["id", "parent"],
                            "references": "a.state",
                            "match": "full",
                            "on_update": "cascade",
                        },
                    },
                    "indexes": {
                        "i1": ["name"],
                        "i2": {
                            "columns": [
                                {"column": "name", "order": "desc", "opclass": "text_pattern_ops"},
                                "lower(c)",
                                {"expression": "n + 1", "nulls": "first"},
                            ],
                            "where": "n > 3",
                            "storage": {"fillfactor": 70},
                            "comment": "idx",
                            "statistics": {"3": 100},
                        },
                        "i3": {
                            "columns": [{"column": "v", "opclass": "public.vector_cosine_ops"}],
                            "method": "hnsw",
                            "storage": {"m": 8},
                        },
                        "i4": {"columns": ["arr"], "method": "gin", "storage": {"fastupdate": False}},
                        "i5": {"columns": ["id"], "unique": True, "include": ["name"], "clustered": True},
                        "i6": {
                            "columns": [
                                {
                                    "column": "ts",
                                    "opclass": "timestamptz_minmax_multi_ops",
                                    "opclass_params": {"values_per_range": 16},
                                }
                            ],
                            "method": "brin",
                        },
                        "i7": ["Odd name"],
                    },
                    "replica_identity": {"index": "i5"},
                    "storage": {
                        "fillfactor": 85,
                        "autovacuum_vacuum_scale_factor": 0.02,
                        "toast.autovacuum_enabled": False,
                    },
                    "row_security": True,
                },
                "state": {
                    "columns": {"id": {"type": "uuid"}, "k": {"type": "uuid"}, "v": {"type": "jsonb"}},
                    "primary_key": ["id", "k"],
                    "partitions": {"by": "hash", "key": ["id"], "modulus": 4},
                    "storage": {"fillfactor": 70},
                    "indexes": {"s_v": {"columns": ["v"], "method": "gin"}},
                    "foreign_keys": {"back": {"columns": ["id"], "references": "a.registry", "on_delete": "cascade"}},
                },
            },
        }
    },
}


@pytest.mark.parametrize("major", [18, 16])
def test_a_table_with_every_option_is_read_back_as_it_was_declared(request: Any, major: int) -> None:
    dsn = request.getfixturevalue("pg_database" if major == 18 else "pg16_database")
    with world(dsn) as w:
        plan = w.apply(WIDE, ())
        assert hazards(plan) == set()
        assert all(s.lock is None for s in plan.steps)
        live = w.live()
        for record in w.canonical(desired(WIDE)):
            settled = {k: v for k, v in record.settings.items() if v is not None}
            assert {k: live[record.address].settings[k] for k in settled if k in ("type", "default", "columns")} == {
                k: v for k, v in settled.items() if k in ("type", "default", "columns")
            }


def test_tables_that_refer_to_each_other_are_made_and_dropped(pg_database: Mapping[str, Any]) -> None:
    with world(pg_database) as w:
        w.apply(WIDE, ())
        plan = w.apply({"extensions": {"vector": {}}, "schemas": {"a": {}}})
        assert {"data_loss:pg:main/a/registry", "data_loss:pg:main/a/state"} <= hazards(plan)
        assert w.one("SELECT count(*) FROM pg_class WHERE relnamespace = 'a'::regnamespace") == 0


def _renamed(base: Mapping[str, Any]) -> dict[str, Any]:
    """Column n becomes amount, wherever it is spoken of."""
    spec = changed(base, "schemas.a.tables.t.columns.n", None)
    spec = changed(spec, "schemas.a.tables.t.columns.amount", {"type": "int", "renamed_from": "n"})
    table = spec["schemas"]["a"]["tables"]["t"]
    table |= {
        "unique": {"u": ["amount"]},
        "checks": {"c": "amount >= 0"},
        "foreign_keys": {"fk": {**FK, "columns": ["amount"]}},
    }
    table["columns"]["g"]["generated"] = "amount + 1"
    table["indexes"]["j"]["where"] = "amount > 0"
    found: dict[str, Any] = spec
    return found


def test_a_renamed_column_keeps_its_values_and_all_that_speaks_of_it(bench: Bench) -> None:
    with bench.spend() as w:
        plan = w.apply(_renamed(BASE))
        assert ids(plan) == ["a/t/column/amount#rename.rename"]
        assert w.one("SELECT sum(amount) FROM a.t") == 1275


def test_a_renamed_table_keeps_its_rows_and_parts(bench: Bench) -> None:
    with bench.spend() as w:
        spec = changed(BASE, "schemas.a.tables.t.primary_key", {"columns": ["id"], "name": "t_pkey"})
        tables = spec["schemas"]["a"]["tables"]
        tables["tasks"] = {**tables.pop("t"), "renamed_from": "t"}
        tables["tasks"]["checks"]["c"] = "n > 0"
        plan = w.apply(spec)
        assert ids(plan)[0] == "a/tasks#rename.rename"
        assert ids(plan)[1:] == ["a/tasks/check/c#replace", "a/tasks/check/c#alter.validate"]
        assert w.one("SELECT count(*) FROM a.tasks") == 50


def test_the_table_that_a_foreign_key_refers_to_may_be_renamed(bench: Bench) -> None:
    with bench.spend() as w:
        spec = changed(BASE, "schemas.a.tables.t.foreign_keys.fk.references", "a.results")
        tables = spec["schemas"]["a"]["tables"]
        tables["results"] = {
            **tables.pop("r"),
            "renamed_from": "r",
            "primary_key": {"columns": ["id"], "name": "r_pkey"},
        }
        assert ids(w.apply(spec)) == ["a/results#rename.rename"]


def test_a_table_and_a_column_of_it_may_be_renamed_at_once(bench: Bench) -> None:
    with bench.spend() as w:
        spec = _renamed(BASE)
        tables = spec["schemas"]["a"]["tables"]
        tables["tasks"] = {**tables.pop("t"), "renamed_from": "t"}
        plan = w.apply(spec)
        assert [i for i in ids(plan) if "rename" not in i] == []
        assert w.one("SELECT sum(amount) FROM a.tasks") == 1275


def test_an_index_left_invalid_is_seen_and_built_again(bench: Bench) -> None:
    with bench.spend() as w:
        wanted = changed(BASE, "schemas.a.tables.t.indexes.once", {"columns": ["o"], "unique": True})
        w.run("UPDATE a.t SET o = 1 WHERE o = 2")
        (step,) = w.plan(w.canonical(desired(wanted))).steps
        with pytest.raises(psycopg.errors.UniqueViolation):
            w.send(step)
        assert w.one(step.done_if or "") is False
        w.run("UPDATE a.t SET o = 2 WHERE id = 2")
        assert ids(w.apply(wanted)) == ["a/t/index/once#drop.drop", "a/t/index/once#create.build"]


INTERRUPTED = [
    ("columns.n.nullable", False),
    ("unique.v", ["s"]),
    ("unique.u", ["n", "s"]),
    ("checks.c", "n > 0"),
    ("primary_key", ["nn"]),
    ("indexes.i", ["s", "n"]),
]


@pytest.mark.parametrize("prunes", [False, True])
@pytest.mark.parametrize(("path", "value"), INTERRUPTED, ids=_label)
def test_safe_forms_are_finished_wherever_the_first_run_stopped(
    bench: Bench, path: str, value: Any, prunes: bool
) -> None:
    """``prunes``: what the first run left is dropped because nobody declares it, or else taken up."""
    wanted = changed(BASE, f"schemas.a.tables.t.{path}", value)
    steps, done = 1, 0
    while done < steps:
        with bench.spend() as w:
            owned = None if prunes else tuple(map(str, w.live().records))
            first = w.plan(w.canonical(desired(wanted)), owned).steps
            steps = len(first)
            for step in first[:done]:
                w.send(step)
            w.apply(wanted, owned)
            assert w.one("SELECT count(*) FROM pg_class WHERE relname LIKE '%\\_\\_new'") == 0
            assert w.one("SELECT count(*) FROM pg_constraint WHERE conname LIKE 'holdfast%'") == 0
        done += 1


def test_violations_are_found_without_a_lock_and_leave_the_old_rows_alone(bench: Bench) -> None:
    with bench.spend() as w:
        w.run("UPDATE a.t SET x = NULL WHERE id = 1")
        wanted = w.canonical(desired(changed(BASE, "schemas.a.tables.t.columns.x.nullable", False)))
        first, second, *_ = w.plan(wanted).steps
        w.send(first)
        with pytest.raises(psycopg.errors.CheckViolation):
            w.send(second)
        assert second.lock == "SHARE UPDATE EXCLUSIVE"


@pytest.mark.parametrize(
    ("sql", "address", "field"),
    [
        ("ALTER TABLE a.t SET (fillfactor = 33)", "a/t", "storage"),
        ("ALTER TABLE a.t ALTER s SET STATISTICS 7", "a/t/column/s", "statistics"),
        ("ALTER TABLE a.t ALTER s SET (n_distinct = 3)", "a/t/column/s", "options"),
        ("ALTER TABLE a.t ALTER k SET CACHE 50", "a/t/column/k", "identity"),
        ("ALTER INDEX a.i SET (fillfactor = 44)", "a/t/index/i", "storage"),
        ("ALTER TABLE a.t CLUSTER ON i", "a/t/index/i", "clustered"),
        ("COMMENT ON CONSTRAINT fk ON a.t IS 'moved'", "a/t/foreign_key/fk", "comment"),
        ("ALTER TABLE a.t ALTER CONSTRAINT fk DEFERRABLE", "a/t/foreign_key/fk", "deferrable"),
        ("ALTER TABLE a.t ENABLE ROW LEVEL SECURITY", "a/t", "row_security"),
        ("ALTER TABLE a.t REPLICA IDENTITY FULL", "a/t", "replica_identity"),
        ("ALTER TABLE a.t DROP CONSTRAINT c, ADD CONSTRAINT c CHECK (n >= 0) NOT VALID", "a/t/check/c", "validated"),
    ],
)
def test_an_option_changed_from_outside_is_named_and_mended(bench: Bench, sql: str, address: str, field: str) -> None:
    with bench.use() as w:
        w.run(sql)
        drift = {(d.object, f) for d in w.plan(w.canonical(desired(BASE))).drift for f in d.fields}
        assert drift == {(f"pg:main/{address}", field)}
        w.apply(BASE)


def test_a_not_null_that_was_never_proven_is_seen(bench: Bench) -> None:
    with bench.use() as w:
        w.run("ALTER TABLE a.t ALTER nn DROP NOT NULL", "ALTER TABLE a.t ADD CONSTRAINT later NOT NULL nn NOT VALID")
        assert ids(w.apply(BASE)) == ["a/t/column/nn#alter.not_null_validate"]


@pytest.mark.parametrize(
    ("path", "value", "place"),
    [
        ("columns.n.type", "integr", ("columns", "n", "type")),
        ("foreign_keys.fk.references", "r", ("foreign_keys", "fk", "references")),
        ("indexes.i", [{"order": "desc"}], ("indexes", "i", "columns", 0)),
    ],
)
def test_what_cannot_be_meant_is_reported_at_its_place(path: str, value: Any, place: tuple[Any, ...]) -> None:
    _, complaints = read(changed(BASE, f"schemas.a.tables.t.{path}", value))
    assert [p for p, _ in complaints] == [("schemas", "a", "tables", "t", *place)]


def test_rows_at_stake_are_counted_by_the_probe(bench: Bench) -> None:
    with bench.use() as w:
        wanted = w.canonical(desired(changed(BASE, "schemas.a.tables.t.columns.o", None)))
        (hazard,) = (h for s in w.plan(wanted).steps for h in s.hazards)
        assert hazard.probe is not None
        assert w.one(hazard.probe["sql"]) == 50
