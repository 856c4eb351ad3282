"""What a beginner does wrong is one clear error of ours, soon, with a remedy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

import pytest

import holdfast
from holdfast import sync
from holdfast.errors import (
    CodecError,
    ConfigurationError,
    ConnectionFailed,
    ContractMismatch,
    HoldfastError,
    LeaseHeld,
)


class Odd:
    """Neither enum nor record."""


@dataclass
class Holder:
    odd: Odd = field(default_factory=Odd)


@dataclass
class Demanding:
    town: str


async def _enter(environ: Mapping[str, str], **options: Any) -> None:
    async with holdfast.connect(environ, **options):
        pass


def _refused(environ: Mapping[str, str], within_s: float, **options: Any) -> holdfast.HoldfastError:
    started = time.monotonic()
    with pytest.raises(holdfast.HoldfastError) as caught:
        asyncio.run(_enter(environ, **options))
    assert time.monotonic() - started < within_s
    return caught.value


@pytest.mark.req("D1.1", "D9.1")
def test_without_a_plane_no_server_is_asked() -> None:
    error = _refused({"NATS_SERVERS": "nats://127.0.0.1:9"}, 5)
    assert isinstance(error, ConfigurationError)
    assert 'eval "$(holdfast dev env)"' in str(error)


@pytest.mark.req("D1.1", "D9.1")
def test_a_server_that_is_not_there_is_told_within_its_time(contract_text: str) -> None:
    contract = holdfast.Contract.parse(contract_text)
    contract = replace(contract, limits=replace(contract.limits, jetstream_connect_timeout=0.5))
    # Port 9 discards by convention; nobody listens there on loopback.
    error = _refused({"NATS_SERVERS": "nats://127.0.0.1:9"}, 8, contract=contract)
    assert isinstance(error, ConnectionFailed)
    assert "check NATS_SERVERS" in str(error)
    assert error.retryable


@pytest.mark.req("D9.1")
def test_an_address_that_is_none_is_told_at_once() -> None:
    error = _refused({"HOLDFAST_PLANE": "agents", "NATS_SERVERS": "nats://127.0.0.1:no"}, 8)
    assert isinstance(error, ConfigurationError)
    assert "nats://host:port" in str(error)


@pytest.mark.req("D1.1", "D1.4")
def test_what_is_wrong_with_a_model_or_an_owner_is_said_with_its_remedy(environ: Mapping[str, str]) -> None:
    async def main() -> None:
        agent_id = uuid4()
        async with holdfast.connect(environ) as plane, plane.agent(agent_id, Holder) as agent:
            with pytest.raises(CodecError, match=r"type Odd are not known.*connect\(types=\.\.\.\)"):
                async with agent.edit():
                    pass
            with pytest.raises(LeaseHeld, match=r"wait_s.*owned=False"):
                async with plane.agent(agent_id):
                    pass
            async with plane.agent(uuid4(), Demanding) as other:
                with pytest.raises(CodecError, match="give each of its fields a default"):
                    async with other.edit():
                        pass
        with pytest.raises(ConnectionFailed, match="inside of its `async with`"):
            async with plane.agent(agent_id):
                pass

    asyncio.run(main())


def test_a_plane_that_was_not_entered_tells_how() -> None:
    async def main() -> None:
        with pytest.raises(HoldfastError, match=r"async with holdfast\.connect"):
            await holdfast.connect()  # type: ignore[misc]

    asyncio.run(main())
    for name in ("agent", "pools"):
        with pytest.raises(HoldfastError, match=r"async with holdfast\.connect"):
            getattr(holdfast.connect(), name)
        with pytest.raises(HoldfastError, match=r"nothing is connected yet: with holdfast\.sync\.connect"):
            getattr(sync.connect(), name)
    assert not hasattr(holdfast.connect(), "anything_else")


def test_a_connection_that_is_used_again_leaves_nothing_behind(environ: Mapping[str, str]) -> None:
    """What failed is closed, and not the plane before it; one that is open is not lost."""
    changing = dict(environ)

    async def main() -> None:
        connecting = holdfast.connect(changing, background=False)
        async with connecting as plane:
            with pytest.raises(HoldfastError, match="is open already"):
                await connecting.__aenter__()
        assert plane.nc.is_closed
        async with connecting as second:
            assert second is not plane
        changing["HOLDFAST_PLANE"] = "none"
        with pytest.raises(ContractMismatch):
            await connecting.__aenter__()
        await asyncio.sleep(0.1)
        assert len(asyncio.all_tasks()) == 1, asyncio.all_tasks()

    asyncio.run(main())


def test_one_connection_without_asyncio_is_open_once(environ: Mapping[str, str]) -> None:
    connecting = sync.connect(environ, background=False)
    with connecting as plane:
        with pytest.raises(HoldfastError, match="is open already"), connecting:
            pass
        assert plane.health(skip=set(plane.aio.contract.buckets)).checks
    assert plane.aio.nc.is_closed


def test_a_handle_that_fails_when_the_plane_is_closed_is_named_in_the_log(
    environ: Mapping[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    agent_id = uuid4()

    async def fails() -> None:
        raise ValueError("no more")

    async def main() -> None:
        async with holdfast.connect(environ) as plane:
            agent = await plane.agent(agent_id).__aenter__()
            other = await plane.agent(uuid4()).__aenter__()
            close, agent.close = agent.close, fails  # type: ignore[method-assign]
        assert not other.lease.held
        await close()

    asyncio.run(main())
    assert f"the agent {agent_id} did not end well: no more" in caplog.text
