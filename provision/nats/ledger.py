"""Ledger, lock and contract in the KV bucket ``HOLDFAST``. The contract of every plane with NATS lives here;
ledger and lock do only for planes without Postgres.

Every write is a compare-and-set on the key's revision. The bucket is made on first use.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from provision.nats.api import Json, Session
from provision.nats.apply import execute
from provision.nats.errors import ApiError, ConfigurationError, Conflict, LockLost, NatsError
from provision.nats.kinds import bucket
from provision.nats.observe import OWN_STREAM
from provision.nats.probes import time_ns
from provision.plan.protocols import LockHeld
from provision.spec.change import Api, Request

BUCKET = OWN_STREAM.removeprefix(bucket.PREFIX)
#: Reserved at creation, so modest; a ledger entry takes about a hundred bytes.
MAX_BYTES = 64 * 2**20
_WRONG_LAST_SEQUENCE = 10071
_NO_STREAM, _NO_MESSAGE, _NAME_IN_USE = 10059, 10037, 10058
_KEY = re.compile(r"^[-/_=a-zA-Z0-9]+(\.[-/_=a-zA-Z0-9]+)*$")
_TRIES = 20
_KEPT_RUNS = 20


class Entry(NamedTuple):
    """A key's value, its revision and the server's time of the write in nanoseconds."""

    value: bytes
    revision: int
    written_ns: int


class Store:
    """Keys of the bucket ``HOLDFAST`` over raw requests. Raises a NatsError."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def get(self, key: str) -> Entry | None:
        """The newest value, from the leader; None where there is none."""
        body = {"last_by_subj": self._subject(key)}
        try:
            message = self.session.request(f"$JS.API.STREAM.MSG.GET.{OWN_STREAM}", body)["message"]
        except ApiError as error:
            if error.err_code in (_NO_STREAM, _NO_MESSAGE) or error.code == 404:
                return None
            raise
        headers = base64.b64decode(message.get("hdrs") or "")
        if b"KV-Operation: DEL" in headers or b"KV-Operation: PURGE" in headers:
            return None
        return Entry(base64.b64decode(message.get("data") or ""), message["seq"], time_ns(message["time"]))

    def put(self, key: str, value: bytes, *, expected: int | None = None) -> int:
        """Write a value and give its revision. ``expected`` is the revision it replaces, 0 for a key that was
        never written.

        Raises Conflict when somebody else wrote the key since.
        """
        return self._write(key, value, {}, expected)

    def delete(self, key: str, *, expected: int | None = None) -> None:
        """Mark a key as deleted."""
        self._write(key, b"", {"KV-Operation": "DEL"}, expected)

    def now_ns(self) -> int:
        """The server's own clock: what expires is judged by one clock, not by those of two clients."""
        return time_ns(self.session.request(f"$JS.API.STREAM.INFO.{OWN_STREAM}")["ts"])

    def _write(self, key: str, value: bytes, headers: dict[str, str], expected: int | None) -> int:
        if expected is not None:
            headers["Nats-Expected-Last-Subject-Sequence"] = str(expected)
        subject = self._subject(key)
        self.ensure()
        link = self.session.link
        try:
            return int(link.decode(subject, self.session.run(link.send(subject, value, headers)))["seq"])
        except ApiError as error:
            if error.err_code == _WRONG_LAST_SEQUENCE:
                raise Conflict(f"{key} was changed by somebody else", "Run the command again.") from error
            raise

    def ensure(self) -> None:
        """Create the bucket unless it is there. A present one is left as it is."""
        try:
            self.session.request(f"$JS.API.STREAM.INFO.{OWN_STREAM}")
            return
        except ApiError as error:
            if error.err_code != _NO_STREAM:
                raise
        for replicas in (3, 1) if self.session.link.info.get("cluster") else (1,):
            try:
                # A replicated bucket takes no write before it has a leader.
                wait = {"stream": OWN_STREAM, "replicas": replicas}
                execute(self.session, Api(f"$JS.API.STREAM.CREATE.{OWN_STREAM}", _bucket_config(replicas), wait))
                return
            except ApiError as error:
                if error.err_code == _NAME_IN_USE:
                    return
                if replicas == 1:
                    raise

    @staticmethod
    def _subject(key: str) -> str:
        if not _KEY.match(key):
            raise ConfigurationError(f"not a key: {key}", "Use letters, digits, - and _ in plane and environment.")
        return f"$KV.{BUCKET}.{key}"


