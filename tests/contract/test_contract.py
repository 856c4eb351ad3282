"""The contract: one definition in two distributions, and the declared kinds that live in it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import psycopg
import pytest

from provision.nats.kinds import bucket, consumer, publisher, stream
from provision.pools import contract, runtime
from provision.pools import kinds as pools
from provision.spec.change import Api, Change, Sql
from provision.spec.ident import Address
from provision.spec.record import Facts, Plane, Record

ROOT = Path(__file__).parents[2]
OURS = ROOT / "provision" / "pools" / "contract.schema.json"
THEIRS = ROOT / "runtime" / "holdfast" / "contract.schema.json"


def plane(**changed: Any) -> Plane:
    """A small plane with one record of each kind that the contract speaks of."""
    events = Address.root("nats", "main", "stream", "EVENTS")
    state = Address.root("nats", "main", "bucket", "STATE")
    monitor = {"deliver_policy": "last", "ack_policy": "none"}
    pool = {"role": "app", "acquire_timeout": "1.001s", **changed}
    role = {"password": {"env": "APP_PASSWORD"}, "connection_limit": 25}
    records = [
        Record(events, stream.FIELDS.parse({"subjects": ["events.>"], "max_age": "30m"})),
        Record(events.child("template", "monitor"), consumer.FIELDS.parse(monitor), events),
        Record(state, bucket.FIELDS.parse({"ttl": "30m", "history": 5})),
        Record(
            Address.root("plane", "main", "publisher", "app"),
            publisher.FIELDS.parse({"subjects": ["events.*"]}),
        ),
        Record(Address.root("plane", "main", "pool", "primary"), pools.FIELDS.parse(pool)),
        Record(Address.root("pg", "main", "role", "app"), role),
        Record(Address.root("pg", "main", "role", "idle"), {"password": {"env": "IDLE_PASSWORD"}}),
        Record(runtime.address("state_bucket"), {"value": "STATE"}),
        Record(runtime.address("lease_ttl"), {"value": 30 * 10**9}),
    ]
    return Plane(records, name="agents", env="dev")


REACH = {"postgres": {"main": {"endpoints": {"primary": {"host": "db", "port": 5432}}, "database": "plane"}}}


def test_both_distributions_carry_the_same_definition() -> None:
    assert OURS.read_bytes() == THEIRS.read_bytes()
    jsonschema.Draft202012Validator.check_schema(json.loads(OURS.read_text()))


def test_what_is_built_satisfies_the_definition() -> None:
    content = contract.build(plane(), REACH)
    jsonschema.validate(content, json.loads(OURS.read_text()))
    assert content["names"] == {"state_bucket": "STATE"}
    assert content["limits"] == {"lease_ttl": 30_000_000_000}
    assert content["pools"]["primary"]["acquire_timeout"] == 1_001_000_000
    assert content["buckets"]["STATE"]["ttl"] == 1_800_000_000_000


def test_it_says_how_to_reach_servers_and_names_the_secrets_of_pools() -> None:
    content = contract.build(plane(), REACH)
    assert content["targets"] == {"nats": {}, **REACH}
    assert content["roles"] == {"app": {"target": "main", "password": {"env": "APP_PASSWORD"}}}


@pytest.mark.parametrize("broken", [{"contract_version": "2.0"}, {"digest": "none"}, {"limits": {"lease_ttl": "30s"}}])
def test_the_definition_refuses_what_a_reader_could_not_use(broken: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**contract.build(plane()), **broken}, json.loads(OURS.read_text()))


def test_readers_accept_what_they_do_not_know_within_a_major() -> None:
    content = {**contract.build(plane()), "contract_version": "1.7", "news": {}}
    jsonschema.validate(content, json.loads(OURS.read_text()))
    assert contract.is_readable(content)
    assert not contract.is_readable({**content, "contract_version": "2.0"})
    assert not contract.is_readable({})


def test_the_declared_kinds_come_back_as_they_were() -> None:
    desired = plane()
    stored = json.loads(json.dumps(contract.build(desired)))
    live = {r.address: r for r in contract.declared_records(stored)}
    for record in desired:
        if record.address.kind in contract.DECLARED:
            assert live.pop(record.address)[:3] == record[:3]
    (own,) = live.values()
    assert own == contract.record(desired)


def test_the_digest_follows_the_declarations_not_their_order() -> None:
    one = plane()
    assert contract.digest(Plane(reversed(list(one)), name="agents", env="dev")) == contract.digest(one)
    assert contract.digest(plane(max=11)) != contract.digest(one)


class Scene:
    """What a kind may look at while it lowers."""

    def __init__(self, desired: Plane, live: Plane, *changes: Change) -> None:
        self.desired = desired
        self.live = live
        self.changes = {c.address: c for c in changes}

    def facts(self, address: Address) -> Facts:
        return Facts("plane", "main", (), {})


def test_one_write_takes_care_of_every_declared_change() -> None:
    desired = plane()
    record = contract.record(desired, {"nats": {"main": {"kind": "external"}}})
    pool = desired[Address.root("plane", "main", "pool", "primary")]
    role = desired[Address.root("pg", "main", "role", "app")]
    changes = [Change(r.address, "create", None, r) for r in (record, pool, role)]
    lowered = contract.KIND.lower(changes[0], Scene(desired, Plane([]), *changes))
    assert set(lowered.absorbs) == {record.address, pool.address}
    (draft,) = lowered.drafts
    assert draft.request == Api("$KV.HOLDFAST.contract.agents.dev", record.settings["content"])


def test_without_nats_it_is_a_row(pg_database: dict[str, Any]) -> None:
    """Run the statements on a server: the content holds quotes and backslashes."""
    name = Record(runtime.address("wake_channel"), {"value": 'it\'s \\ "this"'})
    desired = Plane([name], name="agents", env="dev")
    record = contract.record(desired)
    with psycopg.connect(**pg_database, autocommit=True) as session:
        session.execute("CREATE SCHEMA holdfast")
        session.execute(
            "CREATE TABLE holdfast.contract (plane text, env text, content jsonb, updated_at timestamptz,"
            " PRIMARY KEY (plane, env))"
        )
        for _ in range(2):
            _perform(session, Change(record.address, "create", None, record), desired)
        rows = session.execute("SELECT plane, env, content FROM holdfast.contract").fetchall()
        assert rows == [("agents", "dev", record.settings["content"])]
        _perform(session, Change(record.address, "delete", record, None), desired)
        assert session.execute("SELECT count(*) FROM holdfast.contract").fetchone() == (0,)


def _perform(session: psycopg.Connection[Any], change: Change, desired: Plane) -> None:
    (draft,) = contract.KIND.lower(change, Scene(desired, Plane([]), change)).drafts
    assert isinstance(draft.request, Sql)
    session.execute(draft.request.text.encode())


def test_the_library_says_how_to_get_the_command() -> None:
    path = {"PYTHONPATH": str(ROOT / "runtime")}
    said = subprocess.run([sys.executable, "-m", "holdfast"], capture_output=True, text=True, env=path, check=False)
    assert said.returncode == 1
    assert "holdfast[cli]" in said.stderr


def test_importing_the_library_loads_no_driver() -> None:
    code = "import sys, holdfast; sys.exit(any(m in sys.modules for m in ('nats', 'psycopg', 'provision')))"
    path = {"PYTHONPATH": str(ROOT / "runtime")}
    assert subprocess.run([sys.executable, "-c", code], env=path, check=False).returncode == 0
