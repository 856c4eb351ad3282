"""Real servers start with the rendered configuration, form a cluster, and hold what the specs declare."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from provision.embedded.nats import Server, program
from provision.embedded.process import wait_until
from provision.kubernetes import nats, sizes
from provision.reconcile.workspace import Workspace
from provision.spec.target import Target
from tests.acceptance.plane import holdfast, requester, succeed
from tests.kubernetes import pods
from tests.kubernetes.conftest import ENVIRONMENT, ROOT
from tests.kubernetes.nats_plane import plane, target

GIB, MIB = 2**30, 2**20
ACCOUNTS = """\
accounts {
  APP { jetstream: enabled, users: [{user: app, password: app-secret}] }
  SYS { users: [{user: sys, password: sys-secret}] }
}
system_account: SYS
"""
ORDERS = {"ORDERS": {"subjects": ["orders"], "max_bytes": GIB, "replicas": 1}}
WITH_TLS = {"tls": {"secret": "certs"}, "auth": {"secret": "accounts"}}


@pytest.mark.req("A1.12", "B3.2")
@pytest.mark.parametrize("servers", [1, 3, 5])
@pytest.mark.parametrize(
    "given",
    [{}, {"sync_interval": "10s"}, WITH_TLS, {"tls": {"secret": "certs", "verify": True}}],
    ids=["plain", "interval", "secured", "mutual"],
)
def test_a_server_takes_the_configuration_of_each_pod(servers: int, given: Any, tmp_path: Path) -> None:
    on = target(given, servers=servers, tags=["ssd", 'with "quotes"'], domain="hub")
    secrets = {"auth.conf": ACCOUNTS.encode(), **pods.certificates(tmp_path / "certs", "nats")}
    for pod, (folder, _, _) in pods.written(nats.manifests(plane(ORDERS), on), tmp_path / "pods", secrets).items():
        command = [str(program()), "-t", "-c", str(folder / f"{pod}.conf")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.req("B3.2")
def test_one_server_runs_as_rendered_passes_its_probes_and_leaves_when_asked(server_root: Path) -> None:
    on = target({"sync_interval": "10s"}, servers=1, tags=["ssd"], max_payload="2MiB")
    with pods.running(nats.manifests(plane(ORDERS), on), server_root / "nats-one") as (pod,):
        assert pod.is_healthy("readinessProbe")
        assert pod.is_healthy("livenessProbe")
        _, found = pod.get("/varz")
        assert (found["server_name"], found["tags"], found["max_payload"]) == (pod.name, ["ssd"], 2 * MIB)
        _, found = pod.get("/jsz?config=true")
        assert found["config"]["max_storage"] == 3 * GIB
        assert found["config"]["sync_interval"] == 10 * 10**9
        command = [
            p.replace("/var/run/nats", str(pod.home)) for p in pod.container["lifecycle"]["preStop"]["exec"]["command"]
        ]
        subprocess.run([program(), *command[1:]], check=True, capture_output=True)
        assert wait_until(lambda: pod.process.poll() is not None, 60, 0.1)
        assert "Entering lame duck mode" in (pod.home / "log").read_text()


class Production(NamedTuple):
    """The NATS part of the specs on the servers that were rendered for it."""

    specs: Path
    pods: list[pods.Pod]

    def holdfast(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        servers = ",".join(f"tls://127.0.0.1:{pod.client}" for pod in self.pods)
        secrets = {"NATS_PASSWORD": "app-secret", "NATS_SYSTEM_PASSWORD": "sys-secret"}
        return holdfast(self.specs, "clusters", *arguments, NATS_SERVERS=servers, **secrets)


def nats_part(folder: Path, ca: Path) -> Path:
    """The specs that concern NATS, with the environment of this folder; clients trust the test's authority."""
    specs = folder / "specs"
    (specs / "environments").mkdir(parents=True)
    for file in (ROOT / "specs").glob("*.yaml"):
        document = yaml.safe_load(file.read_text())
        kept = {
            k: v for k, v in document.items() if k in ("plane", "streams", "buckets", "object_stores", "publishers")
        }
        (specs / file.name).write_text(json.dumps(kept))
    on = yaml.safe_load(ENVIRONMENT.read_text())["targets"]["nats"]["main"]
    environment = {"targets": {"nats": {"main": {**on, "tls": {"ca": str(ca)}}}}}
    (specs / "environments" / "clusters.yaml").write_text(json.dumps(environment))
    return specs


@pytest.fixture(scope="module")
def production(server_root: Path) -> Iterator[Production]:
    folder = server_root / "rendered"
    certificates = pods.certificates(folder / "certs")
    specs = nats_part(folder, folder / "certs" / "ca.crt")
    read = Workspace(specs, "clusters", folder / "cache")
    assert read.errors == []
    manifests = nats.manifests(read.plane, read.document.targets["nats", "main"])
    with pods.running(manifests, folder / "nats-pods", {"auth.conf": ACCOUNTS.encode(), **certificates}) as found:
        yield Production(specs, found)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.req("A1.12", "A2.1", "A2.2", "A2.3", "A2.4", "B3.2")
