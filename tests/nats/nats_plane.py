"""A small plane on one NATS target: specs in, steps out, through the kinds and the real engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from provision.nats import api, apply, observe
from provision.nats.errors import ApiError
from provision.nats.kinds import bucket, consumer, object_store, publisher, stream
from provision.plan.assemble import Seen, assemble
from provision.plan.plan import Plan
from provision.spec.ident import Address
from provision.spec.record import Plane, Record
from tests.complaints import Complaints

Json = dict[str, Any]
KINDS: dict[str, Any] = {
    k.name: k for k in (stream.KIND, bucket.KIND, object_store.KIND, consumer.KIND, consumer.TEMPLATE, publisher.KIND)
}
SECTIONS = (stream.SECTION, bucket.SECTION, object_store.SECTION, publisher.SECTION)
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def read(document: Mapping[str, Any]) -> list[Record]:
    """The records of a document; it must be free of mistakes."""
    reader = Complaints()
    records = [r for section in SECTIONS for r in section.read(document.get(section.name) or {}, reader)]
    assert not reader.found
    return records


class Memory:
    """A ledger in memory."""

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}
        self.intended: set[str] = set()

    def prepare(self) -> None:
        pass

    def owned(self) -> dict[str, str]:
        return self.entries

    def intend(self, addresses: Any) -> None:
        self.intended |= set(addresses)

    def record(self, addresses: Any, origin: str) -> None:
        for address in addresses:
            self.entries.setdefault(address, origin)

    def forget(self, addresses: Any) -> None:
        for address in addresses:
            self.entries.pop(address, None)


class Bench:
    """One server with the plane ``agents`` on it."""

    def __init__(self, session: api.Session) -> None:
        self.session = session
        self.ledger = Memory()

    def api(self, subject: str, body: Json | None = None) -> Json:
        """A raw request; a refusal comes back as ``{"refused": "code/err_code"}``."""
        try:
            return self.session.request(f"$JS.API.{subject}", body)
        except ApiError as error:
            return {"refused": f"{error.code}/{error.err_code}", "why": error.description}

    def config(self, stream_name: str, consumer_name: str = "") -> Json:
        """The server's own configuration of a stream or consumer."""
        subject = f"CONSUMER.INFO.{stream_name}.{consumer_name}" if consumer_name else f"STREAM.INFO.{stream_name}"
        config: Json = self.api(subject)["config"]
        return config

    def messages(self, stream_name: str) -> int:
        return int(self.api(f"STREAM.INFO.{stream_name}")["state"]["messages"])

    def publish(self, subject: str, number: int = 1, data: bytes = b"x") -> None:
        for _ in range(number):
            self.session.run(self.session.link.send(subject, data))

    def observe(self) -> observe.Observation:
        return observe.observe(self.session, "main", plane="agents")

    def plan(self, document: Mapping[str, Any]) -> Plan:
        seen = self.observe()
        desired = Plane(read(document), name="agents", env="test")
        live = Plane(seen.records, name="agents", env="test")
        known = {("nats", "main"): seen.facts, ("plane", "main"): seen.facts}
        # Declared kinds are compared with the contract, which is not here.
        desired = Plane(
            [r for r in desired if KINDS[r.address.kind].nature == "live"], name=desired.name, env=desired.env
        )
        return assemble(desired, Seen(live, set(self.ledger.owned()), known), KINDS, NOW)

    def apply(self, document: Mapping[str, Any]) -> Plan:
        """Plan and apply, then plan again: nothing may be left."""
        plan = self.plan(document)
        apply.Applier(self.session, self.ledger).run(plan.steps)
        again = self.plan(document)
        assert again.steps == (), [(s.summary, s.request) for s in again.steps]
        return plan

    def actions(self, document: Mapping[str, Any]) -> list[str]:
        """The steps that a plan would take, as ids without the target."""
        return [step.id.removeprefix("nats:main/") for step in self.plan(document).steps]

    def differing(self, document: Mapping[str, Any]) -> dict[str, list[str]]:
        """Address -> options that differ from the document."""
        return {d.object.removeprefix("nats:main/"): list(d.fields) for d in self.plan(document).drift}


@contextmanager
def bench(url: str, **options: Any) -> Iterator[Bench]:
    with api.connect(api.settings({"urls": [url], **options})) as session:
        yield Bench(session)


def address(kind: str, name: str) -> Address:
    return Address.root("nats", "main", kind, name)
