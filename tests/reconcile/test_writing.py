"""Specs that ``import`` writes: reading them gives the records back, whatever the records are."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from provision import registry
from provision.nats.kinds import bucket, consumer, object_store, publisher, stream
from provision.pools import kinds as pools
from provision.pools import runtime
from provision.postgres.kinds import (
    check,
    column,
    domain,
    enum,
    extension,
    foreign_key,
    function,
    index,
    membership,
    partitions,
    policy,
    primary_key,
    role,
    schema,
    table,
    trigger,
    unique,
    view,
)
from provision.reconcile import writing
from provision.spec import yamltext
from provision.spec.document import Document
from provision.spec.events import parse
from provision.spec.files import Body, File, Inputs
from provision.spec.reading import read
from provision.spec.record import Plane, Record

Json = dict[str, Any]

# Values by JSON Schema -------------------------------------------------------------------------------------

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=30)
NAME = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,8}", fullmatch=True)
SUBJECT = st.sampled_from(["a", "a.b", "a.*.c", "tasks.>", "$JS.EVENT.>"])
PRIVILEGES = st.lists(st.sampled_from(["select", "insert", "update(c)"]), min_size=1, unique=True)
#: Options whose texts have a grammar of their own.
GRAMMARS: dict[str, st.SearchStrategy[Any]] = {
    "type": st.sampled_from(["integer", "varchar(5)", "timestamptz", "numeric(10,2)[]", "app.mood", "text"]),
    "subjects": st.lists(SUBJECT, min_size=1, unique=True),
    "filter_subject": SUBJECT,
    "filter_subjects": st.lists(SUBJECT, unique=True),
    "deliver_subject": SUBJECT,
    "references": st.sampled_from(["app.other", '"App"."Other table"']),
    "events": st.sampled_from([["insert"], ["update of a, b", "delete"], ["truncate"]]),
    "returns": st.sampled_from(["trigger", "integer", "setof app.mood", "table(a integer, b text)"]),
    "from_table": st.just("app.other"),
    "collation": st.sampled_from(["C", '"app"."Mine"']),
    "opt_start_time": st.just("2026-01-31T12:00:00Z"),
    "pause_until": st.just("2026-01-31T12:00:00.5Z"),
    "valid_until": st.just("2030-01-31T00:00:00Z"),
    "start": st.sampled_from(["2026-01-31T12:00:00Z", 7]),
    "settings": st.just({"lock_timeout": "5s", "search_path": "pg_catalog, app"}),
    "set": st.just({"search_path": ""}),
    "values": st.just({"small": ["a", None], "large": [1]}),
    "renamed_from": st.none(),
    "target": st.sampled_from([None, "other"]),
    "grants": st.dictionaries(NAME, PRIVILEGES, max_size=2),
}


def values(of: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Everything that a schema of the spec language lets through."""
    if "anyOf" in of:
        return st.one_of([values(branch) for branch in of["anyOf"]])
    if "oneOf" in of and "required" in of["oneOf"][0]:
        name = of["oneOf"][0]["required"][0]
        return st.fixed_dictionaries({name: values(of["properties"][name])})
    if "enum" in of:
        return st.sampled_from(of["enum"])
    if "const" in of:
        return st.just(of["const"])
    types = of.get("type", "object")
    if isinstance(types, list):
        return st.one_of([values({**of, "type": one}) for one in types])
    return SIMPLE[types](of)


