"""A small provider of notes, kept in a JSON file: something real behind the server. Run, it is a Pulumi plugin."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from provision.pulumi import protocol, server
from provision.pulumi.logs import Log
from provision.pulumi.protocol import Checked, Difference, Failure, Found, Made, PropertyChange, has_unknown
from provision.pulumi.servicer import Servicer
from provision.spec.errors import InputError, OperationError, UnreachableError
from provision.spec.secrets import Redactor

TYPE = "notes:index:Note"
#: What a note's ``fail`` makes of any request but Check.
ERRORS = {
    "input": InputError("the note\nis odd", "Write another."),
    "server": UnreachableError("nobody answers at tcp://notes:hunter2@host"),
    "operation": OperationError("refused."),
    "bug": KeyError("hunter2"),
}


class Notes:
    """Notes by title. Their ``kept`` property says when the provider was closed."""

    version = "1.2.0.dev3"

    def __init__(self, log: Log, store: Path) -> None:
        self._log = log
        self._store = store
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self.redact = Redactor(["hunter2"])
        self.config: protocol.Values = {}
        self.requests: list[Any] = []

    def schema(self) -> str:
        return json.dumps({"name": "notes", "version": "1.2.0"})

    def check_config(self, news: protocol.Values, secret_keys: frozenset[str]) -> Checked:
        failures = () if "shelf" in news else (Failure(("shelf",), "is missing"),)
        return Checked(dict(news), failures, frozenset({"tokens"}))

    def diff_config(self, old_inputs: protocol.Values, news: protocol.Values) -> Difference:
        changed = [name for name in ("shelf", "topics") if old_inputs.get(name) != news.get(name)]
        changes = tuple(PropertyChange((name,), "update", replace=name == "shelf") for name in changed)
        return Difference(bool(changes), changes, delete_before_replace=False)

    def configure(self, config: protocol.Values) -> None:
        self.config = config

    def check(self, request: protocol.CheckRequest) -> Checked:
        self.requests.append(request)
        failures = []
        if " " in str(request.news["title"]):
            failures.append(Failure(("title",), "has a blank, hunter2"))
        for at, line in enumerate(request.news.get("lines", [])):
            if line == "":
                failures.append(Failure(("lines", at), "is empty"))
        if request.news.get("fail") == "whole":
            failures.append(Failure((), "makes no sense"))
        return Checked({"lines": [], **request.news}, tuple(failures))

    def diff(self, request: protocol.DiffRequest) -> Difference:
        self.requests.append(request)
        old, new = request.old_inputs, request.news
        changes = []
        for name in sorted({*old, *new}):
            if old.get(name) != new.get(name):
                kind: protocol.Kind = "add" if name not in old else "delete" if name not in new else "update"
                changes.append(PropertyChange((name,), kind, replace=name == "title"))
        return Difference(bool(changes), tuple(changes))

    def create(self, request: protocol.CreateRequest) -> Made:
        self._meet(request, request.inputs)
        if request.preview:
            self._log.info(f"would write {request.inputs['title']}, hunter2", request.urn)
            return Made("later", {**request.inputs, "length": protocol.UNKNOWN})
        assert not has_unknown(request.inputs)
        return Made(str(request.inputs["title"]), self._write(request.inputs))

    def read(self, request: protocol.ReadRequest) -> Found | None:
        self._meet(request, request.inputs)
        note = self._load().get(request.id)
        return note and Found(request.id, note, {**note, "length": len(note["lines"])})

    def update(self, request: protocol.UpdateRequest) -> protocol.Values:
        self._meet(request, request.news)
        return {**request.news, "length": protocol.UNKNOWN} if request.preview else self._write(request.news)

    def delete(self, request: protocol.DeleteRequest) -> None:
        self._meet(request, request.old_inputs)
        self._save({title: note for title, note in self._load().items() if title != request.id})

    def cancel(self) -> None:
        self._cancelled.set()

    def close(self) -> None:
        self._store.with_suffix(".closed").write_text("closed")

    def _meet(self, request: Any, inputs: protocol.Values) -> None:
        self.requests.append(request)
        if getattr(request, "preview", False):
            return
        fail = inputs.get("fail")
        if fail == "half":
            raise protocol.PartialFailure(
                str(inputs["title"]), {**inputs, "length": 0}, inputs, ("ink ran out, hunter2", "so did paper")
            )
        if fail == "slow":
            self._store.with_suffix(".slow").write_text("")
            assert self._cancelled.wait(60)
            raise OperationError("cancelled half way")
        if fail == "stuck":
            self._store.with_suffix(".slow").write_text("")
            time.sleep(600)
        if fail in ERRORS:
            raise ERRORS[fail]

    def _write(self, inputs: protocol.Values) -> protocol.Values:
        self._save({**self._load(), inputs["title"]: dict(inputs)})
        return {**inputs, "length": len(inputs["lines"])}

    def _load(self) -> dict[str, Any]:
        with self._lock:
            return json.loads(self._store.read_text()) if self._store.exists() else {}

    def _save(self, notes: dict[str, Any]) -> None:
        with self._lock:
            self._store.write_text(json.dumps(notes))


def main() -> None:
    """Serve like the real program, after some noise on stdout."""
    announce = server.take_stdout()
    print("noise of a library")
    os.system("echo noise of a child")
    engine = sys.argv[-1] if ":" in sys.argv[-1] else ""
    log = Log(engine)
    notes = Notes(log, Path(os.environ["NOTES"]))
    log.redact = notes.redact
    if not server.serve(notes, Servicer(notes, log, verbose="-v=1" in sys.argv), engine, announce):
        os._exit(1)


if __name__ == "__main__":
    main()
