"""Each server version from 2.10 on: what it has converges, what it lacks is named and never lost in silence."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from provision.nats import apply
from provision.nats.errors import ApiError, NotApplied
from provision.spec.change import Api
from provision.spec.record import Record
from tests.nats.nats_plane import KINDS, Bench, Json, read
from tests.nats.test_nats_options import BUCKET, CONSUMER, OBJECT_STORE, STREAM

VERSIONS = ["2.10.26", "2.11.0", "2.11.11", "2.12.8", "2.14.0", "2.14.6"]


def converge(plane: Bench) -> int:
    """Apply every option that the server has, one object each; gives the number of objects."""
    facts = plane.observe().facts
    streams = {}
    for index, (option, (value, further, _)) in enumerate(STREAM.items()):
        own = {"subjects": [f"s{index}.>"], **further, option: value}
        own |= {} if option != "subjects" else {"subjects": [f"s{index}.>", f"t{index}"]}
        own |= {} if option != "subject_transform" else {option: {"src": f"s{index}.*", "dest": f"s{index}.x"}}
        streams[f"S{index}"] = own
    consumers = {f"C{i}": {**further, o: value} for i, (o, (value, further, _)) in enumerate(CONSUMER.items())}
    for name, own in consumers.items():
        own |= {"deliver_subject": f"push.{name}"} if "deliver_subject" in own else {}
    streams["WITH"] = {"subjects": ["a.>"], "consumers": consumers}
    buckets = {f"B{i}": {option: value} for i, (option, (value, _, _)) in enumerate(BUCKET.items())}
    objects = {f"O{i}": {option: value} for i, (option, (value, _, _)) in enumerate(OBJECT_STORE.items())}
    document = {"streams": streams, "buckets": buckets, "object_stores": objects}
    for record in read(document):
        if KINDS[record.address.kind].unsupported(record, facts):
            names = record.address.names
            if record.address.kind == "consumer":
                del consumers[names[-1]]
            else:
                del {"stream": streams, "bucket": buckets, "object_store": objects}[record.address.kind][names[-1]]
    plane.apply(document)
    assert plane.observe().unmodelled == []
    return len(read(document))


def mispredicted(plane: Bench) -> list[str]:
    """Objects whose unspoken options the server fills in otherwise than ``settle`` says."""
    facts = plane.observe().facts
    wrong: list[str] = []

    def compare(record: Record, subject: str, body: Callable[[Json], Json]) -> None:
        kind, name = KINDS[record.address.kind], record.address.name
        if kind.unsupported(record, facts) or record.settings.get("sealed"):
            return
        answer = plane.api(subject, body(kind.wire(name, record.settings)))
        if "refused" in answer:  # 2.11.0 wants said what later servers add by themselves; a plan says it
            settled, _ = kind.settle(record, None, facts, None)
            answer = plane.api(subject, body(kind.wire(name, settled.settings)))
        live, unmodelled = kind.unwire(name, answer["config"])
        want, have = kind.settle(record, record._replace(settings=live), facts, None)
        differ = {k: (v, have.settings[k]) for k, v in want.settings.items() if v != have.settings[k]}
        if differ or unmodelled:
            wrong.append(f"{record.address}: {differ} {unmodelled}")

    for index, (option, (value, further, _)) in enumerate(STREAM.items()):
        subjects = {} if option in ("subjects", "subject_transform", "republish") else {"subjects": [f"s{index}.>"]}
        title = f"S{index}"
        (record,) = read({"streams": {title: {**subjects, **further, option: value}}})
        compare(record, f"STREAM.CREATE.{title}", lambda config: config)
        plane.api(f"STREAM.DELETE.{title}")
    for option, (value, further, _) in CONSUMER.items():
        plane.api("STREAM.CREATE.S", {"name": "S", "subjects": ["a.>"]})
        _, record = read({"streams": {"S": {"subjects": ["a.>"], "consumers": {"C": {**further, option: value}}}}})
        body = {"stream_name": "S", "action": "create"}
        compare(record, "CONSUMER.CREATE.S.C", lambda config, body=body: {**body, "config": config})  # type: ignore[misc]
        plane.api("STREAM.DELETE.S")
    return wrong


def test_the_defaults_we_expect_are_the_servers(plane: Bench) -> None:
    assert mispredicted(plane) == []


@pytest.mark.soak
@pytest.mark.parametrize("version", VERSIONS)
def test_the_defaults_we_expect_are_those_of_each_version(version: str, server_of: Callable[[str], Bench]) -> None:
    assert mispredicted(server_of(version)) == []


def test_everything_converges_on_the_server_of_the_lock_file(plane: Bench) -> None:
    assert converge(plane) >= 85


@pytest.mark.soak
@pytest.mark.parametrize("version", VERSIONS)
def test_everything_a_version_has_converges(version: str, server_of: Callable[[str], Bench]) -> None:
    assert converge(server_of(version)) >= 70


@pytest.mark.soak
def test_an_old_server_that_drops_an_option_in_silence_is_caught(server_of: Callable[[str], Bench]) -> None:
    plane = server_of("2.10.26")
    body = {"name": "S", "subjects": ["a"], "allow_msg_ttl": True}
    with pytest.raises(NotApplied, match="allow_msg_ttl"):
        apply.execute(plane.session, Api("$JS.API.STREAM.CREATE.S", body))


@pytest.mark.parametrize("kept", [{"max_age": 0}, {}, {"max_age": 5, "placement": {"cluster": "c"}}])
def test_an_option_that_was_not_kept_is_named(plane: Bench, kept: Json, monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(subject: str, body: Json, timeout_s: float | None = None) -> Json:
        return {"config": {"name": "S", **kept}}

    monkeypatch.setattr(plane.session.link, "request", answer)
    body = {"name": "S", "max_age": 5, "placement": {"cluster": "c", "tags": ["x"]}}
    with pytest.raises(NotApplied, match=r"did not keep (max_age|placement)"):
        apply.execute(plane.session, Api("$JS.API.STREAM.CREATE.S", body))


def test_what_a_version_lacks_is_named_before_anything_is_sent(plane: Bench) -> None:
    facts = plane.observe().facts._replace(version=(2, 10, 26))
    (stream, consumer) = read({"streams": {"S": {
        "allow_msg_ttl": True, "sources": [{"name": "A", "consumer": {"name": "c", "deliver_subject": "d"}}],
        "consumers": {"C": {"ack_policy": "flow_control", "priority_policy": "prioritized"}},
    }}})  # fmt: skip
    assert KINDS["stream"].unsupported(stream, facts) == [
        ("sources.consumer", (2, 14, 0)), ("allow_msg_ttl", (2, 11, 0)),
    ]  # fmt: skip
    assert dict(KINDS["consumer"].unsupported(consumer, facts)) == {
        "ack_policy": (2, 14, 0), "priority_policy": (2, 12, 0),
    }  # fmt: skip
    assert KINDS["stream"].unsupported(stream, facts._replace(version=(2, 14, 0))) == []


def test_a_refusal_names_the_request_and_the_remedy(plane: Bench) -> None:
    plane.api("STREAM.CREATE.A", {"name": "A", "subjects": ["a.>"]})
    with pytest.raises(ApiError, match="overlap") as refusal:
        apply.execute(plane.session, Api("$JS.API.STREAM.CREATE.B", {"name": "B", "subjects": ["a.b"]}))
    assert refusal.value.err_code == 10065
    assert "one stream" in refusal.value.help