def _objects(of: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    inner = of.get("properties", {})
    needed = of.get("required", ())
    pick = {
        name: GRAMMARS[name] if name in GRAMMARS else values(one) for name, one in inner.items() if name not in NESTED
    }
    own = st.fixed_dictionaries(
        {n: pick[n] for n in needed if n in pick}, optional={n: s for n, s in pick.items() if n not in needed}
    )
    more = of.get("additionalProperties")
    if not isinstance(more, Mapping) or inner:
        return own
    pattern = of.get("propertyNames", {}).get("pattern")
    return st.dictionaries(st.from_regex(pattern, fullmatch=True) if pattern else NAME, values(more), max_size=3)


SIMPLE: dict[str, Callable[[Mapping[str, Any]], st.SearchStrategy[Any]]] = {
    "null": lambda of: st.none(),
    "boolean": lambda of: st.booleans(),
    "integer": lambda of: st.integers(of.get("minimum", -(2**31)), min(of.get("maximum", 2**40), 2**63 - 1)),
    "number": lambda of: st.floats(of.get("minimum", -1e6), of.get("maximum", 1e6), allow_nan=False).map(
        lambda x: round(x, 4)
    ),
    "string": lambda of: (
        st.from_regex(of["pattern"], fullmatch=True)
        if "pattern" in of
        else TEXT.filter(lambda t: len(t) >= of.get("minLength", 0))
    ),
    "array": lambda of: st.lists(values(of["items"]), min_size=of.get("minItems", 0), max_size=3),
    "object": _objects,
}
#: What other kinds read.
NESTED = frozenset(
    "consumers templates columns_of triggers member_of enums domains tables functions views policies mirror".split()
)

# One document for each kind ----------------------------------------------------------------------------------

COLUMNS = {"a": {"type": "integer"}, "b": {"type": "text"}, "c": {"type": "uuid"}}


def in_table(key: str, node: Any) -> Json:
    return {"schemas": {"app": {"tables": {"t": {"columns": COLUMNS, key: node}}}}}


def in_schema(key: str, node: Any) -> Json:
    return {"schemas": {"app": {key: {"x": node}}}}


def of_columns(node: Json, *keys: str) -> Json:
    """Name columns that the table has."""
    return {**node, **{k: ["a", "b"] for k in keys if node.get(k)}}


GRANTS: Json = {
    "type": "object",
    "properties": {
        "reader": {"type": "array", "items": {"enum": ["select", "update(a, b)"]}, "minItems": 1},
        "public": {"const": {"privileges": ["insert"]}},
        "writer": {"enum": [{"privileges": ["insert", "delete"], "grantable": True}, {"privileges": ["all"]}]},
    },
}
CASES: dict[str, tuple[Json, Any]] = {
    "stream": (stream.FIELDS.schema(), lambda n: {"streams": {"S": n}}),
    "consumer": (consumer.FIELDS.schema(), lambda n: {"streams": {"S": {"consumers": {"c": n}}}}),
    "template": (consumer.FIELDS.schema(), lambda n: {"streams": {"S": {"templates": {"c": n}}}}),
    "bucket": (bucket.FIELDS.schema(), lambda n: {"buckets": {"B": n}}),
    "object_store": (object_store.FIELDS.schema(), lambda n: {"object_stores": {"O": n}}),
    "publisher": (publisher.FIELDS.schema(), lambda n: {"publishers": {"p": n}}),
    "pool": (pools.FIELDS.schema(), lambda n: {"pools": {"p": n}}),
    "binding": (runtime.FIELDS.schema(), lambda n: {"runtime": n}),
    "role": (role.FIELDS.schema(), lambda n: {"roles": {"r": n}}),
    "membership": (
        membership.FIELDS.schema(),
        lambda n: {"roles": {"g": {}, "r": {"member_of": [{"role": "g", **n}]}}},
    ),
    "extension": (extension.FIELDS.schema(), lambda n: {"extensions": {"e": n}}),
    "schema": (schema.FIELDS.schema(), lambda n: {"schemas": {"s": n}}),
    "enum": (enum.FIELDS.schema(), lambda n: in_schema("enums", {**n, "values": ["a", "b c", "ü"]})),
    "domain": (domain.FIELDS.schema(), lambda n: in_schema("domains", n)),
    "table": (table.FIELDS.schema(), lambda n: {"schemas": {"app": {"tables": {"t": {"columns": COLUMNS, **n}}}}}),
    "column": (column.FIELDS.schema(), lambda n: {"schemas": {"app": {"tables": {"t": {"columns": {"x": n}}}}}}),
    "primary_key": (
        primary_key.SCHEMA["anyOf"][1],
        lambda n: in_table("primary_key", of_columns(n, "columns", "include")),
    ),
    "unique": (unique.FIELDS.schema(), lambda n: in_table("unique", {"u": of_columns(n, "columns", "include")})),
    "foreign_key": (foreign_key.FIELDS.schema(), lambda n: in_table("foreign_keys", {"f": n})),
    "check": (check.FIELDS.schema(), lambda n: in_table("checks", {"k": n})),
    "index": (index.FIELDS.schema(), lambda n: in_table("indexes", {"i": of_columns(n, "include")})),
    "partitions": (partitions.FIELDS.schema(), lambda n: in_table("partitions", n)),
    "policy": (policy.FIELDS.schema(), lambda n: in_table("policies", {"p": n})),
    "trigger": (trigger.FIELDS.schema(), lambda n: in_table("triggers", {"g": {**n, "function": "app.f"}})),
    "function": (function.FIELDS.schema(), lambda n: in_schema("functions", n)),
    "view": (view.FIELDS.schema(), lambda n: in_schema("views", {k: v for k, v in n.items() if k != "columns"})),
    "grant": (GRANTS, lambda n: in_table("grants", n)),
}  # fmt: skip


def read_back(files: Mapping[str, str]) -> Plane:
    specs = tuple(
        File(name, Path(name), text.encode())
        for name, text in sorted(files.items())
        if name.endswith(".yaml") and not name.startswith("environments/")
    )

    def body(declared_in: str, path: str) -> Body:
        name = os.path.normpath(Path(declared_in).parent / path)
        return Body(name, Path(name), files[name], "known")

    document = Document(Inputs(Path(), None, specs), read_body=body)
    assert [d for d in document.diagnostics if d.severity == "error"] == []
    found = read(document, registry.sections())
    assert [d for d in found.diagnostics if d.severity == "error"] == []
    return found.plane


def plane_of(root: Json) -> Plane:
    """The records that reading a document gives; what it refuses is left out."""
    text = yamltext.dump({"plane": "p", **root})
    document = Document(Inputs(Path(), None, (File("p.yaml", Path("p.yaml"), text.encode()),)))
    return read(document, registry.sections()).plane


def essence(record: Record) -> tuple[Any, ...]:
    return record.address, record.settings, record.parent, record.refs


@pytest.mark.parametrize("kind", CASES)
def test_reading_what_was_written_gives_equal_records(kind: str) -> None:
    of, wrap = CASES[kind]

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    @given(values(of))
    def law(node: Json) -> None:
        plane = plane_of(wrap(node))
        assume(plane.of_kind(kind))
        written = writing.write(plane, registry.kinds())
        assert written.left_out == ()
        again = read_back(written.files)
        assert sorted(map(repr, map(essence, again))) == sorted(map(repr, map(essence, plane)))

    law()


# The text ---------------------------------------------------------------------------------------------------

SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXT)
TREES = st.recursive(
    SCALARS, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3))
)


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(st.dictionaries(TEXT, TREES, max_size=4))
@example(
    {"a": "x:y", "b": "yes ", "c": "0o7", "d": "1e5", "e": "- a", "f": "a\n b\n", "g": "\n\n", "h": "{{ x }}\n${Y}\n"}
)
@example({"a": {"b": {"c": ["a\nb", {"d": "e\nf\n"}], "n": [[], {}, [{}]]}}})
@example({"~": "null", "1": "1", "no": "1 day", "x": "12:30", "y": "a: b", "z": "a #b", "t": "\ttab\nx", "u": "x\n\n"})
def test_any_tree_of_values_survives_as_text(tree: Json) -> None:
    source = parse(yamltext.dump(tree), "x.yaml")
    assert [d.message for d in source.diagnostics] == []
    assert source.root == tree


