"""The digest in the contract names what a plane declares, in whatever words its specs do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from provision import registry
from provision.pools import contract
from provision.spec import yamltext
from provision.spec.document import Document
from provision.spec.files import File, Inputs
from provision.spec.reading import read
from provision.spec.record import Facts, Plane

FACTS = {
    ("nats", "main"): Facts("nats", "main", (2, 15, 0), {}),
    ("pg", "main"): Facts("pg", "main", (18, 0, 0), {}),
    ("plane", "main"): Facts("plane", "main", (), {}),
}
TABLE = {"columns": {"id": {"type": "bigint"}, "at": {"type": "timestamptz"}}, "primary_key": ["id", "at"]}


def of(**sections: Any) -> Plane:
    text = yamltext.dump({"plane": "p", **sections})
    found = read(Document(Inputs(Path(), None, (File("p.yaml", Path("p.yaml"), text.encode()),))), registry.sections())
    assert found.diagnostics == ()
    return contract.completed(found.plane, registry.kinds(), FACTS)


def digest(**sections: Any) -> str:
    return contract.digest(of(**sections), registry.kinds())


def table(**more: Any) -> dict[str, Any]:
    return {"app": {"tables": {"t": {**TABLE, **more}}}}


DAYS = {"by": "range", "key": ["at"], "every": "1 day"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"streams": {"S": {}}}, {"streams": {"S": {"subjects": ["S"], "duplicate_window": "2m", "prune": True}}}),
        (
            {"streams": {"S": {"consumers": {"c": {"ack_policy": "explicit"}}}}},
            {"streams": {"S": {"consumers": {
                "c": {"ack_policy": "explicit", "ack_wait": "30s", "dead_letter": "none"}}}}},
        ),
        ({"buckets": {"B": {}}}, {"buckets": {"B": {"keys": ["a.>"], "journal": "J"}}}),
        ({"roles": {"r": {}}}, {"roles": {"r": {"password": {"env": "X"}}}}),
        ({"extensions": {"vector": None}}, {"extensions": {"vector": {"schema": "public", "version": "0.8.1"}}}),
        ({"schemas": {"app": {}}}, {"schemas": {"app": {"managed": "migrations", "prune": True, "owner": "o"}}}),
        ({"schemas": table()},
         {"schemas": table(touch="at", writer_touches=True, access_orders={"a": ["at"]}, owner="o")}),
        (
            {"schemas": table(partitions=DAYS)},
            {"schemas": table(partitions={**DAYS, "premake": 3, "retain": "30 days", "on_expiry": "detach"})},
        ),
        ({"schemas": table(grants={"r": ["all"]})}, {"schemas": table(grants={"r": [
            "select", "insert", "update", "delete", "truncate", "references", "trigger", "maintain"]})}),
    ],
)  # fmt: skip
def test_what_no_server_holds_or_chooses_by_itself_makes_no_difference(one: Any, other: Any) -> None:
    assert digest(**one) == digest(**other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"streams": {"S": {}}}, {"streams": {"S": {"duplicate_window": "1m"}}}),
        ({"streams": {"S": {"consumers": {"c": {}}}}}, {"streams": {"S": {"consumers": {"c": {"ack_wait": "31s"}}}}}),
        ({"buckets": {"B": {}}}, {"buckets": {"B": {"history": 2}}}),
        ({"roles": {"r": {}}}, {"roles": {"r": {"login": True}}}),
        ({"schemas": table()}, {"schemas": table(comment="x")}),
        ({"schemas": table(partitions=DAYS)}, {"schemas": table(partitions={**DAYS, "key": ["id"]})}),
        ({"schemas": table(grants={"r": ["select"]})}, {"schemas": table(grants={"r": ["insert"]})}),
        ({"runtime": {}}, {"runtime": {"lease_ttl": "5s"}}),
    ],
)
def test_what_a_server_or_the_runtime_would_notice_changes_it(one: Any, other: Any) -> None:
    assert digest(**one) != digest(**other)


def test_every_kind_names_settings_that_it_has() -> None:
    for kind in registry.kinds().values():
        known = set(kind.fields.fields) | {"key_type", "members", "subpartitioned", "like", "detaching"}
        assert kind.spec_only | kind.left_to_server <= known, kind.name
        assert not kind.spec_only & kind.left_to_server, kind.name


def test_the_contract_tells_what_the_server_chooses() -> None:
    content = contract.build(of(streams={"S": {"max_age": "1m"}}), None, registry.kinds())
    assert content["streams"]["S"]["duplicate_window"] == 60 * 10**9
