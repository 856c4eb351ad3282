"""Specs of the NATS half to records: units, forms, defaults, references, and mistakes at their place."""

from __future__ import annotations

import jsonschema
import pytest

from provision.nats.kinds import bucket, stream
from provision.spec.ident import Address
from provision.spec.record import Pointer
from tests.complaints import Complaints
from tests.nats.nats_plane import SECTIONS, Json, read


def problems(section: str, node: Json) -> list[tuple[Pointer, str]]:
    reader = Complaints()
    (found,) = [s for s in SECTIONS if s.name == section]
    list(found.read(node, reader))
    return reader.found


def test_units_become_exact_integers() -> None:
    (record,) = read({"streams": {"S": {"max_age": "1.001s", "max_bytes": "10GiB", "max_msgs": 0}}})
    assert record.settings["max_age"] == 1_001_000_000
    assert record.settings["max_bytes"] == 10 * 2**30
    assert record.settings["max_msgs"] == -1
    assert record.settings["subjects"] == ["S"]


def test_every_wrong_value_of_a_stream_is_reported_at_its_place() -> None:
    node = {"max_age": "50ms", "subjects": ["ok", "a..b"], "metadata": {"_nats.ver": "1"}, "mirror": {
        "name": "M", "opt_start_time": "2026-13-01T00:00:00Z"}}  # fmt: skip
    assert [pointer for pointer, _ in problems("streams", {"S": node})] == [
        ("streams", "S", "max_age"), ("streams", "S", "subjects", 1), ("streams", "S", "metadata", "_nats.ver"),
        ("streams", "S", "mirror", "opt_start_time"),
    ]  # fmt: skip


def test_a_mirror_direct_that_the_server_would_override_is_refused() -> None:
    mirror = {"mirror": {"name": "O"}, "mirror_direct": True}
    ((pointer, message),) = problems("streams", {"O": {}, "M": mirror})
    assert (pointer, "allow_direct of O" in message) == (("streams", "M", "mirror_direct"), True)
    assert problems("streams", {"O": {"allow_direct": True}, "M": mirror}) == []
    assert problems("streams", {"M": mirror}) == []
    ((pointer, _),) = problems("buckets", {"O": {}, "M": {"mirror": {"name": "O"}, "stream": {"mirror_direct": False}}})
    assert pointer == ("buckets", "M", "stream", "mirror_direct")


def test_a_stream_with_the_name_of_a_bucket_is_refused() -> None:
    ((pointer, message),) = problems("streams", {"KV_B": {}})
    assert pointer == ("streams", "KV_B")
    assert "bucket" in message


@pytest.mark.parametrize(
    ("section", "name", "node"),
    [
        ("streams", "a.b", {}), ("streams", "S", {"retention": "forever"}), ("streams", "S", {"unknown": 1}),
        ("streams", "S", {"replicas": 6}), ("streams", "S", {"consumers": {"C": {"ack_policy": "maybe"}}}),
        ("buckets", "a b", {}), ("buckets", "B", {"history": 65}), ("buckets", "B", {"stream": {"max_age": "1h"}}),
        ("publishers", "p", {}),
    ],
)  # fmt: skip
def test_the_json_schema_refuses(section: str, name: str, node: Json) -> None:
    (found,) = [s for s in SECTIONS if s.name == section]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({name: node}, dict(found.schema()))


def test_consumers_take_the_defaults_of_their_stream() -> None:
    limits = {"inactive_threshold": "1m", "max_ack_pending": 5}
    _, consumer, template = read({"streams": {"S": {
        "consumer_limits": limits, "consumers": {"C": {"filter_subjects": ["S"]}}, "templates": {"T": None},
    }}})  # fmt: skip
    assert consumer.settings["max_ack_pending"] == 5
    assert consumer.settings["inactive_threshold"] == 60 * 10**9
    assert (consumer.settings["filter_subject"], consumer.settings["filter_subjects"]) == ("S", [])
    assert consumer.parent == Address.root("nats", "main", "stream", "S")
    assert str(template.address) == "nats:main/stream/S/template/T"


def test_copies_refer_to_declared_origins_of_the_same_target() -> None:
    records = {r.address.name: r for r in read({"streams": {
        "A": {}, "B": {"target": "edge"},
        "M": {"mirror": {"name": "A"}},
        "N": {"sources": [{"name": "A"}, {"name": "B"}, {"name": "UNDECLARED"}]},
    }})}  # fmt: skip
    a = Address.root("nats", "main", "stream", "A")
    assert records["M"].refs == (a,)
    assert records["N"].refs == (a,)
    assert records["B"].address.target == "edge"


def test_a_bucket_and_its_stream_are_one_map_in_both_directions() -> None:
    settings = bucket.FIELDS.parse({"ttl": "30s", "history": 3, "sources": [{"name": "X"}], "stream": {"max_msgs": 9}})
    stream_settings = bucket.KIND.as_stream("B", settings)
    assert stream_settings["duplicate_window"] == 30 * 10**9
    assert bucket.KIND.from_stream("B", stream_settings) == settings
    assert bucket.KIND.wire("B", settings)["name"] == "KV_B"
    assert set(stream_settings) == set(stream.KIND.as_stream("S", stream.FIELDS.parse({})))
