"""One embedded NATS server through its life, and three of them as a cluster."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from nats.aio.client import Client

from provision.embedded.nats import Cluster, Server
from provision.embedded.process import ServerError


@pytest.fixture
def server(homes: Path) -> Iterator[Server]:
    """A server of its own, down."""
    server = Server(homes / "nats")
    yield server
    server.remove()


def ask(url: str, subject: str, body: object = "") -> dict[str, Any]:
    """One request to a server, with its answer as JSON."""

    async def go() -> bytes:
        client = Client()
        await client.connect(url)
        try:
            payload = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            return bytes((await client.request(subject, payload, timeout=5)).data)
        finally:
            await client.close()

    answer: dict[str, Any] = json.loads(asyncio.run(go()))
    return answer


def monitor(server: Server, path: str) -> dict[str, Any]:
    with urlopen(server.monitor_url + path, timeout=5) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


def test_acknowledged_messages_are_on_disk_and_large_ones_are_taken(server: Server) -> None:
    server.start()
    varz = monitor(server, "/varz")
    assert varz["jetstream"]["config"]["sync_always"] is True
    assert varz["max_payload"] == 8 * 2**20
    assert varz["host"] == "127.0.0.1"
    assert Path(varz["jetstream"]["config"]["store_dir"]).is_relative_to(server.home)


def test_starting_twice_leaves_the_running_server_alone(server: Server) -> None:
    assert server.start()
    other = Server(server.home)
    assert not other.start()
    assert (other.pid, other.url, other.monitor_url) == (server.pid, server.url, server.monitor_url)
    assert not other.is_outdated
    other.config["max_payload"] = 1024
    assert other.is_outdated


def test_messages_survive_kill_9(server: Server) -> None:
    server.start()
    ask(server.url, "$JS.API.STREAM.CREATE.KEPT", {"name": "KEPT", "subjects": ["kept"]})
    assert ask(server.url, "kept", "one")["seq"] == 1
    url = server.url
    server.kill()
    assert server.pid is None
    assert server.start()
    assert server.url == url
    assert ask(server.url, "$JS.API.STREAM.INFO.KEPT")["state"]["messages"] == 1


def test_a_pid_that_became_another_process_is_never_signalled(server: Server) -> None:
    server.start()
    server.kill()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        (server.home / "nats.pid").write_text(str(stranger.pid))
        assert server.pid is None
        assert not server.stop()
        assert server.start()
        assert stranger.poll() is None
        stranger.communicate(b"\n")


def test_a_taken_port_is_left_to_its_owner(server: Server, nats_server: Server) -> None:
    server.port = nats_server.port
    server.start()
    assert server.port != nats_server.port
    info = server.info()
    assert info is not None
    assert info["server_name"] == "holdfast"


def test_a_refused_configuration_is_reported_at_once(server: Server) -> None:
    server.config["max_payload"] = "plenty"
    with pytest.raises(ServerError, match="nats-server refuses"):
        server.start()
    assert server.pid is None


def test_a_server_that_dies_while_starting_is_reported_with_its_log(server: Server) -> None:
    server.home.mkdir()
    server.store_dir.write_text("a file where the store should be")
    with pytest.raises(ServerError, match="does not start"):
        server.start()


def test_three_servers_form_a_cluster_with_their_tags(homes: Path) -> None:
    tags = [("state", "zone-a"), ("tasks",), ("state",)]
    with Cluster(homes, tags=tags) as cluster:
        shown = [monitor(server, "/varz") for server in cluster.servers]
        assert [v["tags"] for v in shown] == [list(t) for t in tags]
        assert {v["cluster"]["name"] for v in shown} == {"nats-cluster"}
        config = {"name": "S", "subjects": ["s"], "num_replicas": 2, "placement": {"tags": ["state"]}}
        made = ask(cluster.urls[0], "$JS.API.STREAM.CREATE.S", config)
        members = {made["cluster"]["leader"], *(r["name"] for r in made["cluster"]["replicas"])}
        assert members == {"nats-cluster-0", "nats-cluster-2"}
    assert [server.pid for server in cluster.servers] == [None, None, None]
