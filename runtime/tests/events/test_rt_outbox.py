"""Writing events: in the transaction of the data, and nothing that could not be published."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import Any
from uuid import uuid4

import pytest

from holdfast.errors import CodecError, ConfigurationError
from holdfast.events.outbox import Event, Outbox, check_subject, covers, encode


@pytest.mark.parametrize("payload", [{"a": float("nan")}, {"a": object()}, {"a": "\x00"}, {"a": "\ud800"}])
def test_what_json_does_not_hold_is_refused(payload: Any) -> None:
    with pytest.raises(CodecError):
        encode(payload)


def test_a_backslash_before_u0000_is_no_nul() -> None:
    assert encode({"a": "\\u0000"}) == '{"a":"\\\\u0000"}'


@pytest.mark.parametrize("subject", ["", "a..b", "a b.c", "a.*", "a.>", ".a", "a.", "$JS.API.x", "a\n.b"])
def test_subjects_that_nobody_can_publish_to_are_refused(subject: str) -> None:
    with pytest.raises(ConfigurationError):
        check_subject(subject)


@pytest.mark.parametrize(
    ("pattern", "subject", "expected"),
    [
        ("a.>", "a.b", True),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", False),
        ("a.*.c", "a.b.c", True),
        ("a.b", "a.b", True),
        ("a.b", "a.c", False),
        ("a.b.c", "a.b", False),
    ],
)
def test_subjects_under_wildcards(pattern: str, subject: str, expected: bool) -> None:
    assert covers(pattern, subject) is expected


@pytest.mark.req("E1.4", "E1.9")
def test_an_event_commits_and_rolls_back_with_its_data(open_plane: Any) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            outbox, agent = Outbox(plane.contract), str(uuid4())

            async def failing() -> None:
                async with plane.pools.primary.connection() as connection, connection.transaction():
                    await outbox.add(connection, f"agents.state.{agent}", {"n": 1})
                    raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                await failing()
            assert await plane.execute("SELECT 1 FROM runtime.outbox") == []
            correlation = uuid4()
            async with plane.pools.primary.connection() as connection, connection.transaction():
                given = await outbox.add(connection, f"agents.state.{agent}", {"n": 2}, correlation_id=correlation)
            rows = await plane.execute("SELECT outbox_id, payload, headers FROM runtime.outbox")
            assert rows == [(given, {"n": 2}, {"Holdfast-Correlation-Id": str(correlation)})]

    asyncio.run(main())


def test_nothing_here_loads_a_driver_before_it_is_used() -> None:
    modules = "events.inbox, events.outbox, events.relay, events.triggers, work.coordinator, work.recoverer, work.saga"
    imports = "; ".join(f"import holdfast.{name.strip()}" for name in [*modules.split(","), "work.two_phase"])
    check = "import sys; assert not {'nats', 'psycopg'} & set(sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", f"{imports}; {check}"], check=True, env=environment)


def test_an_event_outside_a_transaction_is_refused(open_plane: Any) -> None:
    async def main() -> None:
        async with open_plane() as plane, plane.pools.primary.connection() as connection:
            with pytest.raises(ConfigurationError, match="none is open"):
                await Outbox(plane.contract).add(connection, f"agents.state.{uuid4()}", {})

    asyncio.run(main())


@pytest.mark.req("E1.3")
def test_an_event_of_a_megabyte_is_refused_before_it_is_written_and_one_of_8000_bytes_is_not(open_plane: Any) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            outbox, subject = Outbox(plane.contract), f"agents.state.{uuid4()}"
            async with plane.pools.primary.connection() as connection, connection.transaction():
                with pytest.raises(CodecError, match="larger than a message of stream AGENT_STATE"):
                    await outbox.add(connection, subject, "x" * 2**20)
                await outbox.add(connection, subject, "x" * 9000)
            assert len(await plane.execute("SELECT 1 FROM runtime.outbox")) == 1

    asyncio.run(main())


def test_a_subject_without_a_stream_and_a_header_of_the_server_are_refused(open_plane: Any) -> None:
    async def main() -> None:
        async with open_plane() as plane, plane.pools.primary.connection() as connection:
            outbox = Outbox(plane.contract)
            async with connection.transaction():
                with pytest.raises(ConfigurationError, match="no stream"):
                    await outbox.add(connection, "elsewhere.a", {})
                for headers in ({"Nats-Msg-Id": "x"}, {"A": "b\r\nc"}, {"A b": "c"}):
                    with pytest.raises(ConfigurationError):
                        await outbox.add(connection, f"agents.state.{uuid4()}", {}, headers=headers)

    asyncio.run(main())


def test_many_events_keep_their_order(open_plane: Any) -> None:
    async def main() -> None:
        async with open_plane() as plane:
            events = [Event(f"agents.state.{uuid4()}", {"n": n}) for n in range(500)]
            async with plane.pools.primary.connection() as connection, connection.transaction():
                ids = await Outbox(plane.contract).add_many(connection, events)
            rows = await plane.execute("SELECT outbox_id FROM runtime.outbox ORDER BY position")
            assert [row[0] for row in rows] == ids

    asyncio.run(main())
