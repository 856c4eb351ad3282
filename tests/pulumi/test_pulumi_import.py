"""``pulumi import`` and ``import_``: objects that live already come into a stack, and their program agrees."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import ROOT, files, lines
from tests.docs.test_pages_run import shell
from tests.pulumi.stack import Json, Small

TYPED = """\
import sys

import pulumi
from provision.pulumi import resources as holdfast

sys.excepthook = lambda kind, error, trace: kind is KeyboardInterrupt or sys.__excepthook__(kind, error, trace)
imported = pulumi.Config().get_object("imported") or {}


def option(id):
    return pulumi.ResourceOptions(import_=id if id in imported else None)


holdfast.Stream(
    "events", option("nats:main/stream/EVENTS"),
    name="EVENTS", subjects=["events.>"], max_age="1h", max_bytes="1MiB", description="by hand",
)
holdfast.Consumer(
    "worker", option("nats:main/stream/EVENTS/consumer/worker"),
    name="worker", stream="EVENTS", ack_policy="explicit", ack_wait="30s", max_deliver=3, dead_letter="none",
)
holdfast.KeyValueBucket(
    "state", option("nats:main/bucket/STATE"), name="STATE", ttl="30m", history=5, max_bytes="1MiB",
)
holdfast.Role("reader", option("pg:main/role/small_reader"), name="small_reader", connection_limit=3)
holdfast.PostgresDatabase(
    "database", option("pg:main"),
    schemas={"app": {
        "enums": {"mood": ["calm", "busy"]},
        "tables": {
            "owner": {
                "columns": {
                    "id": {"type": "bigint", "nullable": False, "identity": "always"},
                    "name": {"type": "varchar(50)", "nullable": False, "default": "'nobody'"},
                    "mood": {"type": "app.mood"},
                },
                "primary_key": ["id"],
                "checks": {"owner_name": "length(name) > 0"},
                "indexes": {"owner_calm": {"columns": ["name"], "where": "mood = 'calm'"}},
            },
            "log": {
                "columns": {
                    "id": {"type": "bigint", "nullable": False},
                    "at": {"type": "timestamptz", "nullable": False},
                },
                "primary_key": ["id", "at"],
                "partitions": {"by": "range", "key": ["at"]},
            },
        },
        "views": {"names": {"query": "SELECT name FROM app.owner"}},
    }},
)
holdfast.PartitionSet(
    "days", option("pg:main/app/log/partitions/set"), schema="app", table="log", every="1 day", premake=2,
)
"""

#: By type and name in the program: the ids.
HAND_MADE = {
    ("Stream", "events"): "nats:main/stream/EVENTS",
    ("Consumer", "worker"): "nats:main/stream/EVENTS/consumer/worker",
    ("KeyValueBucket", "state"): "nats:main/bucket/STATE",
    ("Role", "reader"): "pg:main/role/small_reader",
    ("PostgresDatabase", "database"): "pg:main",
    ("PartitionSet", "days"): "pg:main/app/log/partitions/set",
}


@pytest.fixture
def small(tmp_path: Path, pg_database: Json, nats_url: str) -> Small:
    """A stack of the small plane that nobody has brought up yet."""
    return Small(tmp_path / "small", pg_database, nats_url)


def typed(small: Small) -> None:
    """A program of single resources; their provider is told of plane and targets by the stack's configuration."""
    small.program(TYPED)
    found = json.loads((small.specs / "environments" / "dev.yaml").read_text())["targets"]
    small.run("config", "set", "holdfast:plane", "small")
    small.run("config", "set", "holdfast:env", "dev")
    small.run("config", "set", "holdfast:targets", json.dumps(found))


