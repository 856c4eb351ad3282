"""The connection, its errors, bulk reading, and applying where answers get lost."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from provision.embedded import nats
from provision.nats import api, apply, observe
from provision.nats.errors import (
    AuthenticationFailed,
    ConfigurationError,
    NatsError,
    PermissionDenied,
    TimedOut,
    Unreachable,
)
from provision.spec.change import Api
from tests.nats.nats_plane import Bench, Json, bench

USERS = {
    "accounts": {
        "A": {
            "jetstream": "enabled",
            "users": [
                {"user": "admin", "password": "right"},
                {
                    "user": "reader",
                    "password": "right",
                    "permissions": {"publish": {"deny": ["$JS.API.STREAM.CREATE.>"]}},
                },
            ],
        },
        "B": {"users": [{"user": "plain", "password": "right"}]},
    }
}


@pytest.fixture(scope="module")
def guarded(server_root: Path) -> Any:
    """A server with users: an administrator, one who may not create streams, one without JetStream."""
    server = nats.Server(server_root / "nats-guarded", config=USERS)
    server.start()
    yield server
    server.remove()


def test_a_server_that_is_down_is_named_without_the_password() -> None:
    settings = api.settings({"urls": ["nats://someone:hunter2@127.0.0.1:1"], "timeout_s": 2})
    with pytest.raises(Unreachable) as error:
        api.connect(settings)
    assert "127.0.0.1:1" in str(error.value)
    assert "hunter2" not in str(error.value) + repr(settings)


def test_a_wrong_password_is_told_from_a_server_that_is_down(guarded: nats.Server) -> None:
    with pytest.raises(AuthenticationFailed):
        api.connect(api.settings({"urls": [guarded.url], "user": "admin", "password": "wrong", "timeout_s": 2}))


def test_secret_references_are_resolved(guarded: nats.Server) -> None:
    target = {"urls": {"env": "URLS"}, "user": "admin", "password": {"env": "PW"}}
    values = {"URLS": guarded.url, "PW": "right"}
    with api.connect(api.settings(target, lambda reference: values[reference["env"]])) as session:
        assert session.request("$JS.API.INFO")["type"].endswith("account_info_response")
    with pytest.raises(ConfigurationError):
        api.settings({})


def test_a_missing_permission_is_named_at_once(guarded: nats.Server) -> None:
    with bench(guarded.url, user="reader", password="right") as plane:
        begun = time.monotonic()
        with pytest.raises(PermissionDenied, match=r"STREAM\.CREATE\.S") as error:
            apply.execute(plane.session, Api("$JS.API.STREAM.CREATE.S", {"name": "S"}))
        assert time.monotonic() - begun < 2
        assert "Allow the user to publish to $JS.API.STREAM.CREATE.>" in error.value.help


def test_an_account_without_jetstream_is_said_so(guarded: nats.Server) -> None:
    with bench(guarded.url, user="plain", password="right") as plane, pytest.raises(Unreachable, match="JetStream"):
        plane.observe()


def test_a_domain_changes_the_prefix_of_requests(server_root: Path) -> None:
    server = nats.Server(server_root / "nats-domain", config={"jetstream": {"domain": "hub"}})
    with server, bench(server.url, domain="hub") as plane:
        plane.apply({"streams": {"S": {"subjects": ["a"], "consumers": {"C": {}}}}})
        with bench(server.url, domain="elsewhere") as lost, pytest.raises(Unreachable):
            lost.observe()
    server.remove()


def test_lists_are_read_over_several_pages_and_in_bulk(plane: Bench) -> None:
    names = [f"S{i:03}" for i in range(520)]
    document = {"streams": {n: {"subjects": [n], "consumers": {"C": {}} if n < "S010" else {}} for n in names}}
    plane.apply(document)
    seen = plane.observe()
    assert len(seen.records) == 530
    assert {r.address.name for r in seen.records if r.parent is None} == set(names)


def test_more_consumers_than_a_page_are_all_seen(plane: Bench) -> None:
    consumers: Json = {f"C{i:03}": {} for i in range(300)}
    plane.apply({"streams": {"S": {"subjects": ["a"], "consumers": consumers}}})
    assert len(plane.observe().records) == 301


def test_the_digest_follows_configuration_only(plane: Bench) -> None:
    document = {"streams": {"S": {"subjects": ["a"], "consumers": {"C": {"ack_policy": "explicit"}}}}}
    plane.apply(document)
    first = observe.read(plane.session).digest
    plane.publish("a", 5)
    assert observe.read(plane.session).digest == first
    plane.api("STREAM.UPDATE.S", {**plane.config("S"), "description": "changed"})
    second = observe.read(plane.session).digest
    assert second != first
    plane.api("CONSUMER.CREATE.S.C", {
        "stream_name": "S", "action": "update", "config": {**plane.config("S", "C"), "max_batch": 3},
    })  # fmt: skip
    assert observe.read(plane.session).digest != second


def test_the_facts_are_measured(plane: Bench, nats_server: nats.Server) -> None:
    facts = observe.facts(plane.session, "main")
    assert ".".join(map(str, facts.version)) == nats_server.version()
    assert facts.options["max_payload"] == nats.MAX_PAYLOAD
    assert facts.options["servers"] == 1
    assert observe.version_of("2.12.0-RC.1") == (2, 12, 0)


def test_an_answer_that_got_lost_is_read_back(plane: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request reaches the server and its answer does not: apply looks instead of failing or repeating."""
    link = plane.session.link
    send = link.request
    lost: list[str] = []
    written: list[str] = []

    async def lossy(subject: str, body: Any = None, timeout_s: float | None = None) -> Any:
        answer = await send(subject, body, timeout_s)
        written.extend([subject] if ".INFO." not in subject else [])
        if ".INFO." not in subject and not lost:
            lost.append(subject)
            raise TimedOut("lost")
        return answer

    for request in (
        Api("$JS.API.STREAM.CREATE.S", {"name": "S", "subjects": ["a"]}),
        Api("$JS.API.CONSUMER.CREATE.S.C", {"stream_name": "S", "config": {"durable_name": "C"}, "action": "create"}),
        Api("$JS.API.CONSUMER.DELETE.S.C"),
        Api("$JS.API.STREAM.UPDATE.S", {"name": "S", "subjects": ["b"]}),
        Api("$JS.API.STREAM.DELETE.S"),
    ):
        lost.clear()
        written.clear()
        monkeypatch.setattr(link, "request", lossy)
        apply.execute(plane.session, request, settle_s=2)
        assert written == [request.subject]
    assert plane.api("STREAM.NAMES", {})["total"] == 0


