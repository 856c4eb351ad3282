"""Send the API steps of a plan, check what the server kept, wait until it holds; count what a step costs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from provision.nats import probes
from provision.nats.api import Json, Link, Session, pipelined
from provision.nats.errors import ApiError, NatsError, NotApplied, NotSettled, TimedOut
from provision.nats.kinds.fields import PLANE_METADATA
from provision.nats.kinds.wire import utc_time
from provision.plan.plan import Step
from provision.plan.protocols import Hook, Ledger
from provision.spec.change import Api

_NOT_FOUND = 404
#: 10124, 10226: another move or scaling is under way. 10008: no leader of the meta group just now.
_BUSY = frozenset({10124, 10226, 10008})
_TIMES = frozenset({"opt_start_time", "pause_until"})
#: The server takes it from a mirror's origin, whatever is sent.
_OVERRIDDEN = frozenset({"mirror_direct"})


class Applier:
    """Runs API steps of one target.

    Steps that wait for none of the others go out together; the ledger hears of them before and after.
    """

    def __init__(
        self,
        session: Session,
        ledger: Ledger,
        *,
        hook: Hook = lambda step, phase: None,
        settle_s: float = 60.0,
    ) -> None:
        self.session = session
        self.ledger = ledger
        self.hook = hook
        self.settle_s = settle_s

    def run(self, steps: Sequence[Step]) -> None:
        """Do all steps. Raises a NatsError; what was done before it stays done and is recorded."""
        for wave in waves(steps):
            self.ledger.intend(_created(wave))
            done: list[Step] = []
            try:
                self.session.run(self._send_all(wave, done))
            finally:
                self._record(done)

    async def _send_all(self, wave: Sequence[Step], done: list[Step]) -> None:
        """Send a wave. After a failure nothing new starts, but what is under way is awaited and recorded:
        to cancel it would leave objects on the server that nobody has noted."""
        link = self.session.link
        failures: list[NatsError] = []

        async def one(step: Step) -> None:
            if failures:
                return
            assert isinstance(step.request, Api)
            self.hook(step.id, "before_send")
            try:
                await perform(link, step.request, self.settle_s)
            except NatsError as error:
                failures.append(error)
                return
            self.hook(step.id, "after_send")
            done.append(step)

        await pipelined([partial(one, step) for step in wave], link.in_flight)
        if failures:
            raise failures[0]

    def _record(self, done: Sequence[Step]) -> None:
        if not done:
            return
        for step in done:
            self.hook(step.id, "before_record")
        self.ledger.forget([address for step in done for address in step.gone])
        self.ledger.record(_created(done), "created")
        self.ledger.record([address for step in done for address in step.adopted], "adopted")
        for step in done:
            self.hook(step.id, "done")


def _created(steps: Sequence[Step]) -> list[str]:
    return [address for step in steps for address in step.made if address not in step.adopted]


def waves(steps: Sequence[Step]) -> list[list[Step]]:
    """Split ordered steps into groups of which none waits for another of the same group. Pure."""
    level: dict[str, int] = {}
    result: list[list[Step]] = []
    for step in steps:
        depth = max((level[waited] + 1 for waited in step.after if waited in level), default=0)
        level[step.id] = depth
        if depth == len(result):
            result.append([])
        result[depth].append(step)
    return result


def execute(session: Session, api: Api, *, settle_s: float = 60.0) -> Json:
    """Do one request: send, compare what the server kept, wait until it holds. Gives the answer."""
    return session.run(perform(session.link, api, settle_s))


def count(session: Session, probe: Mapping[str, Any]) -> int | None:
    """How many messages a hazard's probe speaks of; None where the stream or consumer is gone."""
    return session.run(probes.count(session.link, probe))


async def perform(link: Link, api: Api, settle_s: float) -> Json:
    """The asynchronous form of ``execute``."""
    answer = await _send(link, api, settle_s)
    _verify(api, answer)
    if api.settle:
        await _settle(link, api.settle, answer, settle_s)
    return answer


