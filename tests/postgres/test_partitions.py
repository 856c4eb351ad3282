"""Partition sets: which partitions a moment asks for, and what becomes of sets that are in use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from provision.postgres.kinds.partition_members import covered, normal_bound
from provision.postgres.kinds.partition_window import Every, Range, bound, gaps, read_range, suffix, wanted
from tests.postgres.documents import changed, desired, read
from tests.postgres.relation_driver import CLOCK, Bench, World, hazards, ids, world

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def _day(number: int, month: int = 11) -> datetime:
    return datetime(2026, month, number, tzinfo=UTC)


# Calendar --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("every", "low", "high", "end"),
    [
        ("1 hour", datetime(2026, 11, 21, 12, tzinfo=UTC), datetime(2026, 11, 21, 13, tzinfo=UTC), "2026_11_21_12"),
        ("1 day", _day(21), _day(22), "2026_11_21"),
        ("1 week", _day(16), _day(23), "2026_11_16"),
        ("1 month", _day(1), _day(1, 12), "2026_11"),
        ("3 months", _day(1, 10), datetime(2027, 1, 1, tzinfo=UTC), "2026_10"),
        ("1 year", _day(1, 1), datetime(2027, 1, 1, tzinfo=UTC), "2026"),
    ],
)
def test_a_moment_lies_in_one_interval_of_the_calendar(every: str, low: datetime, high: datetime, end: str) -> None:
    found = Every.parse(every)
    assert found.floor(NOON) == low
    assert found.shift(low, 1) == high
    assert found.floor(high - SECOND) == low
    assert suffix(found, low) == end


def test_months_are_counted_by_the_calendar() -> None:
    month = Every.parse("1 month")
    assert month.shift(datetime(2026, 3, 31, tzinfo=UTC), -1) == datetime(2026, 2, 28, tzinfo=UTC)
    assert month.shift(_day(30), -11) == datetime(2025, 12, 30, tzinfo=UTC)


def test_a_new_set_begins_yesterday_and_goes_as_far_as_premake() -> None:
    days = list(wanted(Every(1, "day"), NOON, 7, start=None, retain=Every(30, "day"), oldest=None))
    assert days[0] == Range(_day(20), _day(21))
    assert days[-1] == Range(_day(28), _day(29))
    assert [a.high for a in days[:-1]] == [b.low for b in days[1:]]


def test_retention_bounds_what_a_start_asks_for() -> None:
    days = list(wanted(Every(1, "day"), NOON, 0, start=_day(1, 1), retain=Every(3, "day"), oldest=None))
    assert [d.low for d in days] == [_day(18), _day(19), _day(20), _day(21)]
    days = list(wanted(Every(1, "day"), NOON, 0, start=_day(19), retain=Every(30, "day"), oldest=_day(21)))
    assert [d.low for d in days] == [_day(19), _day(20), _day(21)]


def test_what_is_older_than_the_oldest_partition_is_not_asked_for() -> None:
    days = list(wanted(Every(1, "day"), NOON, 1, start=None, retain=None, oldest=_day(21)))
    assert [d.low for d in days] == [_day(21), _day(22)]


def test_a_hole_in_what_is_retained_is_asked_for() -> None:
    days = list(wanted(Every(1, "day"), NOON, 0, start=None, retain=Every(3, "day"), oldest=_day(1)))
    assert [d.low for d in days] == [_day(18), _day(19), _day(20), _day(21)]
    days = list(wanted(Every(1, "week"), NOON, 0, start=None, retain=None, oldest=datetime.min.replace(tzinfo=UTC)))
    assert [d.low for d in days] == [_day(9), _day(16)]


def test_only_what_no_partition_covers_is_missing() -> None:
    taken = [Range(_day(1), _day(3)), Range(_day(5), _day(6))]
    assert list(gaps(Range(_day(2), _day(7)), taken)) == [Range(_day(3), _day(5)), Range(_day(6), _day(7))]
    assert list(gaps(Range(_day(1), _day(2)), taken)) == []


SET = {
    "by": "range",
    "key": ["at"],
    "key_type": "timestamp with time zone",
    "every": "1 day",
    "premake": 7,
    "min_ahead": 4,
    "retain": "30 days",
    "start": None,
    "default": None,
}


@pytest.mark.parametrize("every", ["1 hour", "1 day", "1 week", "1 month"])
def test_nothing_changes_at_midnight_on_either_side_of_an_apply(every: str) -> None:
    settings = {**SET, "every": every}
    made = covered("e", settings, None, NOON)
    step = Every.parse(every)
    current = step.floor(NOON)
    for edge in (current, step.shift(current, 1), step.shift(current, 2)):
        for moment in (edge - SECOND, edge, edge + SECOND):
            assert covered("e", settings, made, moment) is made
    assert covered("e", settings, made, step.shift(current, 4)) != made


def test_coverage_is_filled_up_to_premake_once_it_falls_short() -> None:
    made = covered("e", SET, None, NOON)
    later = covered("e", SET, made, NOON + timedelta(days=5))
    assert set(later) - set(made) == {f"e_2026_{m}" for m in ("11_29", "11_30", "12_01", "12_02", "12_03")}


def test_partitions_made_at_run_time_or_by_hand_are_no_difference() -> None:
    made = covered("e", SET, None, NOON)
    more = {**made, "anything": "FOR VALUES FROM ('2031-01-01 00:00:00+00') TO (MAXVALUE)", "old": "DEFAULT"}
    assert covered("e", SET, more, NOON) is more


def test_a_gap_inside_the_window_is_filled() -> None:
    made = covered("e", SET, None, NOON)
    torn = {k: v for k, v in made.items() if k != "e_2026_11_23"}
    assert covered("e", SET, torn, NOON) == made


def test_bigger_partitions_that_cover_the_window_suffice() -> None:
    year = {"e_old": "FOR VALUES FROM (MINVALUE) TO ('2027-01-01 00:00:00+00')"}
    assert covered("e", SET, year, NOON) is year


@pytest.mark.parametrize(
    ("key_type", "text"),
    [
        ("timestamp with time zone", "FOR VALUES FROM ('2026-11-21 00:00:00+00') TO ('2026-11-22 00:00:00+00')"),
        ("timestamp without time zone", "FOR VALUES FROM ('2026-11-21 00:00:00') TO ('2026-11-22 00:00:00')"),
        ("date", "FOR VALUES FROM ('2026-11-21') TO ('2026-11-22')"),
    ],
)
def test_bounds_are_written_in_utc_and_read_back(key_type: str, text: str) -> None:
    day = Range(_day(21), _day(22))
    assert bound(key_type, 1, day) == text
    assert read_range(text) == day


def test_bounds_deparsed_in_another_time_zone_are_the_same_bounds() -> None:
    berlin = "FOR VALUES FROM ('2026-11-21 01:00:00+01', MINVALUE) TO ('2026-11-22 01:00:00+01', MINVALUE)"
    assert normal_bound(berlin, "timestamp with time zone") == bound(
        "timestamp with time zone", 2, Range(_day(21), _day(22))
    )


@pytest.mark.parametrize(
    ("partitions", "needed"), [({"by": "hash"}, "modulus"), ({"by": "list"}, "values"), ({"by": "range"}, "every")]
)
def test_a_set_without_its_measure_is_refused(partitions: dict[str, Any], needed: str) -> None:
    spec = changed(BASE, "schemas.a.tables.h.partitions", {**partitions, "key": ["id"]})
    _, complaints = read(spec)
    assert [(p[-1], needed in message) for p, message in complaints] == [("partitions", True)]


# On servers ------------------------------------------------------------------------------------------------

BASE: Mapping[str, Any] = {
    "schemas": {
        "a": {
            "tables": {
                "r": {"columns": {"id": {"type": "int"}}, "primary_key": ["id"]},
                "h": {
                    "columns": {"id": {"type": "int", "nullable": False}, "n": {"type": "int"}, "s": {"type": "text"}},
                    "primary_key": ["id"],
                    "partitions": {"by": "hash", "key": ["id"], "modulus": 3},
                    "indexes": {"hs": ["s"]},
                    "foreign_keys": {"hr": {"columns": ["n"], "references": "a.r"}},
                    "storage": {"fillfactor": 80},
                },
                "l": {
                    "columns": {
                        "t": {"type": "text"},
                        "n": {"type": "bigint", "nullable": False},
                        "c": {"type": "int"},
                    },
                    "primary_key": ["t", "n"],
                    "partitions": {"by": "list", "key": ["t"], "values": {"small": ["a", "b'\\c"]}},
                    "indexes": {"li": ["n"]},
                },
                "ld": {
                    "columns": {"n": {"type": "bigint"}, "c": {"type": "int"}},
                    "partitions": {"by": "list", "key": ["n"], "values": {"x": [1, 2]}, "default": True},
                },
                "e": {
                    "columns": {"id": {"type": "bigint"}, "at": {"type": "timestamptz"}},
                    "primary_key": ["id", "at"],
                    "partitions": {"by": "range", "key": ["at"], "every": "1 day", "premake": 3, "retain": "30 days"},
                    "indexes": {"ei": ["at"]},
                },
                "d": {
                    "columns": {"id": {"type": "bigint"}, "at": {"type": "date"}},
                    "partitions": {"by": "range", "key": ["at", "id"], "every": "1 month", "premake": 2},
                },
                "i": {
                    "columns": {"id": {"type": "bigint"}},
                    "partitions": {"by": "range", "key": ["id"], "every": "1000 integers", "premake": 2},
                },
                "x": {
                    "columns": {"at": {"type": "timestamptz"}},
                    "partitions": {
                        "by": "range",
                        "key": "date_trunc('day', at, 'UTC')",
                        "every": "1 month",
                        "premake": 1,
                    },
                },
            }
        }
    }
}
ROWS = (
    "INSERT INTO a.r SELECT generate_series(1, 50)",
    "INSERT INTO a.h SELECT g, g, g::text FROM generate_series(1, 50) g",
    "INSERT INTO a.l VALUES ('a', 1, 1), ('b''\\c', 2, 2)",
    "INSERT INTO a.ld VALUES (1, 1), (9, 9)",
    "INSERT INTO a.e VALUES (1, '2026-11-21 00:00:00Z')",
)
REF = {"columns": ["n"], "references": "a.r"}
#: On a set that is in use: what changes, and the consents that it asks for.
IN_USE = [
    ("comment", "c", set()),
    ("storage", {"fillfactor": 70}, set()),
    ("indexes.hn", ["n"], set()),
    ("indexes.hs", ["s", "n"], set()),
    ("indexes.hs", None, set()),
    ("indexes.hs", {"columns": ["s"], "comment": "x"}, set()),
    ("unique", {"u": ["id", "n"]}, set()),
    ("foreign_keys.hr", None, set()),
    ("foreign_keys.h2", {**REF, "on_delete": "cascade"}, set()),
    ("foreign_keys.hr", {**REF, "on_delete": "cascade"}, set()),
    ("checks", {"c": "n > 0"}, set()),
    ("columns.n.nullable", False, set()),
    ("columns.new", {"type": "int", "default": 1, "nullable": False}, set()),
    ("columns.n.type", "bigint", {"rewrite:pg:main/a/h/column/n"}),
    ("row_security", True, set()),
]


@pytest.fixture(scope="module")
def bench(pg_server: Any) -> Iterator[Bench]:
    found = Bench(pg_server, "partitions", BASE, ROWS)
    yield found
    found.end()


@pytest.fixture(scope="module")
def bench16(pg16_server: Any) -> Iterator[Bench]:
    found = Bench(pg16_server, "partitions", BASE, ROWS)
    yield found
    found.end()


@pytest.fixture(params=[18, 16])
def either(request: Any) -> Bench:
    found: Bench = request.getfixturevalue("bench" if request.param == 18 else "bench16")
    return found


def _label(case: Any) -> str:
    return str(case)[:50] if isinstance(case, str | dict | list) else ""


@pytest.mark.parametrize(("path", "value", "consents"), IN_USE, ids=_label)
def test_every_option_of_a_set_in_use_goes_there_and_back(
    either: Bench, path: str, value: Any, consents: set[str]
) -> None:
    with either.use() as w:
        plan = w.there_and_back(BASE, f"schemas.a.tables.h.{path}", value)
        assert hazards(plan) == consents
        assert w.one("SELECT count(*) FROM a.h") == 50


@pytest.mark.req("B2.5")
def test_an_index_is_built_leaf_by_leaf_and_leaves_no_scan_to_the_parent(bench: Bench) -> None:
    with bench.spend() as w:
        plan = w.apply(changed(BASE, "schemas.a.tables.h.indexes.hn", ["n"]))
        parts = [f"{word} a.h_{n}" for n in range(3) for word in ("build", "attach")]
        assert ids(plan) == [f"a/h/index/hn#create.{p}" for p in ("build", *parts)]
        assert [s.transactional for s in plan.steps] == [True] + [False, True] * 3


def test_a_foreign_key_of_a_partitioned_table_never_scans_under_a_lock_before_18(bench16: Bench) -> None:
    with bench16.spend() as w:
        plan = w.apply(changed(BASE, "schemas.a.tables.h.foreign_keys.h2", REF))
        assert len(plan.steps) == 7
        assert [m.scanned for m in w.measured if m.lock == "ACCESS EXCLUSIVE"] == [frozenset()]


MEMBERS = "a/{}/partitions/set#{}"
#: What changes, the steps, the consents.
CHANGED = [
    ("l.partitions.values.big", ["x", None], ["create.l_big"], set()),
    ("l.partitions.default", True, ["create.l_default"], set()),
    ("ld.partitions.values.y", [3], ["create.ld_y"], {"blocking:pg:main/a/ld/partitions/set"}),
    ("l.partitions.values.small", ["a", "b'\\c", "d"], ["alter.l_small"], {"blocking:pg:main/a/l/partitions/set"}),
    ("l.partitions.values.small", ["b'\\c", "a"], [], set()),
    ("ld.partitions.default", False, ["drop.ld_default"], {"data_loss:pg:main/a/ld/partitions/set"}),
    ("e.partitions.start", "2026-11-18T00:00:00Z", ["create.e_2026_11_18", "create.e_2026_11_19"], set()),
    ("e.partitions.retain", "2 days", [], set()),
    ("e.partitions.premake", 4, [], set()),
]


@pytest.mark.parametrize(("path", "value", "steps", "consents"), CHANGED, ids=_label)
def test_a_changed_policy_changes_only_the_members_it_must(
    either: Bench, path: str, value: Any, steps: list[str], consents: set[str]
) -> None:
    with either.spend() as w:
        plan = w.apply(changed(BASE, f"schemas.a.tables.{path}", value))
        assert ids(plan) == [MEMBERS.format(path.split(".", maxsplit=1)[0], s) for s in steps]
        assert hazards(plan) == consents


def test_smaller_partitions_fit_in_between_what_there_is(bench: Bench) -> None:
    with bench.spend() as w:
        plan = w.apply(changed(BASE, "schemas.a.tables.e.partitions.every", "1 month"))
        names = [i.rsplit(".", 1)[-1] for i in ids(plan)]
        assert names == ["e_2026_11", "e_2026_11_25_000000", "e_2026_12", "e_2027_01", "e_2027_02"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("h.partitions.modulus", 4),
        ("h.partitions", None),
        ("l.columns.t.type", "varchar(50)"),
        ("h.partitions.key", ["s"]),
    ],
    ids=_label,
)
def test_another_way_to_split_is_another_table_and_loses_its_rows(bench: Bench, path: str, value: Any) -> None:
    spec = changed(BASE, f"schemas.a.tables.{path}", value)
    table = path.split(".", 1)[0]
    if path == "h.partitions.key":
        spec["schemas"]["a"]["tables"]["h"]["primary_key"] = ["id", "s"]
    with bench.spend() as w:
        wanted_plane = w.canonical(desired(spec))
        (lost,) = (h for s in w.plan(wanted_plane).steps for h in s.hazards)
        assert lost.probe is not None
        assert w.one(lost.probe["sql"]) == {"h": 50, "l": 2}[table]
        assert hazards(w.apply(spec)) == {f"data_loss:pg:main/a/{table}"}


def test_the_clock_alone_makes_partitions_and_never_drops_any(bench: Bench) -> None:
    with bench.spend() as w:
        for days, steps in ((-1, 0), (1, 0), (2, 2), (2, 0), (10, 9)):
            w.clock = CLOCK + timedelta(days=days)
            assert len(w.apply(BASE).steps) == steps
        assert w.one("SELECT count(*) FROM a.e") == 1
        w.run("INSERT INTO a.e VALUES (2, '2026-12-04 12:00:00Z')")


def test_a_partition_that_is_missing_today_is_made_again(bench: Bench) -> None:
    with bench.spend() as w:
        w.run(
            "DROP TABLE a.e_2026_11_21",
            "CREATE TABLE a.extra PARTITION OF a.e FOR VALUES FROM ('2030-01-01') TO (MAXVALUE)",
        )
        assert ids(w.apply(BASE)) == ["a/e/partitions/set#create.e_2026_11_21"]
        assert w.one("SELECT count(*) FROM pg_inherits WHERE inhparent = 'a.e'::regclass") == 6


def test_one_leaf_with_other_storage_parameters_is_seen_and_mended(bench: Bench) -> None:
    with bench.use() as w:
        w.run("ALTER TABLE a.h_1 SET (fillfactor = 33)")
        assert ids(w.apply(BASE)) == ["a/h#alter.storage a.h_1"]


@pytest.mark.parametrize("done", [1, 2, 3, 4])
def test_a_partitioned_index_is_finished_wherever_the_first_run_stopped(bench: Bench, done: int) -> None:
    spec = changed(BASE, "schemas.a.tables.h.indexes.hn", ["n"])
    with bench.spend() as w:
        for step in w.plan(w.canonical(desired(spec))).steps[:done]:
            w.send(step)
        assert len(w.apply(spec).steps) == 7 - done


def test_an_invalid_part_of_a_partitioned_index_is_cleared_and_built(bench: Bench) -> None:
    spec = changed(BASE, "schemas.a.tables.h.unique", {"hu": ["id", "n"]})
    with bench.spend() as w:
        parent, build, *_ = w.plan(w.canonical(desired(spec))).steps
        w.send(parent)
        _interrupt(w, str(build.request[0]), "a.h_0")
        plan = w.apply(spec)
        assert ids(plan)[:2] == ["a/h/unique/hu#drop.clear a.h_0", "a/h/unique/hu#create.build a.h_0"]


def test_a_detachment_that_was_interrupted_is_finished(bench: Bench) -> None:
    with bench.spend() as w:
        w.run("CREATE TABLE a.late PARTITION OF a.e FOR VALUES FROM ('2030-01-01') TO ('2031-01-01')")
        _interrupt(w, "ALTER TABLE a.e DETACH PARTITION a.late CONCURRENTLY", "a.e")
        owned = tuple(map(str, w.live().records))
        assert ids(w.apply(BASE, owned)) == ["a/e/partitions/set#alter.finalize late"]
        assert w.one("SELECT relispartition FROM pg_class WHERE relname = 'late'") is False


def _interrupt(w: World, statement: str, table: str) -> None:
    """Begin a concurrent statement and give up while it waits for a writer."""
    with psycopg.connect(**w.dsn) as writer:
        writer.execute(f"LOCK TABLE {table} IN ROW EXCLUSIVE MODE".encode())
        w.run("SET statement_timeout = '300ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            w.run(statement)
        w.run("SET statement_timeout = 0")


def test_rows_of_today_and_tomorrow_go_in_and_come_back(pg16_database: Mapping[str, Any]) -> None:
    with world(pg16_database) as w:
        w.apply(BASE, ())
        moment = "'2026-11-20 00:00:00Z'::timestamptz + g * interval '6 hours'"
        w.run(f"INSERT INTO a.e SELECT g, {moment} FROM generate_series(0, 18) g")
        assert w.one("SELECT count(*) FROM a.e WHERE at >= '2026-11-21Z' AND at < '2026-11-22Z'") == 4
        assert w.one("SELECT count(DISTINCT tableoid) FROM a.e") == 5
