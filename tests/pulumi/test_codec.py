"""Values on the wire: what comes back is what went out, and Pulumi's markers never reach the provider."""

from __future__ import annotations

import asyncio
import copy
import json
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st
from pulumi.runtime import rpc

from provision.pulumi.codec import decode, decode_config, encode, parse_path, path
from provision.pulumi.protocol import UNKNOWN, has_unknown
from provision.spec.errors import InputError

SIGNATURE = "4dabf18193072939515e22adb298388d"
SECRET = "1b47061264138c4ac30d75fd1eb44270"
OUTPUT = "d0e6a833031e9bbcd3f4e8bde6ca49a4"

NAMES = st.text(min_size=1)
NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text() | st.just(UNKNOWN),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=20,
)
PROPERTIES = st.dictionaries(NAMES.filter(lambda name: not name.startswith("__")), VALUES, max_size=5)


def struct(values: dict[str, Any]) -> Struct:
    return ParseDict(values, Struct())


@given(PROPERTIES, st.data())
def test_values_return_as_they_went(values: dict[str, Any], data: st.DataObject) -> None:
    secret_keys = data.draw(st.sets(st.sampled_from(sorted(values)))) if values else set()
    decoded = decode(encode(values, secret_keys))
    assert decoded.values == values
    assert decoded.secret_keys == secret_keys


@given(PROPERTIES)
def test_what_is_known_is_json(values: dict[str, Any]) -> None:
    assert has_unknown(values) or json.loads(json.dumps(decode(encode(values)).values)) == values


def test_whole_numbers_are_integers_at_every_depth() -> None:
    values = decode(struct({"a": 1.0, "b": [2.0, {"c": -1.0}], "d": 0.5})).values
    assert json.dumps(values) == '{"a": 1, "b": [2, {"c": -1}], "d": 0.5}'


def test_an_integer_that_a_double_cannot_hold_becomes_text() -> None:
    largest = 2**63 - 1
    assert decode(encode({"max": largest, "min": -largest, "fits": 2**53})).values == {
        "max": "9223372036854775807",
        "min": "-9223372036854775807",
        "fits": 2**53,
    }


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"bytes", object()])
def test_what_json_lacks_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        encode({"value": value})


def test_names_of_the_engine_are_dropped_at_the_top_only() -> None:
    values = {"__defaults": [], "__internal": {}, "tables": {"__migrations": {"__id": 1}}}
    assert decode(struct(values)).values == {"tables": {"__migrations": {"__id": 1}}}


def test_names_are_sorted_whatever_order_protobuf_has() -> None:
    names = [f"name_{n}" for n in range(50)]
    values = decode(struct({"outer": dict.fromkeys(reversed(names), 1)})).values
    assert list(values["outer"]) == sorted(names)


@pytest.mark.parametrize(
    "marker",
    [
        "04da6b54-80e4-46f7-96ec-b56ff0331ba9",
        "1c4a061d-8072-4f0a-a4cb-0ff528b18fe7",
        "3eeb2bf0-c639-47a8-9e75-3b44932eb421",
        "6a19a0b0-7e62-4c92-b797-7f8e31da9cc2",
        "dd056dcd-154b-4c76-9bd3-c8f88648b5ff",
    ],
)
def test_an_unknown_of_any_type_is_the_one_unknown(marker: str) -> None:
    values = decode(struct({"x": {"y": [marker]}})).values
    assert values["x"]["y"][0] is UNKNOWN
    assert copy.deepcopy(values)["x"]["y"][0] is UNKNOWN
    assert has_unknown(values)


@pytest.mark.req("B3.3")
def test_secrets_are_plain_inside_and_known_by_their_place() -> None:
    secret = {SIGNATURE: SECRET, "value": {"password": {SIGNATURE: SECRET, "value": "hunter2"}}}
    decoded = decode(struct({"role": secret, "list": ["a", {SIGNATURE: SECRET, "value": 1}], "open": 1}))
    assert decoded.values == {"role": {"password": "hunter2"}, "list": ["a", 1], "open": 1}
    assert decoded.secrets == {("role",), ("role", "password"), ("list", 1)}
    assert decoded.secret_keys == {"role", "list"}


@pytest.mark.req("B3.3")
def test_a_secret_is_wrapped_on_its_way_out() -> None:
    wire = MessageToDict(encode({"token": "hunter2", "name": "n"}, {"token", "absent"}))
    assert wire == {"token": {SIGNATURE: SECRET, "value": "hunter2"}, "name": "n"}