async def _send(link: Link, api: Api, settle_s: float) -> Json:
    """Send, patiently where the cluster is busy, and look where a time-out left it open what happened."""
    deadline = time.monotonic() + settle_s
    pause = 0.1
    while True:
        try:
            return await link.request(api.subject, api.body)
        except ApiError as error:
            if ".DELETE." in api.subject and error.code == _NOT_FOUND:
                return {"success": True}
            if error.err_code not in _BUSY or time.monotonic() > deadline:
                raise
        except TimedOut:
            found = await _read_back(link, api)
            if found is not None:
                return found
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(pause)
        pause = min(pause * 2, 2.0)


async def _read_back(link: Link, api: Api) -> Json | None:
    """After a time-out: the object's present state if the request has taken effect, else None."""
    tokens = api.subject.split(".")
    if "DELETE" in tokens:
        try:
            await link.request(_info_subject(tokens))
        except ApiError as error:
            return {"success": True} if error.code == _NOT_FOUND else None
        return None
    if tokens[3] not in ("CREATE", "UPDATE"):
        return None
    try:
        answer = await link.request(_info_subject(tokens))
        _verify(api, answer)
    except NatsError:
        return None
    return answer


def _info_subject(tokens: Sequence[str]) -> str:
    return ".".join(["$JS.API", tokens[2], "INFO", *tokens[4:6]])


def _verify(api: Api, answer: Json) -> None:
    """Compare what the server keeps with what was sent: before 2.12 it drops unknown options in silence."""
    body = api.body or {}
    kept = answer.get("config")
    sent = body.get("config", body)
    if kept is None or "PAUSE" in api.subject:
        return
    is_update = body.get("action") == "update"
    for key, value in sent.items():
        if key in _OVERRIDDEN or (is_update and key == "pause_until"):
            continue
        if key == "metadata":
            lost = {k: v for k, v in value.items() if kept.get("metadata", {}).get(k) != v}
            if lost:
                raise NotApplied(sent.get("name", ""), f"metadata.{next(iter(lost))}", value, kept.get("metadata"))
        elif not _contains(kept.get(key), value, key):
            raise NotApplied(sent.get("name", ""), key, value, kept.get(key))


def _contains(kept: Any, sent: Any, key: str) -> bool:
    """Whether ``kept`` says at least what ``sent`` says; keys at their zero value may be left out."""
    if key in _TIMES and isinstance(kept, str) and isinstance(sent, str):
        return utc_time(kept) == utc_time(sent)
    if isinstance(sent, dict):
        return isinstance(kept, dict) and all(_contains(kept.get(k), v, k) for k, v in sent.items())
    if isinstance(sent, list):
        if not isinstance(kept, list) or len(kept) != len(sent):
            return not sent and kept is None
        return all(_contains(k, s, key) for k, s in zip(kept, sent, strict=True))
    return kept == sent or (not sent and not kept)


async def _settle(link: Link, wanted: Mapping[str, Any], answer: Json, settle_s: float) -> None:
    """Wait until leader and replicas of a stream or consumer are current; at once on a single server."""
    if not link.info.get("cluster"):
        return
    subject = f"$JS.API.STREAM.INFO.{wanted['stream']}"
    if "consumer" in wanted:
        subject = f"$JS.API.CONSUMER.INFO.{wanted['stream']}.{wanted['consumer']}"
    deadline = time.monotonic() + settle_s
    pause = 0.05
    while not _is_settled(answer.get("cluster"), wanted.get("replicas")):
        if time.monotonic() > deadline:
            raise NotSettled(
                f"{subject.rpartition('INFO.')[2]} is changed, its replicas not current after {settle_s:g} s",
                "It goes on in the background; run the same command again to wait for it.",
            )
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, 1.0)
        try:
            answer = await link.request(subject)
        except (ApiError, TimedOut):
            answer = {}


def _is_settled(cluster: Mapping[str, Any] | None, replicas: int | None) -> bool:
    if not cluster or not cluster.get("leader") or cluster.get("desired"):
        return False
    followers = cluster.get("replicas") or []
    current = [r for r in followers if r.get("current") and not r.get("offline")]
    return len(current) == len(followers) and (replicas is None or len(followers) == replicas - 1)


__all__ = ["PLANE_METADATA", "Applier", "count", "execute", "perform", "waves"]
