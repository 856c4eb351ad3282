"""What Pulumi does to resources over time: renames, removals, replacements, and the data that outlives them."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import pytest

from tests.pulumi.stack import PROGRAM, Json, Small

ROWS = """
    INSERT INTO app.owner (name) VALUES ('ann'), ('bob');
    INSERT INTO app.item (id, owner_id) VALUES (1, 1);
    INSERT INTO app.log (id, at) VALUES (1, now())
"""


@pytest.fixture
def small(tmp_path: Path, pg_database: Json, nats_url: str) -> Small:
    """A stack of the small plane, brought up."""
    small = Small(tmp_path / "small", pg_database, nats_url)
    small.up()
    return small


def streams(small: Small) -> set[str]:
    """The streams under the plane; the bucket of contracts is ours."""
    return set(small.ask("STREAM.NAMES").get("streams") or ()) - {"KV_HOLDFAST"}


def publish(small: Small, subject: str) -> None:
    """Put one message into the stream of a subject."""
    import asyncio

    from nats.aio.client import Client

    async def send() -> None:
        client = Client()
        await client.connect(small.url)
        await client.jetstream().publish(subject, b"one")
        await client.close()

    asyncio.run(send())


# Renames ---------------------------------------------------------------------------------------------------


@pytest.mark.req("B3.1")
def test_tables_columns_and_roles_are_renamed_with_all_they_hold(small: Small) -> None:
    small.sql(ROWS)
    before = small.sql("SELECT oid FROM pg_roles WHERE rolname = 'small_app'")
    small.edit("      owner:\n        columns:", "      holder:\n        renamed_from: owner\n        columns:")
    small.edit("{type: varchar(50), nullable: false}", "{type: varchar(50), nullable: false, renamed_from: name}")
    small.edit("          name: {type", "          title: {type")
    small.edit("length(name) > 0", "length(title) > 0")
    small.edit("references: app.owner", "references: app.holder")
    small.edit("      log:\n", "      diary:\n        renamed_from: log\n")
    small.edit("  small_app: {login", "  small_user: {renamed_from: small_app, login")
    small.edit("role: small_app", "role: small_user")
    small.edit("small_app: [select, insert]", "small_user: [select, insert]")

    assert set(small.changes().values()) == {"update"}
    small.up()
    assert small.sql("SELECT id, title FROM app.holder") == [(1, "ann"), (2, "bob")]
    assert small.sql("SELECT id, owner_id FROM app.item") == [(1, 1)]
    assert small.sql("SELECT id FROM app.diary") == [(1,)]
    assert small.sql("SELECT oid FROM pg_roles WHERE rolname = 'small_user'") == before
    assert small.up().is_unchanged
    assert small.refresh("--preview-only").is_unchanged
    assert small.plan_is_empty()
    # Once everybody has it, the note may go.
    small.edit("        renamed_from: owner\n", "")
    small.edit("        renamed_from: log\n", "")
    small.edit(", renamed_from: name", "")
    small.edit("renamed_from: small_app, ", "")
    assert small.up().counts.keys() <= {"unchanged", "updated"}
    assert small.sql("SELECT oid FROM pg_roles WHERE rolname = 'small_user'") == before
    assert small.plan_is_empty()


@pytest.mark.req("B3.1")
def test_a_plane_gets_another_name_in_the_program(small: Small) -> None:
    """The component's alias covers its children; nothing is touched."""
    named = '"plane",\n    "specs",\n    "dev",\n'
    assert named in PROGRAM
    alias = 'opts=pulumi.ResourceOptions(aliases=[pulumi.Alias(name="plane")]),\n'
    small.program(PROGRAM.replace(named, f'"agents",\n    "specs",\n    "dev",\n    {alias}'))
    told = small.up("--diff")
    assert told.is_unchanged, told.out
    urns = {r["urn"].rpartition("::")[2] for r in small.resources().values()}
    assert "agents/EVENTS" in urns
    assert not [u for u in urns if u.startswith("plane/")]
    small.program(PROGRAM.replace(named, '"agents",\n    "specs",\n    "dev",\n'))
    assert small.up().is_unchanged


