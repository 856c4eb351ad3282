"""Codec, keys, schema, edits and lag, without a server."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as some

from holdfast.errors import BackPressure, CodecError
from holdfast.kv.entry import Position
from holdfast.state.codec import Codec, canonical
from holdfast.state.edits import Edit, unfinished
from holdfast.state.flush_sql import LARGEST_BYTES, Change, columns, fitting, newest
from holdfast.state.hydration import Head, Row, Snapshot, finish_edit, merge_rows
from holdfast.state.journal import Look, read_change, read_look
from holdfast.state.keys import EDIT_KEY, bucket_key, decode_key, encode_key, parse_bucket_key
from holdfast.state.lag import Pressure
from holdfast.state.lifecycle import FOLLOWS, Life, Status
from holdfast.state.schema import build, named_types, upcast, upcaster, version_of

AGENT = UUID(int=7)

scalars = (
    some.none()
    | some.booleans()
    | some.integers()
    | some.floats(allow_nan=False)
    | some.text(some.characters())
    | some.binary()
    | some.datetimes(timezones=some.none() | some.just(timezone(timedelta(hours=2))))
    | some.dates()
    | some.times()
    | some.timedeltas()
    | some.uuids()
    | some.decimals(allow_nan=False)
)
hashable = some.integers() | some.text() | some.uuids() | some.tuples(some.integers(), some.text())
values = some.recursive(
    scalars,
    lambda inner: (
        some.lists(inner, max_size=4)
        | some.dictionaries(hashable | some.just("$type"), inner, max_size=4)
        | some.frozensets(hashable, max_size=4)
        | some.sets(hashable, max_size=4)
        | some.tuples(inner, inner)
    ),
    max_leaves=12,
)


class Mood(Enum):
    CALM = "c"


class Level(IntEnum):
    LOW = 1


@dataclass(frozen=True)
class Point:
    x: int
    mood: Mood = Mood.CALM


@pytest.mark.req("D2.3")
@given(values)
def test_a_value_comes_back_as_it_was_with_its_type(value: Any) -> None:
    codec = Codec()
    data = codec.encode(value)
    back = codec.decode(data)
    assert back == value
    assert repr(type(back)) == repr(type(value))
    assert codec.encode(back) == data


@pytest.mark.req("D2.6")
@given(values)
def test_what_jsonb_does_to_a_value_leaves_its_checksum(value: Any) -> None:
    data = Codec().encode(value)
    assert b"\\u0000" not in data
    # jsonb keeps no order of keys and spells numbers without an exponent.
    assert canonical(json.loads(json.dumps(json.loads(data), indent=1))) == data


@pytest.mark.parametrize("value", [float("inf"), -0.0, 1e16, 1e-7, Decimal("1.50"), {1: 2}, (1, (2,)), "\ud800"])
def test_values_that_plain_json_would_change(value: Any) -> None:
    codec = Codec()
    back = codec.decode(codec.encode(value))
    assert repr(back) == repr(value)


def test_types_of_ones_own_are_a_closed_set() -> None:
    codec = Codec([Point, Mood, Level])
    value = {"p": Point(1), "l": [Level.LOW]}
    assert codec.decode(codec.encode(value)) == value
    with pytest.raises(CodecError, match="not known"):
        Codec().encode(Point(1))
    with pytest.raises(CodecError, match="which is not known"):
        Codec().decode(codec.encode(Point(1)))
    with pytest.raises(CodecError, match="two types"):
        Codec([Point, type("Point", (), {})])


@pytest.mark.parametrize(
    "data",
    [
        b'{"$type": "os.system", "value": "x"}',
        b'{"$type": ["list"], "value": 1}',
        b'{"$type": "datetime"}',
        b'{"$type": "uuid", "value": 3}',
        b'{"$type": "decimal", "value": "x"}',
        b'{"$type": "bytes", "value": "*"}',
        b'{"$type": "map", "value": [1]}',
        b"[1,",
        b"\xff",
    ],
)
def test_what_nobody_of_ours_wrote_is_an_error_of_ours(data: bytes) -> None:
    with pytest.raises(CodecError):
        Codec().decode(data)


def test_a_value_that_holds_itself_is_an_error_of_ours() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(CodecError):
        Codec().encode(value)


@given(some.text(some.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=255))
def test_every_key_becomes_one_that_nats_takes_and_comes_back(key: str) -> None:
    from holdfast.kv.messages import check_key

    encoded = bucket_key(AGENT, key)
    assert check_key(encoded) == encoded
    assert parse_bucket_key(encoded) == (AGENT, key)


@pytest.mark.parametrize("key", ["=zz", "=C3", "=41", "a=2Eb", "..", ""])
def test_keys_that_nobody_of_ours_encoded(key: str) -> None:
    with pytest.raises(CodecError):
        decode_key(key)
    assert parse_bucket_key(f"{AGENT}.state.{key}") is None


def test_dots_that_part_a_key_stay_dots() -> None:
    assert encode_key("plan.steps.1") == "plan.steps.1"
    assert encode_key(".a..b.") == "=2Ea=2E=2Eb=2E"


# Schema ------------------------------------------------------------------------------------------------------


def test_upcasters_bring_old_values_up_step_by_step() -> None:
    @dataclass
    class Task:
        timeout_ms: int = 0
        title: str = ""

    @upcaster(Task, from_version=1)
    def in_milliseconds(old: dict[str, Any]) -> dict[str, Any]:
        return {"timeout_ms": old["timeout_s"] * 1000, "name": old["name"]}

    @upcaster(Task, from_version=2)
    def renamed(old: dict[str, Any]) -> dict[str, Any]:
        return {"timeout_ms": old["timeout_ms"], "title": old["name"]}

    assert version_of(Task) == 3
    raised = upcast(Task, {"timeout_s": 2, "name": "n"}, 1)
    assert build(Task, raised) == Task(2000, "n")
    with pytest.raises(CodecError, match="version 4"):
        upcast(Task, {}, 4)
    with pytest.raises(CodecError, match="failed"):
        upcast(Task, {}, 1)
    with pytest.raises(CodecError, match="two upcasters"):
        upcaster(Task, from_version=2)(renamed)


def test_a_gap_between_upcasters_is_told() -> None:
    @dataclass
    class Task:
        a: int = 0

    upcaster(Task, from_version=2)(lambda old: old)
    with pytest.raises(CodecError, match="from version 1"):
        version_of(Task)


@dataclass
class Outer:
    points: list[Point] = field(default_factory=list)
    mood: Mood | None = None


def test_types_of_fields_are_found() -> None:
    assert set(named_types(Outer)) == {Point, Mood}
    with pytest.raises(CodecError, match="give each of its fields a default"):
        build(Point, {})
    with pytest.raises(CodecError, match=r"do not fit Point .* add an upcaster"):
        build(Point, {"mood": Mood.CALM})


def test_pydantic_and_msgspec_models_are_models() -> None:
    import msgspec
    import pydantic

    class Config(pydantic.BaseModel):
        size: int = pydantic.Field(gt=0)
        point: Point = Point(1)

    class Struct(msgspec.Struct):
        size: int
        when: datetime | None = None

    codec = Codec([Config, Struct, *named_types(Config)])
    for value in (Config(size=3), Struct(1, datetime(2026, 1, 1))):
        assert codec.decode(codec.encode(value)) == value
    assert build(Config, {"size": 2, "other": 1}) == Config(size=2)
    assert build(Struct, {"size": 2, "when": datetime(2026, 1, 1)}) == Struct(2, datetime(2026, 1, 1))
    for model, wrong in ((Config, {"size": -1}), (Struct, {"size": "x"})):
        with pytest.raises(CodecError):
            build(model, wrong)


# Changes -----------------------------------------------------------------------------------------------------


def change(key: str, value: Any, revision: int, incarnation: int = 1) -> Change:
    return Change(AGENT, key, None if value is None else canonical(value), Position(incarnation, revision))


@pytest.mark.req("D2.4", "D2.5")
@given(some.lists(some.tuples(some.integers(1, 3), some.integers(1, 50)), min_size=1), some.randoms())
def test_the_newest_position_wins_in_any_order_and_a_later_bucket_over_all(
    positions: list[tuple[int, int]], random: Any
) -> None:
    changes = [change("k", list(position), position[1], position[0]) for position in positions]
    random.shuffle(changes)
    assert newest(changes)[AGENT, "k"].value == canonical(list(max(positions)))


def test_the_record_of_an_edit_stands_for_its_keys() -> None:
    edit = Edit({"a": b"1", "b": None}, 2)
    rows = newest([change("a", 0, 3), Change(AGENT, EDIT_KEY, edit.encode(), Position(1, 4)), change("b", 5, 6)])
    assert rows[AGENT, "a"].value == b"1"
    assert rows[AGENT, "a"].position == Position(1, 4)
    assert rows[AGENT, "b"].value == b"5"
    assert Edit.decode(edit.encode()) == edit
    assert unfinished(edit, Position(1, 4), {"a": Position(1, 5)}) == {"b": None}
    with pytest.raises(CodecError):
        Edit.decode(b"{}")


def test_rows_come_in_one_order_and_deletes_have_no_value() -> None:
    agents, keys, texts, sums, *_, deleted = columns([change("b", None, 2), change("a", "x", 1)])
    assert agents == [AGENT, AGENT]
    assert keys == ["a", "b"]
    assert texts == ['"x"', "null"]
    assert sums[1] is None
    assert deleted == [False, True]


def test_an_edit_that_the_database_has_is_finished() -> None:
    record = Edit({"a": b"1", "gone": b"2"}, 1).encode()
    row = Row(EDIT_KEY, record, None, Position(1, 9), 1)
    snapshot = Snapshot(heads={EDIT_KEY: Head(record, Position(1, 9)), "a": Head(b"1", Position(1, 10))})
    finish_edit(snapshot)
    assert snapshot.unfinished == {"gone": b"2"}
    snapshot = Snapshot(heads={"a": Head(b"1", Position(1, 10))})
    merge_rows(snapshot, [row])
    finish_edit(snapshot)
    assert snapshot.unfinished == {}
    assert snapshot.schema == 1


def test_what_a_flushed_edit_deletes_is_deleted_where_the_bucket_has_it_still() -> None:
    record = Edit({"gone": None, "new": None, "never": None}, 1).encode()
    heads = {
        EDIT_KEY: Head(record, Position(1, 9)),
        "gone": Head(b"1", Position(1, 8)),
        "new": Head(b"1", Position(1, 10)),
    }
    snapshot = Snapshot(heads=heads)
    merge_rows(snapshot, [Row(EDIT_KEY, record, None, Position(1, 9), 1)])
    finish_edit(snapshot)
    assert snapshot.unfinished == {"gone": None}
    snapshot = Snapshot(heads=heads, is_finished=True)
    finish_edit(snapshot)
    assert snapshot.unfinished == {}


# Messages of the journal -------------------------------------------------------------------------------------


def parse(headers: dict[str, str], *, arrived: int = 100, created: int = 50, key: str = "state.k") -> Change | None:
    source = {"Nats-Stream-Source": f"KV_B 17 > > $KV.B.{AGENT}.{key} abc"}
    return read_change(f"{AGENT}.{key}", source | headers, b"1", arrived_ns=arrived, created_ns=created)


def test_what_is_read_from_a_message_of_the_journal() -> None:
    own = parse({"Holdfast-Epoch": "40-9"})
    assert own is not None
    assert (own.position, own.epoch, own.value) == (Position(40, 17), 9, b"1")
    foreign, earlier = parse({}), parse({}, arrived=49)
    assert foreign is not None
    assert foreign.position == Position(50, 17)
    assert earlier is not None
    assert earlier.position == Position(49, 17)
    deleted = parse({"KV-Operation": "DEL"})
    assert deleted is not None
    assert deleted.value is None
    for skipped in ({"Nats-Marker-Reason": "MaxAge"}, {"Holdfast-Origin": "sql"}):
        assert parse(skipped) is None
    assert parse({}, key="lease") is None
    assert parse({}, key="other.k") is None
    with pytest.raises(CodecError):
        parse({}, key="state.=41")


def info(
    messages: int, last: int, sources: list[dict[str, Any]], **config: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    state = {"messages": messages, "bytes": messages * 10, "first_ts": "2026-01-01T00:00:00.5Z"}
    journal = {"state": state, "config": config, "sources": sources, "ts": "2026-01-01T00:00:02Z"}
    bucket = {"state": {"last_seq": last, "bytes": last}, "config": {"max_bytes": 1000}}
    return journal, {**bucket, "created": "2026-01-01T00:00:00Z"}


@pytest.mark.req("F1.2")
def test_lag_is_never_negative_and_counts_what_the_source_has_not_taken() -> None:
    from holdfast.state.lag import lag_ms

    look = read_look(*info(5, 30, [{"lag": 2, "seq": 20}], max_msgs=10, max_bytes=-1))
    assert look.unsourced == 10
    assert look.fullness == 0.5
    assert lag_ms(look) == 1500
    assert read_look(*info(0, 5, [{"lag": 0, "seq": 900}])).unsourced == 0
    assert lag_ms(read_look(*info(0, 5, []))) == 0


class FakeLooks:
    """Stands for the journal's answer, which the clock decides: no server is imitated."""

    max_age_s = 0.5

    def __init__(self, look: Look) -> None:
        self.value = look

    async def look(self) -> Look:
        return self.value


