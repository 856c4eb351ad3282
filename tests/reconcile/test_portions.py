"""Parts against parts: what counts as a change and where it is shown, what drift leaves alone, what needs a consent."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import pytest

from provision import registry
from provision.plan import consents
from provision.plan.assemble import Seen, compare
from provision.reconcile import writing
from provision.reconcile.parts import DRIFT, TYPES
from provision.reconcile.portions import Portion, Setting, changed, drifted, offline, portion, told
from provision.reconcile.portions import transition as planned
from provision.spec.record import Plane, Record

Json = dict[str, Any]
Path_ = tuple[str | int, ...]
CLOCK = datetime(2026, 11, 21, tzinfo=UTC)

STREAM: Json = {
    "name": "S", "subjects": ["a.>", "b.>"], "max_age": "1d", "max_bytes": "1MiB",
    "placement": {"cluster": "c", "tags": ["x"]}, "metadata": {"team": "one"},
}  # fmt: skip
CONSUMER: Json = {
    "name": "c", "stream": "S", "ack_policy": "explicit", "ack_wait": "30s", "filter_subject": "a.>",
    "backoff": ["1s", "2s"], "max_deliver": 4,
}  # fmt: skip
BUCKET: Json = {"name": "B", "ttl": "30m", "history": 5, "max_bytes": "1MiB"}
OBJECTS: Json = {"name": "O", "max_bytes": "1MiB"}
ROLE: Json = {
    "name": "r", "login": True, "connection_limit": 10, "password": {"env": "A"},
    "settings": {"statement_timeout": "30s"}, "member_of": ["g", {"role": "h", "admin": True}],
}  # fmt: skip
POOL: Json = {"name": "p", "role": "r", "min": 1, "max": 5, "acquire_timeout": "5s"}
POLICY: Json = {"schema": "app", "table": "log", "every": "1 day", "premake": 3, "retain": "30 days"}
TABLE: Json = {
    "columns": {
        "id": {"type": "bigint", "nullable": False},
        "name": {"type": "varchar(50)"},
        "at": {"type": "timestamptz", "nullable": False, "default": "now()"},
        "kind": {"type": "text"},
    },
    "primary_key": ["id"],
    "checks": {"long": "length(name) > 0", "whole": {"expression": "id > 0"}},
    "unique": {"u": ["name"]},
    "indexes": {"by_at": {"columns": ["at"], "where": "id > 0"}, "by_name": ["name"]},
    "grants": {"reader": ["select"]},
    "storage": {"fillfactor": 90},
}
DATABASE: Json = {
    "schemas": {
        "app": {
            "enums": {"mood": ["calm", "busy"]},
            "tables": {"t": TABLE},
            "views": {"v": {"query": "SELECT id, name FROM app.t WHERE id < 10"}},
            "functions": {
                "f": {"arguments": [{"name": "n", "type": "bigint"}], "returns": "bigint", "language": "sql",
                      "body": "SELECT n * 2"},
            },
        }
    },
    "extensions": {"pgcrypto": {}},
    "grants": [
        {"on": "schema app", "to": "reader", "privileges": ["usage"]},
        {"on": "schema app", "to": "writer", "privileges": ["usage"]},
    ],
}  # fmt: skip
CONTRACT: Json = {
    "parts": {"nats:main/stream/S": {"digest": "1", "entries": "{}"}, "pg:main": {"digest": "2", "entries": "{}"}},
    "runtime": {"lease_ttl": "5s"},
    "publishers": {"p": {"subjects": ["a"]}},
    "templates": {"S": {"templates": {"t": {"ack_wait": "30s"}}}},
}
NODES = {
    "Stream": STREAM, "Consumer": CONSUMER, "KeyValueBucket": BUCKET, "ObjectStore": OBJECTS, "Role": ROLE,
    "Pool": POOL, "PartitionSet": POLICY, "PostgresDatabase": DATABASE, "Contract": CONTRACT,
}  # fmt: skip


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """A plane whose expressions an embedded server knows."""
    return Setting("p", "dev", {}, tmp_path_factory.mktemp("cache"))


def put(node: Json, path: str, value: Any) -> Json:
    """The node with another value at a place; None takes it away."""
    found = copy.deepcopy(node)
    *above, last = steps(path)
    inner: Any = found
    for key in above:
        inner = inner[key]
    if value is None:
        del inner[last]
    elif isinstance(inner, list) and last == len(inner):
        inner.append(value)
    else:
        inner[last] = value
    return found


def steps(path: str) -> Path_:
    """``t.`` stands for the table."""
    full = path.replace("t.", "schemas.app.tables.t.", 1) if path.startswith("t.") else path
    return tuple(int(word) if word.isdigit() else word for word in full.split("."))


def read(type: str, node: Json, setting: Setting) -> Portion:
    found = portion(TYPES[type], node, setting)
    assert found.findings == ()
    return found


def shown(type: str, one: Json, other: Json, setting: Setting, *, imported: bool = False) -> dict[Path_, str]:
    found = changed(read(type, one, setting), read(type, other, setting), setting, imported=imported)
    assert len({c.pointer for c in found}) == len(found)
    return {c.pointer: c.kind for c in found}


# Changes --------------------------------------------------------------------------------------------------

EQUAL = [
    ("Stream", "max_age", "24h"),
    ("Stream", "max_bytes", 2**20),
    ("Stream", "max_bytes", "1024KiB"),
    ("Stream", "storage", "file"),
    ("Stream", "duplicate_window", "2m"),
    ("Stream", "replicas", 1),
    ("Consumer", "backoff.1", "2000ms"),
    ("Consumer", "max_ack_pending", 1000),
    ("KeyValueBucket", "ttl", "1800s"),
    ("KeyValueBucket", "keys", ["a.>"]),
    ("ObjectStore", "storage", "file"),
    ("Role", "settings.statement_timeout", "30000ms"),
    ("Role", "member_of.0", {"role": "g"}),
    ("Role", "inherit", True),
    ("Pool", "acquire_timeout", "5000ms"),
    ("PartitionSet", "retain", "30 day"),
    ("PartitionSet", "premake", 3),
    ("PostgresDatabase", "t.columns.name.type", "character varying(50)"),
    ("PostgresDatabase", "t.columns.id.type", "int8"),
    ("PostgresDatabase", "t.columns.at.default", "NOW( )"),
    ("PostgresDatabase", "t.columns.kind.nullable", True),
    ("PostgresDatabase", "t.checks.long", "(length( (name)::text ) > 0)"),
    ("PostgresDatabase", "t.checks.long", {"expression": "length(name)>0"}),
    ("PostgresDatabase", "t.checks.whole", "id > 0"),
    ("PostgresDatabase", "t.indexes.by_at.where", "(id>0)"),
    ("PostgresDatabase", "t.indexes.by_name", {"columns": ["name"], "method": "btree"}),
    ("PostgresDatabase", "t.primary_key", {"columns": ["id"]}),
    ("PostgresDatabase", "t.unique.u", {"columns": ["name"]}),
    ("PostgresDatabase", "t.grants.reader", {"privileges": ["select"]}),
    ("PostgresDatabase", "schemas.app.enums.mood", {"values": ["calm", "busy"]}),
    ("PostgresDatabase", "schemas.app.views.v.query", "select t.id, t.name from app.t where (t.id < 10)"),
    ("Contract", "runtime.lease_ttl", "5000ms"),
    ("Contract", "templates.S.templates.t.ack_wait", "30000ms"),
]


@pytest.mark.req("B3.1")
@pytest.mark.parametrize(("type", "path", "value"), EQUAL, ids=str)
def test_what_is_only_spelled_otherwise_is_no_change(type: str, path: str, value: Any, setting: Setting) -> None:
    assert shown(type, NODES[type], put(NODES[type], path, value), setting) == {}


CHANGED = [
    # An option is named as a whole; the engine shows what changed inside it.
    ("Stream", "max_age", "2d", "max_age"),
    ("Stream", "subjects.1", "c.>", "subjects"),
    ("Stream", "subjects", ["b.>", "a.>"], "subjects"),
    ("Stream", "placement.tags", ["y"], "placement"),
    ("Stream", "placement.tags.0", "y", "placement"),
    ("Stream", "placement.cluster", None, "placement"),
    ("Stream", "metadata.team", "two", "metadata"),
    ("Consumer", "backoff.1", "3s", "backoff"),
    ("KeyValueBucket", "history", 6, "history"),
    ("ObjectStore", "max_bytes", "2MiB", "max_bytes"),
    ("Role", "password", {"env": "B"}, "password"),
    ("Role", "settings.statement_timeout", "31s", "settings"),
    ("Role", "member_of.1.admin", False, "member_of.1.admin"),
    ("Role", "member_of.0", "z", "member_of.0"),
    ("Pool", "max", 6, "max"),
    ("PartitionSet", "retain", "31 days", "retain"),
    ("PostgresDatabase", "t.columns.name.type", "varchar(60)", "t.columns.name.type"),
    ("PostgresDatabase", "t.columns.at.default", "CURRENT_DATE", "t.columns.at.default"),
    ("PostgresDatabase", "t.checks.long", "length(name) > 1", "t.checks.long"),
    ("PostgresDatabase", "t.checks.whole.expression", "id > 1", "t.checks.whole.expression"),
    ("PostgresDatabase", "t.indexes.by_at.where", "id > 1", "t.indexes.by_at.where"),
    ("PostgresDatabase", "t.indexes.by_at.columns.0", "name", "t.indexes.by_at.columns"),
    ("PostgresDatabase", "t.indexes.by_name", ["name", "id"], "t.indexes.by_name"),
    ("PostgresDatabase", "t.primary_key", ["id", "at"], "t.primary_key"),
    ("PostgresDatabase", "t.unique.u", ["name", "id"], "t.unique.u"),
    ("PostgresDatabase", "t.grants.reader", ["select", "insert"], "t.grants.reader"),
    ("PostgresDatabase", "t.storage.fillfactor", 80, "t.storage"),
    ("PostgresDatabase", "schemas.app.enums.mood", ["calm", "busy", "wild"], "schemas.app.enums.mood"),
    ("PostgresDatabase", "schemas.app.views.v.query", "SELECT id, name FROM app.t", "schemas.app.views.v.query"),
    ("PostgresDatabase", "schemas.app.functions.f.body", "SELECT n * 3", "schemas.app.functions.f.body"),
    ("PostgresDatabase", "grants.1.privileges", ["usage", "create"], "grants.1.privileges"),
    ("PostgresDatabase", "grants.1.to", "other", "grants.1"),
    ("Contract", "parts.pg:main.digest", "3", "parts.pg:main"),
    ("Contract", "runtime.lease_ttl", "6s", "runtime.lease_ttl"),
    ("Contract", "publishers.p.subjects", ["a", "b"], "publishers.p.subjects"),
    ("Contract", "templates.S.templates.t.ack_wait", "31s", "templates.S.templates.t.ack_wait"),
]


@pytest.mark.req("B3.1")
@pytest.mark.parametrize(("type", "path", "value", "place"), CHANGED, ids=str)
def test_exactly_the_changed_place_is_named(type: str, path: str, value: Any, place: str, setting: Setting) -> None:
    before, after = NODES[type], put(NODES[type], path, value)
    assert shown(type, before, after, setting) == {steps(place): "update"}
    assert shown(type, after, before, setting) == {steps(place): "update"}


ADDED = [
    ("Stream", "replicas", 3, "replicas"),
    ("Stream", "description", "x", "description"),
    ("Consumer", "filter_subject", None, "filter_subject"),
    ("KeyValueBucket", "journal", "J", "journal"),
    ("Role", "member_of.1", None, "member_of.1"),
    ("Role", "member_of.2", "i", "member_of.2"),
    ("PostgresDatabase", "t.columns.new", {"type": "text"}, "t.columns.new"),
    ("PostgresDatabase", "t.columns.kind", None, "t.columns.kind"),
    ("PostgresDatabase", "t.columns.kind.comment", "x", "t.columns.kind.comment"),
    ("PostgresDatabase", "t.primary_key", None, "t.primary_key"),
    ("PostgresDatabase", "t.grants.writer", ["select"], "t.grants.writer"),
    ("PostgresDatabase", "t.owner", "o", "t.owner"),
    ("PostgresDatabase", "schemas.app.prune", True, "schemas.app.prune"),
    ("PostgresDatabase", "schemas.app.tables.u", TABLE | {"checks": {}}, "schemas.app.tables.u"),
    ("PostgresDatabase", "schemas.two", {"tables": {"u": {"columns": {"a": {"type": "int"}}}}}, "schemas.two"),
    ("PostgresDatabase", "extensions.hstore", {}, "extensions.hstore"),
    ("PostgresDatabase", "grants.1", None, "grants.1"),
    ("Contract", "parts.nats:main/stream/T", {"digest": "3", "entries": "{}"}, "parts.nats:main/stream/T"),
    ("Contract", "publishers.q", {"subjects": ["b"]}, "publishers.q"),
    ("Contract", "templates.S.templates.u", {}, "templates.S.templates.u"),
]


@pytest.mark.req("B3.1")
@pytest.mark.parametrize(("type", "path", "value", "place"), ADDED, ids=str)
def test_what_comes_or_goes_is_named_once_as_a_whole(
    type: str, path: str, value: Any, place: str, setting: Setting
) -> None:
    before, after = NODES[type], put(NODES[type], path, value)
    kinds = ("delete", "add") if value is None else ("add", "delete")
    assert shown(type, before, after, setting) == {steps(place): kinds[0]}
    assert shown(type, after, before, setting) == {steps(place): kinds[1]}


def test_of_several_changes_each_is_named(setting: Setting) -> None:
    after = put(DATABASE, "t.columns.name.type", "varchar(60)")
    after = put(put(after, "t.indexes.by_at", None), "t.columns.new", {"type": "text"})
    after = put(after, "t.columns.at.default", "NOW()")
    assert shown("PostgresDatabase", DATABASE, after, setting) == {
        steps("t.columns.name.type"): "update",
        steps("t.indexes.by_at"): "delete",
        steps("t.columns.new"): "add",
    }


def test_what_leaves_the_front_of_a_list_is_seen_though_others_move_up(setting: Setting) -> None:
    assert shown("PostgresDatabase", DATABASE, put(DATABASE, "grants.0", None), setting) != {}
    assert shown("Role", ROLE, put(ROLE, "member_of.0", None), setting) != {}
    reordered = put(DATABASE, "grants", list(reversed(DATABASE["grants"])))
    assert shown("PostgresDatabase", DATABASE, reordered, setting) == {}


def test_a_text_may_change_without_any_change_of_its_meaning_beside_one_that_does(setting: Setting) -> None:
    """A type drags the printed form of a check along; the check itself was not touched."""
    after = put(DATABASE, "t.columns.name.type", "text")
    assert shown("PostgresDatabase", DATABASE, after, setting) == {steps("t.columns.name.type"): "update"}


# What was imported ----------------------------------------------------------------------------------------

UNKNOWABLE = [
    ("PostgresDatabase", "extensions.pgcrypto.version", "1.3"),
    ("PostgresDatabase", "t.touch", "at"),
    ("PostgresDatabase", "t.owner", "somebody"),
    ("PostgresDatabase", "schemas.app.prune", True),
    ("Stream", "prune", True),
]


@pytest.mark.parametrize(("type", "path", "value"), UNKNOWABLE, ids=str)
def test_what_no_server_tells_is_no_change_right_after_an_import(
    type: str, path: str, value: Any, setting: Setting
) -> None:
    declared = put(NODES[type], path, value)
    live = put(declared, path, None)
    assert shown(type, live, declared, setting, imported=True) == {}
    if (type, path) != ("Stream", "prune"):  # check alone reads it
        assert shown(type, live, declared, setting) == {steps(path): "add"}


@pytest.mark.parametrize(
    ("type", "path", "value"),
    [("Role", "password", {"env": "A"}), ("KeyValueBucket", "journal", "J"), ("Role", "connection_limit", 9)],
)
def test_what_the_contract_tells_is_a_change_after_an_import_too(
    type: str, path: str, value: Any, setting: Setting
) -> None:
    declared = put(NODES[type], path, value)
    assert shown(type, put(declared, path, None), declared, setting, imported=True) == {steps(path): "add"}


def test_what_an_import_could_know_is_a_change(setting: Setting) -> None:
    assert shown("Role", ROLE, put(ROLE, "connection_limit", 9), setting, imported=True) == {
        ("connection_limit",): "update"
    }
    other = put(DATABASE, "t.owner", "one"), put(DATABASE, "t.owner", "two")
    assert shown("PostgresDatabase", *other, setting, imported=True) == {steps("t.owner"): "update"}


# Drift ----------------------------------------------------------------------------------------------------


def refreshed(type: str, declared: Json, live: Json, setting: Setting) -> Json:
    """The declared inputs after a refresh that finds ``live``, as a server would tell it."""
    own, there = (read(type, node, setting) for node in (declared, live))
    kinds = registry.kinds()
    wanted = plane_of(offline(own, setting))
    facts = {r.address[:2]: setting.facts(*r.address[:2]) for r in (*wanted, *there.records)}
    settled = (kinds[r.address.kind].settle(r, r, facts[r.address[:2]], CLOCK)[0] for r in offline(there, setting))
    found = plane_of(r for r in settled if r is not None)
    seen = Seen(found, {str(r.address) for r in found}, facts)
    changes = [c for c in compare(wanted, seen, kinds, CLOCK).difference.changes.values() if c.address in wanted]
    spoken = writing.speak(found, kinds)
    seen_as = told(spoken, "p")
    return drifted(own, changes, seen_as.inputs.get((own.type.name, own.type.id(declared))), seen_as.places)


def plane_of(records: Iterable[Record]) -> Plane:
    return Plane(records, name="p", env="dev")


LEAVES = [(t, p, v) for t, p, v in EQUAL if t in ("Stream", "Consumer", "KeyValueBucket", "ObjectStore", "Role")]
LEAVES += [(t, p, v) for t, p, v in EQUAL if t == "PostgresDatabase"]


@pytest.mark.req("B3.1")
@pytest.mark.parametrize(("type", "path", "value"), LEAVES, ids=str)
def test_a_refresh_leaves_every_leaf_that_means_the_same(type: str, path: str, value: Any, setting: Setting) -> None:
    declared = put(NODES[type], path, value)
    assert refreshed(type, declared, NODES[type], setting) == declared


#: place, what lives there, what the input shows then.
DRIFTED = [
    ("Stream", "max_age", "3h", "3h"),
    ("Stream", "description", "x", "x"),
    ("Stream", "subjects", ["a.>"], ["a.>"]),
    ("Stream", "placement", None, None),
    ("Stream", "metadata.team", "two", "two"),
    ("Consumer", "max_ack_pending", 90, 90),
    ("Consumer", "max_deliver", 9, 9),
    ("KeyValueBucket", "history", 9, 9),
    ("ObjectStore", "max_bytes", "2MiB", "2MiB"),
    ("Role", "connection_limit", 3, 3),
    ("Role", "login", None, None),
    ("Role", "settings.statement_timeout", "1min", "1min"),
    ("PostgresDatabase", "t.columns.kind.type", "varchar(9)", "varchar(9)"),
    ("PostgresDatabase", "t.columns.kind", None, None),
    ("PostgresDatabase", "t.columns.kind.comment", "x", "x"),
    ("PostgresDatabase", "t.columns.at.default", None, None),
    ("PostgresDatabase", "t.indexes.by_at.where", "id > 5", "(id > 5)"),
    ("PostgresDatabase", "t.indexes.by_at", None, None),
    ("PostgresDatabase", "t.indexes.by_name", ["id"], ["id"]),
    ("PostgresDatabase", "t.checks.long", "length(name) > 7", "(length((name)::text) > 7)"),
    ("PostgresDatabase", "t.primary_key", None, None),
    ("PostgresDatabase", "t.grants.reader", ["insert"], ["insert"]),
    ("PostgresDatabase", "schemas.app.views.v", None, None),
    ("PostgresDatabase", "schemas.app.enums.mood", ["calm"], ["calm"]),
]


@pytest.mark.req("B3.1")
@pytest.mark.parametrize(("type", "path", "value", "shows"), DRIFTED, ids=str)
def test_a_refresh_shows_what_lives_and_nothing_else(
    type: str, path: str, value: Any, shows: Any, setting: Setting
) -> None:
    declared = NODES[type]
    before = copy.deepcopy(declared)
    found = refreshed(type, declared, put(declared, path, value), setting)
    assert declared == before
    assert found == put(declared, path, shows)
    assert all(place == steps(path)[: len(place)] for place in shown(type, found, declared, setting))
    assert shown(type, found, declared, setting)


def test_what_no_input_can_show_is_told_in_words(setting: Setting) -> None:
    """The view was made anew by hand: its columns differ, its declared query does not."""
    live = put(DATABASE, "t.columns.name.type", "varchar(9)")
    found = refreshed("PostgresDatabase", DATABASE, live, setting)
    assert found.pop(DRIFT) == ["pg:main/app/view/v: shape is not as declared"]
    assert found == live


# Consents -------------------------------------------------------------------------------------------------


def demanded(type: str, one: Json | None, other: Json | None, setting: Setting) -> tuple[str, ...]:
    """What a change of inputs needs to be allowed by name; None is a part that is not there."""
    before, after = (None if node is None else read(type, node, setting) for node in (one, other))
    return consents.required(planned(before, after, setting))


LOSSES = [
    ("Stream", "storage", "memory", "data_loss:nats:main/stream/S"),
    ("KeyValueBucket", "storage", "memory", "data_loss:nats:main/bucket/B"),
    ("PostgresDatabase", "t.columns.kind", None, "data_loss:pg:main/app/t/column/kind"),
    ("PostgresDatabase", "schemas.app.tables.t", None, "data_loss:pg:main/app/t"),
]


@pytest.mark.parametrize(("type", "path", "value", "consent"), LOSSES, ids=str)
def test_a_loss_is_known_from_the_inputs_alone(
    type: str, path: str, value: Any, consent: str, setting: Setting
) -> None:
    after = put(NODES[type], path, value)
    if path.endswith("tables.t"):
        del after["schemas"]["app"]["views"]
    assert consent in demanded(type, NODES[type], after, setting)


@pytest.mark.parametrize(("type", "path", "value"), EQUAL, ids=str)
def test_what_is_no_change_needs_no_consent(type: str, path: str, value: Any, setting: Setting) -> None:
    if TYPES[type].is_weighed:
        assert demanded(type, NODES[type], put(NODES[type], path, value), setting) == ()


@pytest.mark.parametrize(
    ("type", "path", "value"),
    [
        ("Stream", "max_bytes", "2MiB"),
        ("Stream", "description", "x"),
        ("KeyValueBucket", "history", 9),
        ("Role", "connection_limit", 3),
        ("PostgresDatabase", "t.columns.new", {"type": "text"}),
        ("PostgresDatabase", "t.indexes.by_at", None),
    ],
    ids=str,
)
def test_what_can_be_taken_back_needs_no_consent(type: str, path: str, value: Any, setting: Setting) -> None:
    assert demanded(type, NODES[type], put(NODES[type], path, value), setting) == ()


@pytest.mark.parametrize("type", sorted(NODES.keys() - {"Pool", "PartitionSet", "Contract"}))
def test_making_a_part_needs_no_consent_and_removing_what_holds_data_does(type: str, setting: Setting) -> None:
    assert demanded(type, None, NODES[type], setting) == ()
    lost = demanded(type, NODES[type], None, setting)
    assert bool(lost) == (type != "Role"), lost
