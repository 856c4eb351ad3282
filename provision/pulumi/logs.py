"""Lines on the screen of whoever runs Pulumi: hazards, counts and why something waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
from pulumi.runtime.proto import engine_pb2, engine_pb2_grpc

_TIMEOUT_S = 5.0


class Log:
    """Sends lines to the engine. Says nothing while there is none, and never raises: a log is no reason to fail.

    ``urn`` puts a line beside its resource; without one it belongs to the stack. ``redact`` masks secrets; the
    provider sets it, since it is made with its log.
    """

    def __init__(self, engine: str = "") -> None:
        self.redact: Callable[[str], str] = str
        self._engine = ""
        self._stub: engine_pb2_grpc.EngineStub | None = None
        self.connect(engine)

    def connect(self, engine: str) -> None:
        """Send to this engine from now on (``127.0.0.1:34567``)."""
        if engine and engine != self._engine:
            self._engine = engine
            self._stub = engine_pb2_grpc.EngineStub(grpc.insecure_channel(engine))

    def info(self, text: str, urn: str = "") -> None:
        """Say something that stays."""
        self._send(engine_pb2.INFO, text, urn)

    def warn(self, text: str, urn: str = "") -> None:
        """Say something that the summary at the end repeats."""
        self._send(engine_pb2.WARNING, text, urn)

    def status(self, text: str, urn: str = "") -> None:
        """Say what goes on at this moment; the next line takes its place."""
        self._send(engine_pb2.INFO, text, urn, ephemeral=True)

    def _send(self, severity: Any, text: str, urn: str, ephemeral: bool = False) -> None:
        if self._stub is None:
            return
        request = engine_pb2.LogRequest(severity=severity, message=self.redact(text), urn=urn, ephemeral=ephemeral)
        try:
            self._stub.Log(request, timeout=_TIMEOUT_S)
        except (grpc.RpcError, ValueError):
            return  # the engine is gone, or a channel closes with the process