def test_outputs_are_unwrapped() -> None:
    values = {
        "known": {SIGNATURE: OUTPUT, "value": [1], "dependencies": ["urn"]},
        "later": {SIGNATURE: OUTPUT},
        "hidden": {SIGNATURE: OUTPUT, "value": "x", "secret": True},
    }
    decoded = decode(struct(values))
    assert decoded.values == {"known": [1], "later": UNKNOWN, "hidden": "x"}
    assert decoded.secret_keys == {"hidden"}


def test_a_resource_is_its_id_or_its_urn() -> None:
    reference = {SIGNATURE: "5cf8f73096256a8f31e491e813e4eb8e", "urn": "urn:x"}
    assert decode(struct({"a": reference, "b": {**reference, "id": "one"}})).values == {"a": "urn:x", "b": "one"}


@pytest.mark.parametrize(
    ("signature", "what"),
    [
        ("c44067f5952c0a294b673a41bacd8c17", "an asset"),
        ("0def7320c3a5731c473e5ecbe6d01bc7", "an archive"),
        ("ffff", "of an unknown kind"),
    ],
)
def test_a_file_is_refused_where_it_stands(signature: str, what: str) -> None:
    with pytest.raises(InputError, match=rf'^tables\["a\.b"\]\.sql is {what}: not taken here$'):
        decode(struct({"tables": {"a.b": {"sql": {SIGNATURE: signature}}}}))


def test_the_sdk_writes_what_the_codec_reads_but_drops_nulls_at_the_top() -> None:
    values = {"text": "t", "list": [1, 2.5, None], "deep": {"null": None, "flag": True}, "none": None}
    decoded = decode(asyncio.run(rpc.serialize_properties(values, {})))
    assert decoded.values == {"text": "t", "list": [1, 2.5, None], "deep": {"null": None, "flag": True}}


# Configuration of the provider -------------------------------------------------------------------------------


def test_configuration_comes_as_values_or_as_their_json() -> None:
    targets = {"nats": {"main": {"urls": ["nats://h"]}}}
    plain = decode_config(struct({"plane": "agents", "targets": targets, "allow": ["a"]}))
    texts = decode_config(struct({"plane": "agents", "targets": json.dumps(targets), "allow": ' ["a"]'}))
    assert plain == texts
    assert plain.values == {"plane": "agents", "targets": targets, "allow": ["a"]}


def test_text_that_only_looks_like_json_stays() -> None:
    values = {"env": "{staging", "root": "[x]", "plane": "1"}
    assert decode_config(struct(values)).values == values


@pytest.mark.req("B3.3")
def test_secrets_of_the_configuration_are_found_in_and_around_json() -> None:
    inside = json.dumps({"A": {SIGNATURE: SECRET, "value": "hunter2"}})
    around = {SIGNATURE: SECRET, "value": '{"B": "hunter2"}'}
    decoded = decode_config(struct({"inside": inside, "around": around}))
    assert decoded.values == {"inside": {"A": "hunter2"}, "around": {"B": "hunter2"}}
    assert decoded.secret_keys == {"inside", "around"}


def test_the_engines_own_configuration_is_dropped() -> None:
    values = {"version": "1.0.0", "pluginDownloadURL": "u", "__internal": {}, "plane": "p"}
    assert decode_config(struct(values)).values == {"plane": "p"}


# Paths -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pointer", "text"),
    [
        (("schemas", "agents", "tables", "a.b", "columns", 0), 'schemas.agents.tables["a.b"].columns[0]'),
        (("a-b", "c"), '["a-b"].c'),
        (("a", 'say "hi"'), 'a["say \\"hi\\""]'),
        (("grants", 10, "to"), "grants[10].to"),
        (("tables", "1"), "tables.1"),
        (("a", ""), 'a[""]'),
    ],
)
def test_a_path_is_written_and_read_as_pulumi_does(pointer: tuple[str | int, ...], text: str) -> None:
    assert path(pointer) == text
    assert parse_path(text) == pointer


def test_a_star_in_a_path_stays() -> None:
    assert parse_path('root.array[*].field["*"]') == ("root", "array", "*", "field", "*")


@given(st.lists(st.text().filter(lambda name: "\\" not in name) | st.integers(0, 99), min_size=1))
def test_any_path_returns(pointer: list[str | int]) -> None:
    assert parse_path(path(tuple(pointer))) == tuple(pointer)
