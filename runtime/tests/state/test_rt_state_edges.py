"""Handles used as they should not be, values and names that do not fit, and what must be told of both."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

import holdfast
from holdfast.errors import CodecError, Fenced, LeaseHeld, Unsupported
from holdfast.state.edits import Edit

if TYPE_CHECKING:
    from state.conftest import Database


@dataclass
class Pair:
    left: int = 0
    right: int = 0


@pytest.mark.req("D1.4")
def test_a_handle_that_is_opened_again_reads_what_others_wrote_meanwhile(environ: Mapping[str, str]) -> None:
    agent_id = uuid4()

    async def main() -> None:
        async with holdfast.connect(environ) as plane:
            mine, other = plane.agent(agent_id, Pair), plane.agent(agent_id)
            async with mine, mine.edit() as pair:
                pair.left = 1
            async with other:
                await other.put("left", 2)
                await other.delete("right")
            async with mine:
                assert await mine.get("left") == 2
                assert await mine.items() == {"left": 2}
                async with mine.edit() as pair:
                    assert pair == Pair(2, 0)

    asyncio.run(main())


@pytest.mark.req("D1.4")
def test_who_is_cancelled_while_opening_keeps_no_lease(environ: Mapping[str, str]) -> None:
    async def main() -> None:
        async with holdfast.connect(environ) as plane, holdfast.connect(environ) as elsewhere:
            for number in range(30):
                agent_id = uuid4()
                opening = asyncio.ensure_future(plane.agent(agent_id).__aenter__())
                await asyncio.sleep(0.0005 * number)
                opening.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await (await opening).close()
                async with elsewhere.agent(agent_id) as agent:
                    await agent.put("k", 1)

    asyncio.run(main())


@pytest.mark.req("D1.4")
def test_a_handle_says_why_it_cannot_be_used(environ: Mapping[str, str]) -> None:
    found: list[str] = []

    async def main() -> None:
        async with holdfast.connect(environ) as plane:
            agent = plane.agent(uuid4())
            with pytest.raises(Unsupported, match="not open"):
                await agent.put("k", 1)
            async with agent:
                await agent.put("k", 1)
                with pytest.raises(LeaseHeld):
                    await agent.__aenter__()
                elsewhere = threading.Thread(target=lambda: found.append(asyncio.run(put_elsewhere(agent))))
                elsewhere.start()
                await asyncio.to_thread(elsewhere.join)
                await agent.put("k", 2)
            for attempt in (agent.get("k"), agent.items(), agent.put("k", 3), agent.checkpoint()):
                with pytest.raises(Fenced, match=r"closed|released"):
                    await attempt

    asyncio.run(main())
    assert "another event loop" in found[0]


async def put_elsewhere(agent: holdfast.AgentState[Any]) -> str:
    try:
        await agent.put("k", 9)
    except Unsupported as error:
        return str(error)
    return "it was taken"


def test_names_and_options_that_do_not_fit_are_refused_before_anything_is_sent(environ: Mapping[str, str]) -> None:
    async def main() -> None:
        async with holdfast.connect(environ) as plane:
            wrong: list[dict[str, Any]] = [{"name": "x" * 256}, {"name": ""}, {"name": "\ud800"}, {"type": "x" * 51}]
            for names in wrong:
                with pytest.raises(CodecError, match="an agent's"):
                    plane.agent(uuid4(), **names)
            async with plane.agent(uuid4()) as agent:
                key: Any
                for key in (5, None, b"k"):
                    with pytest.raises(CodecError, match="state key"):
                        await agent.put(key, 1)
                for line in ("a\r\nNats-TTL: 1s", "", "x" * 256):
                    with pytest.raises(CodecError, match="correlation"):
                        await agent.put("k", 1, correlation_id=line)
                unknown: Any = "disk"
                with pytest.raises(Unsupported, match="disk"):
                    await agent.put("k", 1, ack=unknown)
                for name in ("", "x" * 256, "\ud800", "a\0"):
                    with pytest.raises(CodecError, match="checkpoint"):
                        await agent.checkpoint(name)
                    with pytest.raises(CodecError, match="checkpoint"):
                        await agent.restore(name)
                assert await agent.items() == {}

    asyncio.run(main())


@pytest.mark.req("D2.6")
def test_what_cannot_be_read_is_named_and_can_be_taken_away(environ: Mapping[str, str]) -> None:
    async def main() -> None:
        async with holdfast.connect(environ) as plane, plane.agent(uuid4(), Pair) as agent:
            await agent.put("good", 1)
            await agent.lease.writer.write(f"{agent.agent_id}.state.bad", b"no json")
            for attempt in (agent.items(), agent.get("bad"), agent.checkpoint("c"), agent.edit().__aenter__()):
                with pytest.raises(CodecError, match="bad"):
                    await attempt
            assert await agent.get("good") == 1
            await agent.delete("bad", ack="sql")
            assert await agent.items() == {"good": 1}

    asyncio.run(main())


@pytest.mark.req("D1.3", "D2.4")
def test_who_only_reads_sees_an_edit_whole_from_its_record_on(environ: Mapping[str, str]) -> None:
    """Its owner may have died before it wrote the keys."""

    async def main() -> None:
        async with holdfast.connect(environ, background=False) as plane, plane.agent(uuid4(), Pair) as agent:
            async with agent.edit() as pair:
                pair.left = pair.right = 1
            record = Edit({"left": b"2", "right": None}).encode()
            await agent.lease.writer.write(f"{agent.agent_id}.state.holdfast.edit", record)
            async with plane.agent(agent.agent_id, owned=False) as reader:
                assert await reader.get("left") == 2
                assert await reader.get("right", "none") == "none"
                assert await reader.items() == {"left": 2}

    asyncio.run(main())


def test_keys_that_come_and_go_do_not_pile_up_in_memory(environ: Mapping[str, str]) -> None:
    async def main() -> None:
        async with holdfast.connect(environ) as plane, plane.agent(uuid4()) as agent:
            await agent.put("stays", 1)
            await agent.items()
            for number in range(20):
                await agent.put(f"k{number}", number)
                await agent.delete(f"k{number}")
            assert set(agent.heads()) == {"stays"}
            assert await agent.get("k3", None) is None
            assert await agent.items() == {"stays": 1}

    asyncio.run(main())


@pytest.mark.req("D11.1", "D11.2", "D11.3", "E1.6")
def test_checkpoints_restores_and_forks_are_told_of(environ: Mapping[str, str], database: Database) -> None:
    agent_id, new_id = uuid4(), uuid4()
    found: list[Any] = []

    async def main() -> None:
        async with holdfast.connect(environ, events=True) as plane, plane.agent(agent_id) as agent:
            subscription = await plane.nc.subscribe("agents.lifecycle.>")
            await agent.put("k", 1)
            kept = await agent.checkpoint("one")
            assert (await agent.restore(str(kept.checkpoint_id))) == kept
            await agent.fork(new_id)
            while len(found) < 3:
                message = await subscription.next_msg(timeout=10)
                found.append(json.loads(message.data))

    asyncio.run(main())
    told = [(event["agent_id"], event["event_type"]) for event in found]
    assert told == [(str(agent_id), "checkpointed"), (str(agent_id), "rolled_back"), (str(new_id), "forked")]
    assert found[0]["event_data"]["checkpoint_name"] == "one"
    assert found[2]["event_data"]["from_agent_id"] == str(agent_id)
    rows = database.query(
        "SELECT event_id::text, event_type FROM agents.lifecycle_events WHERE agent_id IN (%s, %s)", agent_id, new_id
    )
    assert {(event["event_id"], event["event_type"]) for event in found} == set(rows)
    assert database.query("SELECT parent_agent_id FROM agents.registry WHERE agent_id = %s", new_id) == [(agent_id,)]


@pytest.mark.req("D11.3")
def test_a_restore_of_more_than_nats_takes_at_once_is_refused_as_a_whole(environ: Mapping[str, str]) -> None:
    async def main() -> None:
        async with holdfast.connect(environ) as plane, plane.agent(uuid4()) as agent:
            size = plane.nc.max_payload // 3
            for key in "abcd":
                await agent.put(key, key * size)
            await agent.checkpoint("large")
            for key in "abcd":
                await agent.put(key, 0)
            with pytest.raises(CodecError, match=r"the restore changes .* raise its max_payload"):
                await agent.restore("large")
            assert await agent.items() == dict.fromkeys("abcd", 0)

    asyncio.run(main())


@pytest.mark.req("E1.1", "E1.5")
def test_a_value_that_is_written_again_unchanged_is_no_event(environ: Mapping[str, str]) -> None:
    async def main() -> list[Any]:
        async with holdfast.connect(environ, events=True) as plane, plane.agent(uuid4()) as agent:
            subscription = await plane.nc.subscribe(f"agents.state.{agent.agent_id}")
            for value in (1, 1, 2):
                await agent.put("k", value, ack="sql")
            return [json.loads((await subscription.next_msg(timeout=10)).data)["new_value"] for _ in range(2)]

    assert asyncio.run(main()) == [1, 2]


@pytest.mark.req("D1.5", "D2.3")
def test_of_an_edit_only_the_key_is_parked_that_the_database_refuses_until_it_is_written_again(
    environ: Mapping[str, str], database: Database
) -> None:
    """Somebody has added a constraint."""
    told = "SELECT event_data ->> 'state_key', event_data ->> 'code' FROM agents.lifecycle_events WHERE agent_id = %s"
    once = [("right", "CONSTRAINT_VIOLATION")]

    async def main() -> None:
        async with holdfast.connect(environ) as plane, plane.agent(uuid4(), Pair) as agent:
            check = f"agent_id <> '{agent.agent_id}' OR state_key <> 'right' OR state_value <> '-1'"
            database.query(f"ALTER TABLE agents.state ADD CONSTRAINT edges CHECK ({check}) NOT VALID")
            async with agent.edit() as pair:
                pair.left, pair.right = 1, -1
            async with asyncio.timeout(10):
                while not database.query(told, agent.agent_id):
                    await asyncio.sleep(0.05)
            await agent.put("other", 2, ack="sql")
            assert database.values(agent.agent_id) == {"left": 1, "other": 2}
            parked = (await plane.consistency()).parked
            assert [(each.agent_id, each.state_key) for each in parked] == [(agent.agent_id, "right")]
            await plane.monitor.repair(agent.agent_id)
            assert database.query(told, agent.agent_id) == once, "it is told of once"
            await agent.put("right", 0, ack="sql")
            assert (await plane.consistency()).parked == ()
            assert database.values(agent.agent_id) == {"left": 1, "other": 2, "right": 0}

    try:
        asyncio.run(main())
    finally:
        database.query("ALTER TABLE agents.state DROP CONSTRAINT IF EXISTS edges")


@pytest.mark.req("D1.5")
def test_a_message_that_is_not_ours_is_told_of_until_it_is_taken_out_of_the_journal(environ: Mapping[str, str]) -> None:
    subject = f"$KV.AGENT_STATE.{uuid4()}.state.=ZZ"

    async def main() -> None:
        async with holdfast.connect(environ) as plane:
            await plane.nc.jetstream().publish(subject, b"1")
            async with asyncio.timeout(10):
                while not (parked := (await plane.consistency()).parked):
                    await asyncio.sleep(0.05)
            assert [(each.agent_id, each.state_key) for each in parked] == [(None, subject)]
            journal = plane.contract.names.flush_stream
            await plane.nc.jetstream().delete_msg(journal, parked[0].position.revision)
            async with asyncio.timeout(20):
                while (await plane.consistency()).parked:
                    await asyncio.sleep(0.1)

    asyncio.run(main())
