"""The NATS part of production on three servers: replicas, placement and sizes as the server tells them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from provision.embedded.nats import Cluster
from tests.acceptance.plane import SPECS, Request, holdfast, requester, succeed

GIB = 1024**3
TAGS = ("agent-state", "task-execution", "messaging", "session-data", "configuration", "cache")


class Production(NamedTuple):
    """The specs of production without databases, and the URLs of three servers."""

    specs: Path
    servers: str

    def holdfast(self, *arguments: str) -> Any:
        return holdfast(self.specs, "production", *arguments, NATS_SERVERS=self.servers)


def nats_part(folder: Path) -> Path:
    """Copy what concerns NATS: the servers are ours and ask for no credentials."""
    specs = folder / "specs"
    (specs / "environments").mkdir(parents=True)
    for name in ("plane.yaml", "streams.yaml", "buckets.yaml"):
        shutil.copy(SPECS / name, specs)
    runtime, cut, _ = (SPECS / "runtime.yaml").read_text().partition("\nschemas:")
    production, found, _ = (SPECS / "environments" / "production.yaml").read_text().partition("\n  postgres:")
    assert cut
    assert found
    (specs / "runtime.yaml").write_text(runtime + "\n")
    lines = [line for line in production.splitlines() if "creds:" not in line]
    (specs / "environments" / "production.yaml").write_text("\n".join(lines) + "\n")
    return specs


@pytest.fixture(scope="module")
def production(server_root: Path) -> Iterator[Production]:
    home = server_root / "three"
    config = {"max_payload": 8 * 1024**2, "jetstream": {"sync_interval": "1m"}}
    with Cluster(home, name="nats-cluster", tags=[TAGS] * 3, config=config) as cluster:
        found = Production(nats_part(home / "production"), ",".join(cluster.urls))
        succeed(found.holdfast("apply", "--yes"))
        yield found


@pytest.fixture
def ask(production: Production) -> Request:
    return requester(production.servers.split(",")[0])


def stream(ask: Request, name: str) -> dict[str, Any]:
    answer = ask(f"$JS.API.STREAM.INFO.{name}")
    assert "error" not in answer, answer
    return answer


@pytest.mark.req("A1.2", "A1.3", "A1.6", "A1.8", "A1.9", "A1.10")
@pytest.mark.parametrize(
    ("name", "replicas", "tag", "max_bytes"),
    [
        ("AGENT_STATE", 3, "agent-state", 1_073_741_824),
        ("TASK_EXECUTION", 3, "task-execution", 10_737_418_240),
        ("AGENT_MESSAGES", 1, "messaging", 104_857_600),
    ],
)
def test_streams_are_placed_with_their_replicas(
    ask: Request, name: str, replicas: int, tag: str, max_bytes: int
) -> None:
    answer = stream(ask, name)
    found = answer["config"]
    assert found["num_replicas"] == replicas
    assert found["placement"] == {"cluster": "nats-cluster", "tags": [tag]}
    assert found["max_bytes"] == max_bytes
    assert answer["cluster"]["name"] == "nats-cluster"
    assert len(answer["cluster"].get("replicas", [])) == replicas - 1


@pytest.mark.req("A2.1", "A2.2", "A2.3", "A2.4", "A2.6")
@pytest.mark.parametrize(
    ("bucket", "replicas", "tag"),
    [
        ("SESSION_DATA", 3, "session-data"),
        ("AGENT_STATE", 3, "agent-state"),
        ("AGENT_CONFIG", 3, "configuration"),
        ("QUERY_CACHE", 1, "cache"),
    ],
)
def test_buckets_are_placed_with_their_replicas(ask: Request, bucket: str, replicas: int, tag: str) -> None:
    found = stream(ask, f"KV_{bucket}")["config"]
    assert found["num_replicas"] == replicas
    assert found["placement"] == {"cluster": "nats-cluster", "tags": [tag]}
    assert found["max_bytes"] == GIB


@pytest.mark.req("A1.11", "A1.12")
def test_a_second_plan_has_no_steps(production: Production) -> None:
    assert json.loads(succeed(production.holdfast("plan", "--format", "json")))["steps"] == []


@pytest.mark.req("A1.12")
def test_a_tag_that_no_server_declares_is_found_by_check(production: Production, tmp_path: Path) -> None:
    specs = shutil.copytree(production.specs, tmp_path / "specs")
    streams = specs / "streams.yaml"
    streams.write_text(streams.read_text().replace("tags: [messaging]", "tags: [mesaging]"))
    done = holdfast(specs, "production", "check", "--format", "json")
    assert done.returncode == 1
    (found,) = json.loads(done.stdout)["diagnostics"]
    assert Path(found["file"]).name == "streams.yaml"
    assert "mesaging" in found["message"]
