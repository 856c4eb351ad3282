"""The bucket HOLDFAST: contract, ledger and lock, each safe against a second writer."""

from __future__ import annotations

import threading
import time

import pytest

from provision.nats.errors import ConfigurationError, Conflict, LockLost
from provision.nats.ledger import MAX_BYTES, Ledger, Store
from provision.plan.protocols import LockHeld
from tests.nats.nats_plane import Bench, bench


@pytest.fixture
def ledger(plane: Bench) -> Ledger:
    return Ledger(plane.session, "agents", "test")


def test_the_bucket_is_made_on_first_use_and_is_no_object_of_a_plane(plane: Bench, ledger: Ledger) -> None:
    assert ledger.read() is None
    assert ledger.owned() == {}
    assert plane.api("STREAM.NAMES", {})["total"] == 0
    ledger.write({"contract_version": 1})
    config = plane.config("KV_HOLDFAST")
    assert (config["max_msgs_per_subject"], config["storage"], config["max_bytes"]) == (5, "file", MAX_BYTES)
    assert plane.observe().records == []


def test_the_contract_is_stored_under_its_key_and_dropped(plane: Bench, ledger: Ledger) -> None:
    ledger.write({"b": [1], "a": "ü"})
    entry = Store(plane.session).get("contract.agents.test")
    assert entry is not None
    assert entry.value == '{"a":"ü","b":[1]}'.encode()
    assert ledger.read() == {"a": "ü", "b": [1]}
    ledger.drop_contract()
    ledger.drop_contract()
    assert ledger.read() is None
    ledger.write({"again": True})
    assert ledger.read() == {"again": True}


def test_planes_and_environments_are_apart(plane: Bench, ledger: Ledger) -> None:
    ledger.record(["a"], "created")
    other = Ledger(plane.session, "agents", "staging")
    assert other.owned() == {}
    with other.hold(), ledger.hold():
        pass
    with pytest.raises(ConfigurationError):
        Ledger(plane.session, "not a key", "test").read()


def test_what_is_intended_counts_as_owned_and_the_first_origin_stays(ledger: Ledger) -> None:
    ledger.intend(["a", "b"])
    ledger.record(["c"], "adopted")
    ledger.record(["a", "c"], "created")
    ledger.intend(["c"])
    assert ledger.owned() == {"a": "created", "b": "created", "c": "adopted"}
    ledger.forget(["b", "never there"])
    assert set(ledger.owned()) == {"a", "c"}


def test_writers_at_once_lose_nothing(plane: Bench, nats_url: str) -> None:
    def write(worker: int) -> None:
        with bench(nats_url) as own:
            ledger = Ledger(own.session, "agents", "test")
            for number in range(5):
                ledger.record([f"{worker}-{number}"], "created")

    workers = [threading.Thread(target=write, args=(w,)) for w in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(Ledger(plane.session, "agents", "test").owned()) == 15


def test_a_write_on_an_old_revision_is_refused(plane: Bench) -> None:
    store = Store(plane.session)
    first = store.put("k", b"1", expected=0)
    store.put("k", b"2", expected=first)
    with pytest.raises(Conflict):
        store.put("k", b"3", expected=first)


def test_runs_are_noted(ledger: Ledger) -> None:
    run = ledger.start_run("abc")
    ledger.finish_run(run, "done", {"steps": 3})
    ledger.start_run("def")
    assert [(r["fingerprint"], r["status"]) for r in ledger.runs()] == [("def", "running"), ("abc", "done")]


def test_one_apply_at_a_time(plane: Bench, ledger: Ledger) -> None:
    second = Ledger(plane.session, "agents", "test", holder="the second")
    with ledger.hold(), pytest.raises(LockHeld, match=r"another apply works on agents\.test: pid"), second.hold():
        pytest.fail("both hold the lock")
    with second.hold():
        pass


def test_a_lock_that_is_renewed_outlives_its_time(plane: Bench) -> None:
    first = Ledger(plane.session, "agents", "test", ttl_s=0.6)
    with first.hold():
        time.sleep(1.2)
        with pytest.raises(LockHeld), Ledger(plane.session, "agents", "test").hold():
            pytest.fail("both hold the lock")


def test_a_dead_holder_is_replaced_and_cannot_write_when_it_wakes(plane: Bench) -> None:
    dead = Ledger(plane.session, "agents", "test", ttl_s=0.3)
    dead._revision = dead._acquire()
    time.sleep(0.4)
    alive = Ledger(plane.session, "agents", "test")
    with alive.hold():
        stop = threading.Event()
        dead._renew_until(stop)
        with pytest.raises(LockLost):
            dead.record(["a"], "created")
    assert alive.owned() == {}