@pytest.mark.req("B3.1", "B1.1")
@pytest.mark.parametrize(("section", "name"), [("streams", "EVENTS"), ("buckets", "STATE")])
def test_a_stream_or_bucket_cannot_be_renamed(small: Small, section: str, name: str) -> None:
    """The server has no such request; the mistake is shown where it stands, before anything is registered."""
    node = "NEW:\n    renamed_from: EVENTS" if name == "EVENTS" else "NEW: {renamed_from: STATE, "
    small.edit("EVENTS:" if name == "EVENTS" else "STATE: {", node)
    told = small.preview(check=False)
    assert told.code != 0
    line, column = (4, 5) if section == "streams" else (10, 9)
    assert f"specs/plane.yaml:{line}:{column}: HF" in told.told, told.told
    assert "renamed_from" in told.told


# Removal ---------------------------------------------------------------------------------------------------


@pytest.mark.req("B2.3", "B3.1")
def test_destroy_keeps_the_data_and_takes_the_contract(small: Small) -> None:
    small.sql(ROWS)
    told = small.destroy()
    assert told.counts.keys() == {"deleted"}, told.out
    assert streams(small) == {"EVENTS", "KV_STATE", "OBJ_FILES"}
    assert small.ask("CONSUMER.NAMES.EVENTS")["consumers"] == ["worker"]
    assert small.sql("SELECT count(*) FROM app.owner") == [(2,)]
    assert small.sql("SELECT count(*) FROM pg_roles WHERE rolname = 'small_app'") == [(1,)]
    last = small.ask("STREAM.MSG.GET.KV_HOLDFAST", {"last_by_subj": "$KV.HOLDFAST.contract.small.dev"})["message"]
    assert b"KV-Operation: DEL" in base64.b64decode(last["hdrs"])
    # Another up finds everything in its place.
    told = small.up()
    assert "updated" not in told.counts
    assert small.sql("SELECT count(*) FROM app.owner") == [(2,)]
    assert small.plan_is_empty()


@pytest.mark.req("B2.3", "B3.1")
def test_destroy_takes_what_was_allowed_by_name(small: Small) -> None:
    small.sql(ROWS)
    publish(small, "events.one")
    consents = small.holdfast("destroy", "--yes", check=False)
    assert consents.code == 3
    # A role takes no data with it, so nothing asks for a consent; yet it goes only where it is named.
    small.allow(*dict.fromkeys(re.findall(r"--allow (\S+)", consents.told)), "delete:pg:main/role/small_app")
    told = small.up()
    assert set(told.counts) == {"updated", "unchanged"}  # the provider learns of the consents
    small.destroy()
    assert streams(small) == set()
    assert small.sql("SELECT count(*) FROM pg_namespace WHERE nspname = 'app'") == [(0,)]
    assert small.sql("SELECT count(*) FROM pg_roles WHERE rolname = 'small_app'") == [(0,)]
    assert small.sql("SELECT address FROM holdfast.objects") == []


@pytest.mark.req("B2.3")
def test_one_consent_removes_one_object(small: Small) -> None:
    """With --run-program a destroy knows of consents that no up has seen."""
    small.sql(ROWS)
    small.allow("data_loss:nats:main/bucket/STATE")
    small.up()
    small.destroy()
    assert streams(small) == {"EVENTS", "OBJ_FILES"}
    assert small.sql("SELECT count(*) FROM app.owner") == [(2,)]


@pytest.mark.req("B2.3")
def test_what_was_adopted_needs_a_consent_of_its_own(small: Small) -> None:
    """The objects lived before the stack: their ledger is emptied, then the same specs are brought up anew."""
    small.destroy()
    small.sql("DELETE FROM holdfast.objects")
    small.allow("data_loss:nats:main/stream/EVENTS", "data_loss:nats:main/bucket/STATE")
    small.up()
    owned = dict(small.sql("SELECT address, origin FROM holdfast.objects"))
    assert owned["nats:main/stream/EVENTS"] == "adopted"
    told = small.destroy(check=False)
    assert told.code != 0
    command = r"Allow it with: pulumi config set --path 'holdfast:allow\[[23]\]' delete:nats:main/stream/EVENTS$"
    assert re.search(command, told.told, re.MULTILINE), told.told
    assert streams(small) >= {"EVENTS", "KV_STATE"}
    small.allow(
        "data_loss:nats:main/stream/EVENTS", "delete:nats:main/stream/EVENTS",
        "data_loss:nats:main/bucket/STATE", "delete:nats:main/bucket/STATE",
        "delete:nats:main/stream/EVENTS/consumer/worker",
    )  # fmt: skip
    small.destroy("--run-program")
    assert streams(small) == {"OBJ_FILES"}


