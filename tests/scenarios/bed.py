"""What a case is played on: an empty database, an empty NATS account, and specs that are written anew for each act."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg

from provision import reconcile
from provision.nats import api
from provision.plan import consents
from provision.reconcile.session import OpenPlane


class Bed:
    """Opens the plane whose specs are laid out, and looks at the servers without asking the product."""

    def __init__(self, root: Path, cache: Path, database: Mapping[str, Any], url: str | None, clock: datetime) -> None:
        self.specs = root / "specs"
        self.cache = cache
        self.clock = clock
        self.database = database
        self.url = url
        (self.specs / "environments").mkdir(parents=True)
        secret = root / "secret"
        secret.write_text(database["password"])
        postgres = {
            "kind": "external", "host": database["host"], "port": database["port"], "user": database["user"],
            "password": {"file": str(secret)}, "database": database["dbname"],
        }  # fmt: skip
        targets = {"postgres": {"main": postgres}}
        if url is not None:
            targets["nats"] = {"main": {"kind": "external", "urls": [url]}}
        (self.specs / "environments" / "dev.yaml").write_text(json.dumps({"targets": targets}))

    def declare(self, text: str) -> None:
        """Lay out the specs of the next act."""
        (self.specs / "plane.yaml").write_text(text)

    def open(self) -> AbstractContextManager[OpenPlane]:
        return reconcile.open_plane(self.specs, "dev", cache=self.cache)

    def bring(self, text: str) -> None:
        """Make the specs true, whatever consents that takes."""
        self.declare(text)
        with self.open() as plane:
            plan = plane.plan(clock=self.clock)
            plane.apply(plan, allowed=consents.required(plan))

    def fill(self, rows: str, messages: Mapping[str, int]) -> None:
        """Run SQL, and publish so many messages to each subject."""
        if rows:
            with psycopg.connect(**self.database, autocommit=True) as connection:
                connection.execute(rows.encode())
        if messages:
            with self._account() as session:
                for subject in (subject for subject, number in messages.items() for _ in range(number)):
                    session.run(session.link.send(subject, b"x"))

    def ask(self, query: str) -> Any:
        """The rows of a query; a bare value where there is just one."""
        with psycopg.connect(**self.database, autocommit=True) as connection:
            rows = [list(row) for row in connection.execute(query.encode())]
        return rows[0][0] if len(rows) == 1 and len(rows[0]) == 1 else rows

    def stream(self, name: str) -> dict[str, Any]:
        """STREAM.INFO."""
        with self._account() as session:
            return session.request(f"$JS.API.STREAM.INFO.{name}")

    def config(self, name: str) -> dict[str, Any]:
        """The configuration of a stream (``S``) or consumer (``S/C``) as the server has it."""
        stream, _, consumer = name.partition("/")
        with self._account() as session:
            subject = f"CONSUMER.INFO.{stream}.{consumer}" if consumer else f"STREAM.INFO.{stream}"
            found: dict[str, Any] = session.request(f"$JS.API.{subject}")["config"]
            return found

    def _account(self) -> api.Session:
        return api.connect(api.settings({"urls": [self.url]}))
