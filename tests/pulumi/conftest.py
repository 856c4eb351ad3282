"""A provider served on a real channel, and an engine that listens to its log."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty
from pulumi.runtime.proto import engine_pb2_grpc, provider_pb2_grpc

from provision.pulumi.logs import Log
from provision.pulumi.server import Server
from provision.pulumi.servicer import Servicer
from tests.pulumi.notes import Notes


class Engine(engine_pb2_grpc.EngineServicer):
    """The engine's side of logging."""

    def __init__(self) -> None:
        self.lines: list[Any] = []
        self._server = grpc.server(ThreadPoolExecutor(2))
        engine_pb2_grpc.add_EngineServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def Log(self, request: Any, context: grpc.ServicerContext) -> Empty:  # noqa: N802
        self.lines.append(request)
        return Empty()

    def stop(self) -> None:
        self._server.stop(None).wait()


@dataclass
class Served:
    """A provider and the channel to it."""

    notes: Notes
    screen: Log
    stub: Any
    urn: str = field(default="urn:pulumi:dev::app::my:Shelf$notes:index:Note::first")


@pytest.fixture
def engine() -> Iterator[Engine]:
    """An engine that keeps what it is told to log."""
    engine = Engine()
    yield engine
    engine.stop()


@pytest.fixture
def served(tmp_path: Path, engine: Engine) -> Iterator[Served]:
    """The provider of notes behind a server of this process."""
    log = Log(engine.address)
    notes = Notes(log, tmp_path / "notes.json")
    log.redact = notes.redact
    server = Server(Servicer(notes, log))
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield Served(notes, log, provider_pb2_grpc.ResourceProviderStub(channel))
    server.stop(1)


@pytest.fixture
def program_loop() -> Iterator[None]:
    """The loop of a program under Pulumi's mocks."""
    # The mocks work in threads of the loop's executor, each with a loop of its own that nobody closes but we.
    loop, executor = asyncio.new_event_loop(), ThreadPoolExecutor(1, initializer=_open_loop)
    loop.set_default_executor(executor)
    asyncio.set_event_loop(loop)
    yield
    executor.submit(lambda: asyncio.get_event_loop().close()).result()
    asyncio.set_event_loop(None)
    loop.close()


def _open_loop() -> None:
    asyncio.set_event_loop(asyncio.new_event_loop())
