"""A new partition is like its newest sibling: parts, privileges, row security; and it retires as a whole."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from tests.migrate.partitions_bed import COLUMNS, DAILY, DAY, NOON, Bed, done, fill, rows

KIND = {**COLUMNS, "kind": {"type": "text", "nullable": False, "default": "'a'"}}
KEY = ["id", "at", "kind"]
#: What a partition is: its name, bound, key of its parts, privileges, row security, storage.
_LOOKS = """
    SELECT c.relname, pg_get_expr(c.relpartbound, c.oid), pg_get_partkeydef(c.oid),
           (SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM unnest(c.relacl) a), c.relrowsecurity,
           c.relforcerowsecurity, c.relreplident::text, c.reloptions::text, c.relowner::regrole::text,
           (SELECT count(*) FROM pg_index i WHERE i.indrelid = c.oid),
           (SELECT string_agg(polname || pg_get_expr(polqual, polrelid), ' ') FROM pg_policy WHERE polrelid = c.oid)
      FROM pg_partition_tree('app.events') t JOIN pg_class c ON c.oid = t.relid
     WHERE c.relname ~ %s ORDER BY c.relname"""


def looks(bed: Bed, day: str) -> list[tuple[Any, ...]]:
    """A partition of a day and its parts, without the day."""
    found = bed.run(_LOOKS, f"^events_{day}")
    return [(name.replace(day, ""), (bound if "modulus" in bound or " IN " in bound else None), *more)
            for name, bound, *more in found]  # fmt: skip


def split(bed: Bed, day: str, by: str, *parts: str) -> None:
    """Put a partition with parts in the place of one; each part is the end of a name and a bound."""
    name = f"app.events_{day}"
    ((bound,),) = bed.run("SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE oid = %s::regclass", name)
    made = [f"CREATE TABLE {name}_{end} PARTITION OF {name} {bound}" for end, bound in (p.split(": ") for p in parts)]
    bed.run(f"DROP TABLE {name}; CREATE TABLE {name} PARTITION OF app.events {bound} PARTITION BY {by}")
    for statement in made:
        bed.run(statement)


@pytest.mark.req("A6.3", "A6.6", "A6.7")
@pytest.mark.parametrize("default", [False, True])
def test_parts_go_on_from_day_to_day_and_retire_with_their_whole(each: Bed, default: bool) -> None:
    each.declare({**DAILY, "default": default, "on_expiry": "archive"}, columns=KIND, storage={"fillfactor": 70})
    each.apply()
    each.maintain()
    split(each, "2026_11_24", "HASH (id)", *(f"{n}: FOR VALUES WITH (modulus 3, remainder {n})" for n in range(3)))
    for n in range(3):
        each.run(f"ALTER TABLE app.events_2026_11_24_{n} SET (fillfactor = 70)")
    fill(each, NOON, NOON + DAY * (5 if default else 3))
    found = done(each.maintain(NOON + DAY * 2))
    assert [n for word, n in found if word in ("create", "move")] == ["2026_11_25", "2026_11_26"]
    made = looks(each, "2026_11_26")
    assert [m[:3] for m in made] == [
        ("events_", None, "HASH (id)"),
        *((f"events__{n}", f"FOR VALUES WITH (modulus 3, remainder {n})", None) for n in range(3)),
    ]
    assert [m[7] for m in made] == [None, *["{fillfactor=70}"] * 3]
    assert {m[9] for m in made} == {1}, "each has the key of the whole"
    assert not each.plan(NOON + DAY * 2).steps, "parts are told as undeclared, and nothing more"
    filled = each.run("SELECT count(DISTINCT tableoid) FROM app.events WHERE at >= '2026-11-26' AND at < '2026-11-27'")
    assert not default or filled == [(3,)]
    report = each.maintain(NOON + DAY * 15)
    archived = {a.partition: a for a in report.actions if a.action == "archive"}
    action = archived["events_2026_11_26"]
    assert action.rows == (13 if default else 0)
    stored = gzip.decompress(Path(action.file or "").read_bytes())
    assert len(stored.splitlines()) == 1 + (action.rows or 0)
    assert each.run("SELECT count(*) FROM pg_class WHERE relname ~ '2026_11_26'") == [(0,)]


@pytest.mark.req("A6.3", "H4.2")
def test_privileges_and_row_security_go_on_as_the_newest_has_them(each: Bed) -> None:
    each.run(f"DROP ROLE IF EXISTS {', '.join(ROLES)}")
    each.run("; ".join(f"CREATE ROLE {role}" for role in ROLES))
    each.declare(DAILY, columns=KIND, primary_key=KEY, owner="keeper", roles={"keeper": {}})
    try:
        each.apply()
        each.maintain()
        split(each, "2026_11_24", "LIST (kind)", "a: FOR VALUES IN ('a')", "rest: DEFAULT")
        each.run(
            "ALTER TABLE app.events_2026_11_24 OWNER TO keeper; ALTER TABLE app.events_2026_11_24_a OWNER TO keeper;"
            "ALTER TABLE app.events_2026_11_24_rest OWNER TO keeper;"
            "GRANT SELECT ON app.events_2026_11_24 TO PUBLIC; GRANT INSERT ON app.events_2026_11_24 TO clerk;"
            "GRANT SELECT, UPDATE ON app.events_2026_11_24_a TO clerk WITH GRANT OPTION;"
            'GRANT DELETE ON app.events_2026_11_24_a TO "Odd ""one";'
            "ALTER TABLE app.events_2026_11_24_a ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY,"
            " REPLICA IDENTITY FULL;"
            "CREATE POLICY own ON app.events_2026_11_24_a FOR SELECT TO clerk USING (id > 7)"
        )
        each.run("GRANT SELECT ON app.events_2026_11_22 TO clerk")
        assert done(each.maintain(NOON + DAY)) == [("create", "2026_11_25")]
        assert looks(each, "2026_11_25") == looks(each, "2026_11_24")
        assert [len(look) for look in looks(each, "2026_11_25")] == [11] * 3
        each.run("DROP TABLE app.events_2026_11_25")
        assert [s.lock for s in each.apply(NOON + DAY * 3).steps] == ["SHARE UPDATE EXCLUSIVE"] * 3
        assert looks(each, "2026_11_27") == looks(each, "2026_11_24"), "apply makes them alike, too"
    finally:
        each.run("DROP SCHEMA app CASCADE")
        each.run(f"DROP ROLE {', '.join(ROLES)}")


ROLES = ("clerk", '"Odd ""one"')


def test_the_newest_decides_and_what_follows_time_is_not_copied(bed: Bed) -> None:
    bed.declare(DAILY, columns=KIND)
    bed.apply()
    bed.maintain()
    split(bed, "2026_11_22", "HASH (id)", "0: FOR VALUES WITH (modulus 1, remainder 0)")
    assert done(bed.maintain(NOON + DAY)) == [("create", "2026_11_25")]
    assert [m[2] for m in looks(bed, "2026_11_25")] == [None], "the newest is plain"
    hours = "FROM ('2026-11-25 00:00Z') TO ('2026-11-25 12:00Z')", "FROM ('2026-11-25 12:00Z') TO ('2026-11-26 00:00Z')"
    split(bed, "2026_11_25", "RANGE (at)", *(f"{n}: FOR VALUES {part}" for n, part in enumerate(hours)))
    bed.run("GRANT SELECT ON app.events_2026_11_25 TO PUBLIC")
    (note,) = bed.maintain(NOON + DAY * 2).notes
    assert "events_2026_11_25 is split by RANGE (at), and new ones are not" in note
    ((_, _, key, privileges, *_),) = looks(bed, "2026_11_26")
    assert key is None, "no row of that day would fit the hours of another"
    assert "=r/" in privileges
    fill(bed, NOON + DAY * 5, NOON + DAY * 5)
    assert rows(bed) == 1


def test_parts_of_parts_and_names_too_long_to_add_to(bed: Bed) -> None:
    bed.declare({**DAILY, "retain": None}, columns=KIND, primary_key=KEY)
    bed.apply()
    bed.maintain()
    split(bed, "2026_11_24", "LIST (kind)")
    long = "long_" * 8
    bed.run(
        f"CREATE TABLE app.{long} PARTITION OF app.events_2026_11_24 FOR VALUES IN ('a', 'b') PARTITION BY RANGE (id);"
        f"CREATE TABLE app.{long}x PARTITION OF app.{long} FOR VALUES FROM (MINVALUE) TO (100);"
        f"CREATE TABLE app.{long}y PARTITION OF app.{long} FOR VALUES FROM (100) TO (MAXVALUE)"
    )
    bed.maintain(NOON + DAY * 2)
    tree = bed.run(
        "SELECT relid::regclass::text, level FROM pg_partition_tree('app.events') WHERE level > 1 ORDER BY 1"
    )
    assert sorted(level for _, level in tree) == [2] * 3 + [3] * 6
    bed.run("INSERT INTO app.events VALUES (5, '2026-11-25 01:00Z', 'a'), (500, '2026-11-26 01:00Z', 'b')")
    assert len(bed.run("SELECT DISTINCT tableoid FROM app.events")) == 2


def test_numbers_have_a_newest_by_number(bed: Bed) -> None:
    bed.declare({"key": ["id"], "every": "100 integers", "premake": 1}, columns=KIND)
    bed.apply()
    for now in range(0, 1000, 100):
        bed.run("INSERT INTO app.events VALUES (%s, now())", now)
        bed.maintain()
    assert bed.names()[:2] == ["0", "100"]
    split(bed, "1000", "HASH (id)", "0: FOR VALUES WITH (modulus 1, remainder 0)")
    bed.run("INSERT INTO app.events VALUES (1000, now())")
    assert done(bed.maintain()) == [("create", "1100")]
    assert [m[2] for m in looks(bed, "1100")] == ["HASH (id)", None], "1000 is newer than 900"