def by_hand(small: Small) -> None:
    """Make the objects of the program with the servers' own means."""
    stream: Json = {"storage": "file", "retention": "limits", "discard": "old", "num_replicas": 1}
    small.ask(
        "STREAM.CREATE.EVENTS",
        {**stream, "name": "EVENTS", "subjects": ["events.>"], "max_age": 3_600_000_000_000, "max_bytes": 1 << 20,
         "description": "by hand"},
    )  # fmt: skip
    consumer = {"durable_name": "worker", "ack_policy": "explicit", "ack_wait": 30_000_000_000, "max_deliver": 3}
    small.ask("CONSUMER.DURABLE.CREATE.EVENTS.worker", {"stream_name": "EVENTS", "config": consumer})
    small.ask(
        "STREAM.CREATE.KV_STATE",
        {**stream, "name": "KV_STATE", "subjects": ["$KV.STATE.>"], "max_age": 1_800_000_000_000,
         "max_bytes": 1 << 20, "max_msgs_per_subject": 5, "discard": "new", "allow_rollup_hdrs": True,
         "deny_delete": True, "allow_direct": True},
    )  # fmt: skip
    small.sql("""
        CREATE ROLE small_reader CONNECTION LIMIT 3;
        CREATE SCHEMA app;
        CREATE TYPE app.mood AS ENUM ('calm', 'busy');
        CREATE TABLE app.owner (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            name character varying(50) DEFAULT 'nobody' NOT NULL,
            mood app.mood,
            CONSTRAINT owner_name CHECK ((char_length(name) > 0) IS NOT NULL OR true)
        );
        ALTER TABLE app.owner DROP CONSTRAINT owner_name, ADD CONSTRAINT owner_name CHECK (length(name::text) > 0);
        CREATE INDEX owner_calm ON app.owner (name) WHERE mood = 'calm'::app.mood;
        CREATE VIEW app.names AS SELECT owner.name FROM app.owner;
        CREATE TABLE app.log (
            id bigint NOT NULL, at timestamptz NOT NULL, PRIMARY KEY (id, at)
        ) PARTITION BY RANGE (at);
        SET timezone TO 'UTC';
        DO $$ BEGIN FOR day IN 0..2 LOOP
            EXECUTE format('CREATE TABLE app.log_%s PARTITION OF app.log FOR VALUES FROM (%L) TO (%L)',
                to_char(current_date + day, 'YYYY_MM_DD'), current_date + day, current_date + day + 1);
        END LOOP; END $$;
        INSERT INTO app.owner (name) VALUES ('ann'), ('bob');
    """)


def run_page(small: Small, *headings: str) -> str:
    """Do what sections of the page say; what the commands printed."""
    page = (ROOT / "docs" / "how-to" / "pulumi-import.md").read_text()
    told = ""
    for heading in headings:
        section = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
        for path, text in files(section, "python"):
            (small.root / path).write_text(text)
        for line in lines(section):
            done = shell(line.text, small.root, small.environment(PULUMI_SKIP_CONFIRMATIONS="true"))
            assert done.returncode == line.code, f"$ {line.text}\n{done.stdout}{done.stderr}"
            told += done.stdout
    return told


def stored(small: Small) -> Any:
    """The contract as the bucket holds it."""
    found = small.ask("STREAM.MSG.GET.KV_HOLDFAST", {"last_by_subj": "$KV.HOLDFAST.contract.small.dev"})
    return json.loads(base64.b64decode(found["message"]["data"]))


@pytest.mark.req("B3.1", "B2.3")
def test_a_plane_that_the_command_line_made_is_imported_as_the_page_says(small: Small) -> None:
    """The program of the plane then has nothing to change, and the contract says what it said."""
    small.holdfast("apply", "--yes")
    small.sql("DELETE FROM holdfast.objects")
    before = stored(small)
    told = run_page(small, "A whole plane")
    assert re.search(r"= 8 imported(?s:.*)\+ 2 created\n +10 unchanged", told), told
    assert small.up().is_unchanged
    assert small.refresh("--preview-only").is_unchanged
    assert stored(small) == before
    assert before["roles"]["small_app"]["password"] == {"env": "SMALL_PASSWORD"}
    plan = small.holdfast("plan", "--format", "json").json()
    assert (plan["steps"], plan["drift"]) == ([], [])

    # What was imported may be changed without a further consent, and is then known as adopted.
    small.edit("max_age: 1h", "max_age: 2h")
    small.edit("varchar(50)", "varchar(60)")
    assert small.changes() == {"plane/EVENTS": "update", "plane/main": "update", "plane/small": "update"}
    small.up()
    assert small.ask("STREAM.INFO.EVENTS")["config"]["max_age"] == 7_200_000_000_000
    owned = dict(small.sql("SELECT address, origin FROM holdfast.objects"))
    assert owned["nats:main/stream/EVENTS"] == "adopted"
    assert owned["pg:main/app/owner"] == "adopted"
    small.ask("STREAM.CREATE.LATER", {"name": "LATER", "subjects": ["later.>"], "max_age": 3_600_000_000_000})
    small.edit("streams:\n", "streams:\n  LATER: {subjects: [later.>], max_age: 2h}\n")
    told = run_page(small, "One object of a plane")
    assert re.search(r"= 1 imported(?s:.*)~ max_age: \"1h\" => \"2h\"(?s:.*)~ 2 updated", told), told
    assert small.up().is_unchanged
    small.holdfast("apply", "--yes")
    assert small.plan_is_empty()


