"""How acceptance tests reach the product and its servers: the command line, libpq keywords, raw requests."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

SPECS = Path(__file__).parents[2] / "specs"
HOLDFAST = Path(sys.executable).with_name("holdfast")
#: Variables of the caller must not reach the plane under test.
_ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "NATS_", "HOLDFAST_"))}

Json = dict[str, Any]


class Plane(NamedTuple):
    """Where the applied plane is: its folder of specs, libpq keywords, and the NATS URL."""

    specs: Path
    postgres: dict[str, Any]
    nats: str

    def holdfast(self, *arguments: str, env: str = "dev") -> subprocess.CompletedProcess[str]:
        """Run a command on it."""
        return holdfast(self.specs, env, *arguments)


def holdfast(specs: Path, env: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a user would, with these variables; its cache is its own."""
    variables = {**_ENVIRONMENT, "HOLDFAST_CACHE": str(specs.parent / "cache"), **variables}
    command = [str(HOLDFAST), "--specs", str(specs), "--env", env, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=variables, check=False, timeout=170)


def succeed(done: subprocess.CompletedProcess[str]) -> str:
    """Give what a command printed; fail with everything it said."""
    assert done.returncode == 0, f"{' '.join(done.args)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


Request = Callable[..., Json]


def requester(url: str) -> Request:
    """Give a function that sends one request to the JetStream API and returns its answer."""

    async def ask(subject: str, body: Json | None) -> Json:
        from nats.aio.client import Client

        client = Client()
        await client.connect(url, connect_timeout=5)
        try:
            data = b"" if body is None else json.dumps(body).encode()
            answer: Json = json.loads((await client.request(subject, data, timeout=10)).data)
        finally:
            await client.close()
        return answer

    return lambda subject, body=None: asyncio.run(ask(subject, body))