@pytest.mark.req("D1.5")
@pytest.mark.parametrize(("messages", "passes"), [(0, True), (49, True), (74, True), (75, False), (100, False)])
def test_writes_are_refused_from_three_quarters_on(messages: int, passes: bool) -> None:
    look = read_look(*info(messages, 100, [{"lag": 0}], max_msgs=100))
    pressure = Pressure(FakeLooks(look), FakeLooks(look))  # type: ignore[arg-type]

    async def main() -> None:
        if passes:
            await pressure.admit()
        else:
            with pytest.raises(BackPressure):
                await pressure.admit()

    asyncio.run(main())


@pytest.mark.req("D1.5")
def test_a_bucket_three_quarters_full_takes_no_values_and_has_room_for_deletes() -> None:
    looks = FakeLooks(read_look(*info(0, 700, [])))
    looks.max_age_s = 0  # no time to live: it is the bytes that count
    pressure = Pressure(looks, looks)  # type: ignore[arg-type]

    async def main() -> None:
        await pressure.admit(40)
        with pytest.raises(BackPressure, match="the bucket"):
            await pressure.admit(40)
        await pressure.admit(10)
        await pressure.admit(is_delete=True)

    asyncio.run(main())


def test_what_is_written_at_once_has_a_bound_in_bytes() -> None:
    def change(size: int) -> Change:
        return Change(AGENT, "k", b"x" * size, Position(1, 1))

    third = LARGEST_BYTES // 3
    assert fitting([change(third)] * 7) == 3
    assert fitting([change(LARGEST_BYTES + 1)] * 2) == 1
    assert fitting([change(1)] * 500) == 500


def test_writes_are_refused_when_the_source_lags_a_tenth_of_the_ttl() -> None:
    stuck = read_look(*info(1, 100, [{"lag": 10}], max_msgs=100))
    looks = FakeLooks(stuck)
    pressure = Pressure(looks, looks)  # type: ignore[arg-type]

    async def main() -> None:
        await pressure.admit()
        await asyncio.sleep(0.12)
        with pytest.raises(BackPressure):
            await pressure.admit()
        looks.value = read_look(*info(1, 200, [{"lag": 5}], max_msgs=100))
        await asyncio.sleep(0.12)
        await pressure.admit()

    asyncio.run(main())


@pytest.mark.req("D2.1")
def test_states_follow_each_other_as_declared() -> None:
    life = Life()
    assert not life.move(Status.ACTIVE)
    for status in (Status.HYDRATING, Status.ACTIVE, Status.FLUSHING, Status.ACTIVE, Status.EXPIRED, Status.HYDRATING):
        assert life.move(status)
    assert all(Status.COLD in after or status is Status.COLD for status, after in FOLLOWS.items())