@pytest.mark.req("B3.1")
def test_objects_made_by_hand_are_imported_one_by_one(small: Small) -> None:
    """One command for each; a program that declares them in its own words has nothing to change."""
    by_hand(small)
    typed(small)
    for (type, name), id in HAND_MADE.items():
        small.import_(type, name, id, "--skip-preview", "--generate-code=false", "--protect=false")
    assert small.preview("--diff").is_unchanged, small.preview("--diff").out
    small.up()
    assert small.refresh("--preview-only").is_unchanged
    assert small.up().is_unchanged
    assert small.sql("SELECT count(*) FROM app.owner") == [(2,)]


@pytest.mark.req("B3.1")
def test_the_import_option_brings_the_same_objects_in(small: Small) -> None:
    by_hand(small)
    typed(small)
    small.run("config", "set", "imported", json.dumps(list(HAND_MADE.values())))
    told = small.up()
    assert told.counts["imported"] == len(HAND_MADE), told.out
    small.run("config", "rm", "imported")
    assert small.up().is_unchanged
    assert small.sql("SELECT count(*) FROM app.owner") == [(2,)]


@pytest.mark.req("B3.1")
def test_what_differs_from_the_program_is_named_and_changed(small: Small) -> None:
    """An imported object needs no consent to be adopted: naming it was one."""
    by_hand(small)
    small.ask(
        "STREAM.UPDATE.EVENTS",
        {"name": "EVENTS", "subjects": ["events.>"], "max_age": 3_600_000_000_000, "max_bytes": 1 << 19,
         "description": "by hand", "storage": "file", "retention": "limits", "num_replicas": 1},
    )  # fmt: skip
    small.sql("ALTER TABLE app.owner ALTER COLUMN mood SET DEFAULT 'busy'")
    typed(small)
    for (type, name), id in HAND_MADE.items():
        small.import_(type, name, id, "--skip-preview", "--generate-code=false", "--protect=false")
    steps = small.steps()
    assert {name: sorted(step["detailedDiff"]) for name, step in steps.items()} == {
        "events": ["max_bytes"],
        "database": ["schemas.app.tables.owner.columns.mood.default"],
    }
    small.up()
    assert small.ask("STREAM.INFO.EVENTS")["config"]["max_bytes"] == 1 << 20
    assert small.up().is_unchanged


@pytest.mark.req("B3.1")
def test_what_cannot_be_imported_is_refused_in_one_line(small: Small) -> None:
    typed(small)
    refused = [
        ("Stream", "nats:main/stream/NONE", "resource 'nats:main/stream/NONE' does not exist"),
        ("Stream", "EVENTS", "EVENTS is not the id of a Stream. Its id is its address: nats:main/stream/NAME"),
        ("Role", "pg:main/role/nobody", "resource 'pg:main/role/nobody' does not exist"),
        ("Pool", "plane:main/pool/main", "a pool is written into the contract, not imported"),
        ("Contract", "plane:main/contract", "a contract is written into its bucket, not imported"),
    ]
    for type, id, reason in refused:
        told = small.import_(type, "one", id, "--skip-preview", "--generate-code=false", check=False)
        assert told.code != 0
        assert reason in told.told


@pytest.mark.req("B3.1")
def test_an_object_that_specs_newly_name_is_taken_over_by_up(small: Small) -> None:
    """No import is needed for what equals its declaration; what differs asks for a consent to be adopted."""
    small.up()
    small.ask("STREAM.CREATE.LATER", {"name": "LATER", "subjects": ["later.>"], "max_age": 60_000_000_000})
    small.edit("streams:\n", "streams:\n  LATER: {subjects: [later.>], max_age: 2m}\n")
    told = small.up(check=False)
    assert told.code != 0
    assert "pulumi config set --path 'holdfast:allow[0]' adopt:nats:main/stream/LATER" in told.told, told.told
    small.allow("adopt:nats:main/stream/LATER")
    small.up()
    assert small.ask("STREAM.INFO.LATER")["config"]["max_age"] == 120_000_000_000
    assert small.up().is_unchanged
    assert small.plan_is_empty()