def test_the_rendered_cluster_takes_every_stream_of_production(production: Production) -> None:
    succeed(production.holdfast("apply", "--yes"))
    assert json.loads(succeed(production.holdfast("plan", "--format", "json")))["steps"] == []
    names = {pod.name for pod in production.pods}
    for pod in production.pods:
        _, found = pod.get("/jsz?accounts=true&streams=true&config=true")
        assert found["config"]["sync_always"] is True
        streams = {s["name"]: s for a in found["account_details"] for s in a["stream_detail"]}
        assert {"TASK_EXECUTION", "KV_AGENT_STATE", "KV_SESSION_DATA"} <= set(streams)
        task = streams["TASK_EXECUTION"]["cluster"]
        assert {pod.name, task["leader"], *(r["name"] for r in task["replicas"])} == names
        assert found["reserved_storage"] <= found["config"]["max_storage"]
        assert found["reserved_memory"] <= found["config"]["max_memory"]


@pytest.mark.req("B3.2")
def test_the_cluster_is_what_its_target_declares(production: Production) -> None:
    done = production.holdfast("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    (meta,) = [m for p in production.pods if (m := p.get("/jsz")[1]["meta_cluster"])["leader"] == p.name]
    assert (meta["name"], meta["cluster_size"]) == ("nats-cluster", 3)
    _, found = production.pods[0].get("/varz")
    assert found["cluster"]["tls_required"] is True
    assert found["auth_required"] is True


@pytest.mark.parametrize(("store", "is_refused"), [("1GiB", True), (None, False)])
def test_what_check_says_finds_no_place_is_refused_by_the_servers(
    server_root: Path, store: str | None, is_refused: bool
) -> None:
    made = plane({f"S{i}": {"subjects": [f"s{i}"], "max_bytes": 600 * MIB} for i in range(4)})
    on = target(max_file_store=store)
    misfits = sizes.misfits(sizes.demands(made, on), on, "file", sizes.nats(made, on).max_file_store)
    assert bool(misfits) is is_refused
    with pods.running(nats.manifests(made, on), server_root / "nats-full") as found:
        assert wait_until(lambda: all(p.get("/jsz")[1]["meta_cluster"].get("leader") for p in found), 30, 0.1)
        ask = requester(f"nats://127.0.0.1:{found[0].client}")

        def create(name: str) -> int:
            config = {"name": name, "subjects": [name.lower()], "max_bytes": 600 * MIB, "num_replicas": 1}
            code: int = ask(f"$JS.API.STREAM.CREATE.{name}", config).get("error", {}).get("err_code", 0)
            return code

        def refuses_the_last() -> bool:
            code = create("S3")
            ask("$JS.API.STREAM.DELETE.S3")
            return code == 10005

        assert [create(name) for name in ("S0", "S1", "S2")] == [0, 0, 0]
        # The leader judges by what servers told it last, so it may take too many in the first seconds.
        assert wait_until(refuses_the_last, 30 if is_refused else 3, 0.5) is is_refused


@pytest.mark.parametrize(("payload", "starts"), [("64MiB", True), ("65MiB", False)])
def test_a_server_starts_up_to_the_payload_that_check_allows(payload: str, starts: bool, tmp_path: Path) -> None:
    on = target(servers=1, max_payload=payload)
    ((pod, (folder, _, _)),) = pods.written(nats.manifests(plane(), on), tmp_path / "pods", {}).items()
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen([program(), "-c", folder / f"{pod}.conf"], stdout=output, stderr=output)
    try:
        text = "Server is ready" if starts else "cannot be higher than max_pending"
        assert wait_until(lambda: text in log.read_text(), 20, 0.05), log.read_text()
    finally:
        process.kill()
        process.wait()


def test_a_target_names_its_servers_for_clients_inside(production: Production) -> None:
    read = Workspace(production.specs, "clusters", production.specs.parent / "cache")
    on: Target = read.document.targets["nats", "main"]
    assert nats.url(on) == "tls://nats-cluster.agents.svc:4222"


@pytest.mark.soak
@pytest.mark.parametrize("line", ["2.10", "2.11", "2.12", "2.14"])
def test_older_servers_take_the_configuration_too(line: str, nats_of: Callable[[str], Server], tmp_path: Path) -> None:
    on = target(WITH_TLS, tags=["ssd"], domain="hub", version=line)
    secrets = {"auth.conf": ACCOUNTS.encode(), **pods.certificates(tmp_path / "certs", "nats")}
    for pod, (folder, _, _) in pods.written(nats.manifests(plane(ORDERS), on), tmp_path / "pods", secrets).items():
        command = [str(nats_of(line).binary), "-t", "-c", str(folder / f"{pod}.conf")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