def _bucket_config(replicas: int) -> Json:
    settings = bucket.FIELDS.parse({"history": 5, "replicas": replicas, "max_bytes": MAX_BYTES})
    settings["description"] = "Contracts, ledgers and locks of Holdfast"
    return bucket.KIND.wire(BUCKET, settings)


class Held(NamedTuple):
    """The ledger of one plane. ``owned`` maps address to origin, ``intended`` were begun and not seen to end."""

    owned: Mapping[str, str]
    intended: frozenset[str]


class Ledger:
    """Ledger, lock and contract store of one plane and environment (see ``provision.plan.protocols``)."""

    def __init__(self, session: Session, plane: str, env: str, *, ttl_s: float = 60.0, holder: str = "") -> None:
        self.store = Store(session)
        self.plane = plane
        self.env = env
        self.ttl_s = ttl_s
        self.holder = holder or f"pid {os.getpid()} on {socket.gethostname()}"
        self._scope = f"{plane}.{env}"
        self.lost = threading.Event()
        self._good_until = float("inf")

    def prepare(self) -> None:
        """Nothing: the bucket comes into being with the first write."""

    # What is owned

    def held(self) -> Held:
        """What is owned, and what of it was begun and not seen to end."""
        known = self._objects()[0]
        intended = frozenset(address for address, entry in known.items() if entry["state"] == "intended")
        return Held({address: entry["origin"] for address, entry in known.items()}, intended)

    def owned(self) -> Mapping[str, str]:
        """Every owned address with its origin; an object whose creation began counts."""
        return self.held().owned

    def intend(self, addresses: Iterable[str]) -> None:
        found = list(addresses)
        if found:
            self._change(lambda known: {a: {"origin": "created", "state": "intended"} for a in found} | known)

    def record(self, addresses: Iterable[str], origin: str) -> None:
        """Note that these exist. The first origin stays."""
        found = list(addresses)
        if found:
            self._change(
                lambda known: (
                    known | {a: {"origin": known.get(a, {}).get("origin", origin), "state": "done"} for a in found}
                )
            )

    def forget(self, addresses: Iterable[str]) -> None:
        found = set(addresses)
        if found:
            self._change(lambda known: {a: entry for a, entry in known.items() if a not in found})

    # Runs

    def start_run(self, fingerprint: str) -> str:
        """Note that an apply begins; gives the id of the run. Under the lock, any other that still runs was killed."""
        run = secrets.token_hex(8)
        entry = {"id": run, "status": "running", "fingerprint": fingerprint, "summary": {}}

        def begin(known: Json) -> Json:
            others = [r | {"status": "interrupted"} if r["status"] == "running" else r for r in known.get("runs", [])]
            return {"runs": [entry, *others][:_KEPT_RUNS]}

        self._update("runs", begin)
        return run

    def finish_run(self, run: str, status: str, summary: Mapping[str, Any]) -> None:
        """Note how a run ended: done, failed or interrupted."""

        def end(known: Json) -> Json:
            runs = known.get("runs", [])
            changed = [{**r, "status": status, "summary": dict(summary)} if r["id"] == run else r for r in runs]
            return {"runs": changed}

        self._update("runs", end)

    def runs(self, limit: int = 10) -> list[Json]:
        """The latest runs, newest first."""
        found, _ = self._read("runs")
        return list(found.get("runs", []))[:limit]

    # The contract

    def read(self) -> Mapping[str, Any] | None:
        """The stored contract, or None."""
        entry = self.store.get(f"contract.{self._scope}")
        return None if entry is None else json.loads(entry.value)

    def write(self, content: Mapping[str, Any]) -> None:
        """Store the contract; the runtime watches this key."""
        self.check()
        self.store.put(f"contract.{self._scope}", _dump(content))

    def perform(self, request: Request) -> None:
        """Run the step of a plan that writes the contract."""
        assert isinstance(request, Api)
        self.write(request.body or {})

    def drop_contract(self) -> None:
        """Delete the contract if there is one."""
        self.check()
        if self.store.get(f"contract.{self._scope}") is not None:
            self.store.delete(f"contract.{self._scope}")

    # The lock

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the plane's lock. It is renewed three times in its life; one not renewed may be taken over.

        While it is held, every write of the ledger looks whether it still is. Raises LockHeld, LockLost.
        """
        self._good_until = time.monotonic() + self.ttl_s
        self._revision = self._acquire()
        self.lost.clear()
        stop = threading.Event()
        renewal = threading.Thread(target=self._renew_until, args=(stop,), name="holdfast-lock", daemon=True)
        renewal.start()
        try:
            yield
            self.check()
        finally:
            stop.set()
            renewal.join()
            self._release()
            self._good_until = float("inf")

    def check(self) -> None:
        """Raises LockLost when another apply took the lock over, or could have: it was not renewed in time."""
        if self.lost.is_set() or time.monotonic() > self._good_until:
            raise LockLost(
                f"the lock of {self._scope} was lost while the plan was applied",
                "Another apply may have begun; look at its result, then run the command again.",
            )

    @property
    def _lock_key(self) -> str:
        return f"lock.{self._scope}"

    def _acquire(self) -> int:
        value = _dump({"holder": self.holder, "ttl_s": self.ttl_s, "released": False})
        entry = self.store.get(self._lock_key)
        if entry is not None:
            known = json.loads(entry.value)
            age_s = (self.store.now_ns() - entry.written_ns) / 1e9
            if not known["released"] and age_s < known["ttl_s"]:
                raise LockHeld(
                    f"another apply works on {self._scope}: {known['holder']}, seen {age_s:.0f} s ago",
                    f"Wait for it; if it died, its lock ends by itself within {known['ttl_s']:g} s.",
                )
        try:
            return self.store.put(self._lock_key, value, expected=entry.revision if entry else 0)
        except Conflict:
            raise LockHeld(f"another apply began on {self._scope} just now", "Wait for it.") from None

    def _renew_until(self, stop: threading.Event) -> None:
        value = _dump({"holder": self.holder, "ttl_s": self.ttl_s, "released": False})
        while not stop.wait(self.ttl_s / 3):
            begun = time.monotonic()
            try:
                self._revision = self.store.put(self._lock_key, value, expected=self._revision)
                self._good_until = begun + self.ttl_s
            except Conflict:
                self.lost.set()
                return
            except NatsError:
                continue  # the next renewal finds out whether it was a moment or the end

    def _release(self) -> None:
        if self.lost.is_set():
            return
        value = _dump({"holder": self.holder, "ttl_s": self.ttl_s, "released": True})
        with suppress(NatsError):  # it expires anyway
            self.store.put(self._lock_key, value, expected=self._revision)

    # Documents

    def _objects(self) -> tuple[dict[str, Json], int]:
        found, revision = self._read("objects")
        return found.get("objects", {}), revision

    def _change(self, edit: Callable[[dict[str, Json]], dict[str, Json]]) -> None:
        self._update("objects", lambda known: {"objects": edit(known.get("objects", {}))})

    def _read(self, what: str) -> tuple[Json, int]:
        entry = self.store.get(f"{what}.{self._scope}")
        return ({}, 0) if entry is None else (json.loads(entry.value), entry.revision)

    def _update(self, what: str, edit: Callable[[Json], Json]) -> None:
        """Change a document; where another write came between, do it again on the new text."""
        self.check()
        for attempt in range(_TRIES):
            known, revision = self._read(what)
            try:
                self.store.put(f"{what}.{self._scope}", _dump(edit(known)), expected=revision)
                return
            except Conflict:
                if attempt + 1 == _TRIES:
                    raise


def _dump(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