def test_files_are_split_by_section_and_schema_and_long_bodies_stand_apart() -> None:
    body = "\nBEGIN\n" + "  PERFORM 1;\n" * 8 + "END"
    plane = plane_of(
        {
            "streams": {"S": {"subjects": ["s.>"]}},
            "schemas": {
                "app": {"functions": {"f": {"returns": "trigger", "language": "plpgsql", "body": body}}},
                "two": {},
            },
        }
    )
    written = writing.write(plane, registry.kinds(), {"nats": {"main": {"kind": "embedded"}}})
    assert set(written.files) == {
        "plane.yaml", "streams.yaml", "schemas/app.yaml", "schemas/two.yaml", "sql/app.f.sql", "environments/.yaml",
    }  # fmt: skip
    assert written.files["sql/app.f.sql"] == body
    assert "body: {file: ../sql/app.f.sql}" in written.files["schemas/app.yaml"]
    assert all(
        t.startswith("# yaml-language-server: $schema=../") for n, t in written.files.items() if n.endswith(".yaml")
    )


def test_values_are_written_in_peoples_units_and_short_forms() -> None:
    plane = plane_of(
        {
            "buckets": {"B": {"ttl": "1800s", "max_bytes": 2**29, "history": 1}},
            "schemas": {
                "app": {
                    "enums": {"mood": {"values": ["calm", "busy"]}},
                    "tables": {
                        "t": {
                            "columns": {
                                "id": {"type": "int8", "identity": {"generation": "always"}},
                                "n": {"type": "varchar(9)"},
                            },
                            "primary_key": {"columns": ["id"]},
                            "checks": {"n": {"expression": "n > ''"}},
                            "indexes": {"i": {"columns": [{"column": "n", "order": "asc"}]}},
                        }
                    },
                }
            },
        }
    )
    files = writing.write(plane, registry.kinds()).files
    assert (
        "B: {ttl: 30m, max_bytes: 512MiB}" in " ".join(files["buckets.yaml"].split())
        or "ttl: 30m" in files["buckets.yaml"]
    )
    text = files["schemas/app.yaml"]
    lines = ("mood: [calm, busy]", "id: {type: bigint, identity: always}", "n: {type: varchar(9)}")
    for line in (*lines, "primary_key: [id]", "i: [n]"):
        assert line in text