@pytest.mark.req("B2.3", "B3.1")
def test_a_stream_that_left_the_specs_stays_until_it_is_allowed_to_go(small: Small) -> None:
    """Two steps: allow it while it is declared, then take it out."""
    small.edit(
        "streams:\n",
        "streams:\n  LATER: {subjects: [later.>], max_age: 1h}\n  LAST: {subjects: [last.>], max_age: 1h}\n",
    )
    small.up()
    small.edit("  LATER: {subjects: [later.>], max_age: 1h}\n", "")
    told = small.up()
    assert told.counts["deleted"] == 1
    assert "[retain]" in told.out
    assert "LATER" in streams(small)

    small.allow("data_loss:nats:main/stream/LAST")
    small.up()
    assert "LAST" in streams(small)
    small.edit("  LAST: {subjects: [last.>], max_age: 1h}\n", "")
    small.up()
    assert "LAST" not in streams(small)
    assert small.up().is_unchanged


# Replacement -----------------------------------------------------------------------------------------------

TYPED = """\
import sys

import pulumi
from provision.pulumi import resources as holdfast

sys.excepthook = lambda kind, error, trace: kind is KeyboardInterrupt or sys.__excepthook__(kind, error, trace)
config = pulumi.Config()
holdfast.Stream(
    "events", name=config.require("name"), subjects=["events.>"], storage=config.require("storage"), max_age="1h",
    target=config.get("target"),
    opts=pulumi.ResourceOptions(retain_on_delete=config.get_bool("keep")),
)
"""


@pytest.fixture
def typed(tmp_path: Path, pg_database: Json, nats_url: str) -> Small:
    """A stack of one stream, up; its provider is made of the stack's configuration."""
    stack = Small(tmp_path / "typed", pg_database, nats_url)
    stack.program(TYPED)
    targets = json.loads((stack.specs / "environments" / "dev.yaml").read_text())["targets"]
    settings = {"holdfast:plane": "small", "holdfast:env": "dev", "holdfast:targets": json.dumps(targets)}
    for name, value in {**settings, "name": "EVENTS", "storage": "file"}.items():
        stack.run("config", "set", name, value)
    stack.up()
    return stack


@pytest.mark.req("B3.1")
def test_another_name_is_another_stream(typed: Small) -> None:
    """The old one goes first, since both want the same subjects: with a consent, and never unasked."""
    publish(typed, "events.one")
    typed.run("config", "set", "target", "main")  # the default: no other stream
    assert typed.up().is_unchanged
    typed.run("config", "set", "name", "RECORDS")
    step = typed.steps()["events"]
    assert step["op"] in ("replace", "create-replacement", "delete-replaced"), step
    told = typed.up(check=False)
    assert told.code != 0
    assert "holdfast:allow[0]' data_loss:nats:main/stream/EVENTS" in told.told, told.told
    assert streams(typed) == {"EVENTS"}
    typed.allow("data_loss:nats:main/stream/EVENTS")
    told = typed.up()
    assert told.out.index("deleting") < told.out.index("creating"), told.out
    assert streams(typed) == {"RECORDS"}
    assert typed.up().is_unchanged


@pytest.mark.req("B3.1", "B2.1")
def test_another_storage_is_an_update_with_a_consent(typed: Small) -> None:
    """The server cannot change it in place; the provider makes the stream anew, Pulumi replaces nothing."""
    publish(typed, "events.one")
    typed.run("config", "set", "storage", "memory")
    told = typed.preview(check=False)
    assert told.code != 0
    assert "data_loss:nats:main/stream/EVENTS" in told.told, told.told
    typed.allow("data_loss:nats:main/stream/EVENTS")
    step = typed.steps()["events"]
    assert (step["op"], list(step["detailedDiff"])) == ("update", ["storage"])
    typed.up()
    assert typed.ask("STREAM.INFO.EVENTS")["config"]["storage"] == "memory"
    assert typed.up().is_unchanged
