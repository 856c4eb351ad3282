"""A plane for tests of drift: specs in, plans and applies in this process, and raw requests that know nothing of us."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from provision.plan.consents import required
from provision.plan.plan import Plan
from provision.reconcile import check, open_plane

Json = dict[str, Any]


class Bed:
    """A folder with specs for running servers. ``targets`` is the node of that name."""

    def __init__(self, root: Path, targets: Mapping[str, Any], name: str = "drifting") -> None:
        self.specs = root / "specs"
        self.cache = root / "cache"
        self.name = name
        (self.specs / "environments").mkdir(parents=True)
        (self.specs / "environments" / "dev.yaml").write_text(json.dumps({"targets": targets}))

    def declare(self, document: Mapping[str, Any]) -> None:
        """Write the specs; JSON is YAML. They must be free of errors."""
        (self.specs / "plane.yaml").write_text(json.dumps({"plane": self.name, **document}))
        found = check(self.specs, "dev", cache=self.cache, root=self.specs).diagnostics
        errors = [f"{d.code} {d.message}" for d in found if d.severity == "error"]
        assert not errors, errors

    def plan(self) -> Plan:
        with open_plane(self.specs, "dev", cache=self.cache) as plane:
            return plane.plan(clock=datetime.now(UTC))

    def apply(self, *allowed: str) -> Plan:
        """Plan and apply with these consents."""
        with open_plane(self.specs, "dev", cache=self.cache) as plane:
            plan = plane.plan(clock=datetime.now(UTC))
            plane.apply(plan, allowed=allowed)
            return plan

    def mend(self) -> Plan:
        """Plan and apply with every consent that the plan asks for, then plan again: nothing may be left."""
        with open_plane(self.specs, "dev", cache=self.cache) as plane:
            plan = plane.plan(clock=datetime.now(UTC))
            plane.apply(plan, allowed=required(plan))
        again = self.plan()
        assert not again.steps, [(d.object, str(d.fields)[:2000]) for d in again.drift]
        assert not again.adopt, again.adopt
        assert not again.drift, again.drift
        return plan

    def named(self) -> dict[str, Json]:
        """What drift tells: object -> {option: {live, declared}}, or {"change": word} without options."""
        return {d.object: dict(d.fields) or {"change": d.change} for d in self.plan().drift}


class Raw:
    """Requests to the JetStream API as any client could send them."""

    def __init__(self, url: str, **options: Any) -> None:
        from nats.aio.client import Client

        self._loop = asyncio.new_event_loop()
        self._client = Client()
        self._loop.run_until_complete(self._client.connect(url, connect_timeout=5, **options))

    def close(self) -> None:
        self._loop.run_until_complete(self._client.close())
        self._loop.close()

    def ask(self, subject: str, body: Json | None = None) -> Json:
        """One request below ``$JS.API.``; a refusal comes back under ``error``."""
        data = b"" if body is None else json.dumps(body).encode()
        answer: Json = json.loads(
            self._loop.run_until_complete(self._client.request(f"$JS.API.{subject}", data, timeout=10)).data
        )
        return answer

    def do(self, subject: str, body: Json | None = None) -> Json:
        """The same; a refusal fails the test."""
        answer = self.ask(subject, body)
        assert "error" not in answer, (subject, body, answer["error"])
        return answer

    def publish(self, subject: str, number: int = 1) -> None:
        async def send() -> None:
            for _ in range(number):
                await self._client.request(subject, b"x", timeout=10)

        self._loop.run_until_complete(send())

    def config(self, stream: str, consumer: str = "") -> Json:
        """The configuration as INFO gives it."""
        subject = f"CONSUMER.INFO.{stream}.{consumer}" if consumer else f"STREAM.INFO.{stream}"
        config: Json = self.do(subject)["config"]
        return config

    def messages(self, stream: str) -> int:
        return int(self.do(f"STREAM.INFO.{stream}")["state"]["messages"])


@contextmanager
def raw(url: str, **options: Any) -> Iterator[Raw]:
    link = Raw(url, **options)
    try:
        yield link
    finally:
        link.close()