def test_a_failed_step_leaves_the_others_recorded_and_a_second_run_finishes(plane: Bench) -> None:
    taken = {"name": "OTHER", "subjects": ["taken"]}
    plane.api("STREAM.CREATE.OTHER", taken)
    document = {"streams": {"A": {"subjects": ["a"]}, "B": {"subjects": ["taken"], "consumers": {"C": {}}}}}
    with pytest.raises(NatsError, match="overlap"):
        plane.apply(document)
    assert "nats:main/stream/B" not in plane.ledger.entries
    plane.api("STREAM.DELETE.OTHER")
    plane.apply(document)
    assert set(plane.ledger.entries) == {"nats:main/stream/A", "nats:main/stream/B", "nats:main/stream/B/consumer/C"}


def test_steps_that_wait_for_none_of_the_others_go_out_together(plane: Bench) -> None:
    document = {"streams": {n: {"subjects": [n], "consumers": {"C": {}}} for n in ("A", "B", "C")}}
    waves = apply.waves(plane.plan(document).steps)
    assert [[step.id.count("/consumer/") for step in wave] for wave in waves] == [[0, 0, 0], [1, 1, 1]]


def test_a_probe_of_something_gone_gives_nothing(plane: Bench) -> None:
    assert apply.count(plane.session, {"stream": "NOT_HERE"}) is None
    assert apply.count(plane.session, {"stream": "NOT_HERE", "consumer": "C"}) is None
