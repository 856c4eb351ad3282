"""The rules agree with real servers: sound fixtures are taken, and what a rule calls refused is refused."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from provision import reconcile
from provision.checks.jetstream import Stream
from provision.checks.scene import Scene
from provision.nats.kinds import consumer
from provision.nats.kinds import stream as streams
from tests.checks.specs import DIAGNOSTICS, Loaded, fixtures, load

#: A lone server decides neither about replicas nor about placement.
_CLUSTERED = ("num_replicas", "placement")
#: Rules whose docstring says that a server refuses the bad form.
REFUSED = ["HF0502", "HF0505", "HF0506", "HF0507", "HF0510", "HF0511", "HF0516", "HF0518", "HF0520", "HF0521", "HF0529"]
STREAM_FIXTURES = [f for f in fixtures() if f.name.startswith("HF05")]


def _requests(loaded: Loaded) -> list[tuple[str, dict[str, Any]]]:
    """Streams first, those that copy others last, then consumers."""
    scene = Scene(loaded.plane, loaded.document, loaded.facts)
    ordered = sorted(scene.streams.values(), key=lambda s: bool(s.origins))
    found = [(f"STREAM.CREATE.{s.name}", _stream(s)) for s in ordered]
    for reader in scene.consumers:
        config = consumer.KIND.wire(reader.name, reader.settings)
        config.pop("num_replicas", None)
        body = {"stream_name": reader.stream.name, "config": config, "action": "create"}
        found.append((f"CONSUMER.CREATE.{reader.stream.name}.{reader.name}", body))
    return found


def _stream(stream: Stream) -> dict[str, Any]:
    wired = streams.KIND.wire(stream.name, stream.settings)
    return {k: v for k, v in wired.items() if k not in _CLUSTERED}


def _answers(url: str, requests: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """The errors of the server, one for each refused request."""
    from nats.aio.client import Client

    async def ask() -> list[str]:
        client = Client()
        await client.connect(url, connect_timeout=5)
        try:
            errors = []
            for subject, body in requests:
                answer = await client.request(f"$JS.API.{subject}", json.dumps(body).encode(), timeout=10)
                if error := json.loads(answer.data).get("error"):
                    errors.append(f"{subject}: {error['description']}")
            return errors
        finally:
            await client.close()

    return asyncio.run(ask())


@pytest.mark.parametrize("folder", STREAM_FIXTURES, ids=lambda f: f.name)
def test_a_server_takes_the_sound_streams_and_consumers(folder: Path, nats_url: str, tmp_path: Path) -> None:
    loaded = load(tmp_path, (folder / "good.yaml").read_text(encoding="utf-8"))
    assert _answers(nats_url, _requests(loaded)) == []


@pytest.mark.req("B1.4")
@pytest.mark.parametrize("code", REFUSED)
def test_a_server_refuses_what_the_rule_calls_refused(code: str, nats_url: str, tmp_path: Path) -> None:
    (folder,) = DIAGNOSTICS.glob(f"{code}-*")
    loaded = load(tmp_path, (folder / "bad.yaml").read_text(encoding="utf-8"))
    errors = _answers(nats_url, _requests(loaded))
    refused = {re.sub("^(KV|OBJ)_", "", e.split(":")[0].split(".")[-1]) for e in errors}
    named = {d.message for d in loaded.check()}
    assert refused, "the server took every request"
    assert [name for name in refused if not any(re.search(rf"\b{re.escape(name)}\b", m) for m in named)] == []


ENVIRONMENT = "targets: {postgres: {main: {kind: embedded}}}\n"


@pytest.mark.req("B1.7")
def test_a_server_builds_every_sound_schema(tmp_path: Path) -> None:
    specs = tmp_path / "specs"
    (specs / "environments").mkdir(parents=True)
    (specs / "environments" / "dev.yaml").write_text(ENVIRONMENT, encoding="utf-8")
    (specs / "plane.yaml").write_text("plane: sound\nextensions: {vector: {}}\n", encoding="utf-8")
    for folder in fixtures():
        text = (folder / "good.yaml").read_text(encoding="utf-8")
        schemas = yaml.safe_load(text).get("schemas")
        if not schemas or not folder.name.startswith(("HF03", "HF04")):
            continue
        # Every fixture calls its schema shop; here each gets its own.
        renamed = re.sub(r"\bshop\b", f"shop_{folder.name[2:6]}", yaml.safe_dump({"schemas": schemas}))
        (specs / f"{folder.name}.yaml").write_text(renamed, encoding="utf-8")
    found = reconcile.check(specs, "dev", cache=tmp_path / "cache", root=tmp_path, compiled=True)
    assert [f"{d.mark} {d.code} {d.message} {d.help}" for d in found.diagnostics] == []
