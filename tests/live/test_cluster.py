"""The NATS part of production on three servers with tags and a system account."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from provision.embedded.nats import Cluster
from provision.nats.errors import ApiError, AuthenticationFailed, Unreachable
from provision.plan.consents import required
from provision.reconcile import check, open_plane
from provision.reconcile.gates import Refused
from provision.spec.errors import OperationError
from tests.live.drift_bed import Bed, Json, Raw, raw
from tests.live.nats_drift import STREAM, Row, drift_stream

SPECS = Path(__file__).parents[2] / "specs"
TAGS = ("agent-state", "task-execution", "messaging", "session-data", "configuration", "cache")
ACCOUNTS: Json = {
    "accounts": {
        "SYS": {"users": [{"user": "sys", "password": "sys-secret"}]},
        "APP": {"jetstream": "enabled", "users": [
            {"user": "app", "password": "app-secret"},
            {"user": "reader", "password": "app-secret",
             "permissions": {"publish": {"deny": ["$JS.API.STREAM.CREATE.S"]}}},
        ]},
    },
    "system_account": "SYS",
}  # fmt: skip


@pytest.fixture(scope="module")
def cluster(server_root: Path) -> Iterator[Cluster]:
    """Two servers with every tag, and a third one without ``cache``."""
    tags = (TAGS, TAGS, TAGS[:-1])
    config = {**ACCOUNTS, "max_payload": 8 * 1024**2, "jetstream": {"sync_interval": "1m"}}
    with Cluster(server_root / "cluster-live", name="nats-cluster", tags=tags, config=config) as found:
        yield found


@pytest.fixture
def link(cluster: Cluster) -> Iterator[Raw]:
    with raw(cluster.urls[0], user="app", password="app-secret") as found:
        for name in found.do("STREAM.NAMES", {})["streams"] or ():
            found.do(f"STREAM.DELETE.{name}")
        yield found


@pytest.fixture
def targets(cluster: Cluster, tmp_path: Path) -> Json:
    """What an environment says of these servers, but for their tags."""
    for name in ("app", "sys"):
        (tmp_path / name).write_text(f"{name}-secret")
        (tmp_path / name).chmod(0o600)
    return {
        "kind": "external", "urls": cluster.urls, "user": "app", "password": {"file": str(tmp_path / "app")},
        "system": {"user": "sys", "password": {"file": str(tmp_path / "sys")}},
    }  # fmt: skip


@pytest.fixture
def production(tmp_path: Path, targets: Json) -> Path:
    """A copy of the specs that concern NATS; of production, the place of the servers and the log-in are ours."""
    specs = tmp_path / "production" / "specs"
    (specs / "environments").mkdir(parents=True)
    for file in SPECS.glob("*.yaml"):
        document = yaml.safe_load(file.read_text())
        kept = {
            k: v for k, v in document.items() if k in ("plane", "streams", "buckets", "object_stores", "publishers")
        }
        (specs / file.name).write_text(json.dumps(kept))
    declared = yaml.safe_load((SPECS / "environments" / "production.yaml").read_text())["targets"]["nats"]["main"]
    declared = {k: v for k, v in declared.items() if k != "creds"}
    write_target(specs, {**declared, **targets})
    return specs


def write_target(specs: Path, target: Json) -> None:
    (specs / "environments" / "production.yaml").write_text(json.dumps({"targets": {"nats": {"main": target}}}))


def target_of(specs: Path) -> Json:
    target: Json = json.loads((specs / "environments" / "production.yaml").read_text())["targets"]["nats"]["main"]
    return target


def retag(specs: Path, old: str, new: str, files: str = "*.yaml") -> None:
    for file in specs.glob(files):
        file.write_text(file.read_text().replace(f'"{old}"', f'"{new}"'))


def plan(specs: Path, *, apply: bool = False) -> Any:
    with open_plane(specs, "production", cache=specs.parent / "cache") as plane:
        found = plane.plan(clock=datetime.now(UTC))
        if apply:
            plane.apply(found, allowed=required(found))
        return found


@pytest.mark.req("A1.3", "A1.6", "A2.2", "A2.3")
def test_production_has_three_copies_where_it_was_told_to(production: Path, link: Raw) -> None:
    plan(production, apply=True)
    shown = {}
    for name in link.do("STREAM.NAMES", {})["streams"]:
        info = link.do(f"STREAM.INFO.{name}")
        shown[name] = (
            info["config"]["num_replicas"],
            info["config"].get("placement"),
            len(info["cluster"].get("replicas", ())),
        )
    here = "nats-cluster"
    assert shown["AGENT_STATE"] == (3, {"cluster": here, "tags": ["agent-state"]}, 2)
    assert shown["TASK_EXECUTION"] == (3, {"cluster": here, "tags": ["task-execution"]}, 2)
    assert shown["AGENT_MESSAGES"] == (1, {"cluster": here, "tags": ["messaging"]}, 0)
    assert shown["KV_SESSION_DATA"] == (3, {"cluster": here, "tags": ["session-data"]}, 2)
    assert shown["KV_AGENT_CONFIG"] == (3, {"cluster": here, "tags": ["configuration"]}, 2)
    assert shown["KV_QUERY_CACHE"] == (1, {"cluster": here, "tags": ["cache"]}, 0)
    assert plan(production).steps == ()


@pytest.mark.req("A1.12")
def test_a_tag_that_the_target_does_not_declare_is_caught_by_check(production: Path) -> None:
    retag(production, "messaging", "mesaging")
    found = check(production, "production", cache=production.parent / "cache", root=production).diagnostics
    assert [d.mark.file.rpartition("/")[2] for d in found if d.severity == "error" and "mesaging" in d.message] == [
        "streams.yaml"
    ]


@pytest.mark.req("A1.12")
def test_a_tag_that_no_live_server_bears_is_caught_by_plan(production: Path, link: Raw) -> None:
    retag(production, "messaging", "chatting", "**/*.yaml")
    with pytest.raises(Refused) as refused:
        plan(production)
    told = "\n".join(refused.value.reasons)
    assert "nats target main is declared with tag chatting, and no live server bears it" in told
    assert ("nats:main/stream/AGENT_MESSAGES wants 1 servers with cluster nats-cluster and tags chatting;"
            " 0 of 3 live servers fit") in told  # fmt: skip
    assert link.do("STREAM.NAMES", {})["streams"] is None


@pytest.mark.req("A1.12")
def test_a_tag_that_too_few_live_servers_bear_is_caught_by_plan(production: Path) -> None:
    file = production / "buckets.yaml"
    document = json.loads(file.read_text())
    document["buckets"]["QUERY_CACHE"]["replicas"] = 3
    file.write_text(json.dumps(document))
    with pytest.raises(Refused) as refused:
        plan(production)
    assert refused.value.reasons == [
        "nats:main/bucket/QUERY_CACHE wants 3 servers with cluster nats-cluster and tags cache; 2 of 3 live servers fit"
    ]


@pytest.mark.req("A1.12")
def test_without_a_system_account_the_servers_own_refusal_names_the_placement(production: Path) -> None:
    retag(production, "messaging", "chatting", "**/*.yaml")
    write_target(production, {k: v for k, v in target_of(production).items() if k != "system"})
    assert plan(production).steps
    with pytest.raises(ApiError) as error:
        plan(production, apply=True)
    assert error.value.err_code == 10005
    assert "chatting" in f"{error.value} {error.value.help}"


@pytest.mark.parametrize(
    ("user", "secret", "error"), [("sys", "app", AuthenticationFailed), ("app", "app", Unreachable)]
)
def test_a_user_who_is_not_of_the_system_account_is_told(
    production: Path, tmp_path: Path, user: str, secret: str, error: type[Exception]
) -> None:
    write_target(production, {**target_of(production),
                              "system": {"user": user, "password": {"file": str(tmp_path / secret)}}})  # fmt: skip
    with pytest.raises(error, match=r"system|refuse this user"):
        plan(production)


def wait_for_copies(link: Raw, name: str) -> None:
    """Wait until a stream that somebody has scaled up has a leader and two current followers."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = link.ask(f"STREAM.INFO.{name}").get("cluster") or {}
        if found.get("leader") and [r["current"] for r in found.get("replicas", ())] == [True, True]:
            return
        time.sleep(0.05)
    raise AssertionError(f"{name} has no three copies")


@pytest.mark.req("B2.2")
def test_the_number_of_copies_drifted_from_outside_is_named_and_mended(
    link: Raw, targets: Json, tmp_path: Path
) -> None:
    bed = Bed(tmp_path / "bed", {"nats": {"main": targets}})
    bed.declare({"streams": {"S": {"subjects": ["s.>"]}}, "buckets": {"B": {}}, "object_stores": {"O": {}}})
    bed.mend()
    row = STREAM["num_replicas"]
    assert isinstance(row, Row)
    for name in ("S", "KV_B", "OBJ_O"):
        drift_stream(link, name, "num_replicas", row)
    for name in ("S", "KV_B", "OBJ_O"):
        wait_for_copies(link, name)
    named = bed.named()
    assert {name: list(fields) for name, fields in named.items()} == {
        "nats:main/stream/S": ["replicas"],
        "nats:main/bucket/B": ["replicas"],
        "nats:main/object_store/O": ["replicas"],
    }
    bed.mend()
    assert [link.config(name)["num_replicas"] for name in ("S", "KV_B", "OBJ_O")] == [1, 1, 1]


def test_a_user_who_may_not_create_streams_is_told_what_is_missing(link: Raw, targets: Json, tmp_path: Path) -> None:
    bed = Bed(tmp_path / "bed", {"nats": {"main": {**targets, "user": "reader"}}})
    bed.declare({"streams": {"S": {"subjects": ["s.>"]}}})
    with pytest.raises(OperationError, match=r"may not publish to \$JS\.API\.STREAM\.CREATE\.S") as error:
        bed.apply()
    assert "$JS.API.STREAM.CREATE.>" in error.value.help
    assert "S" not in (link.do("STREAM.NAMES", {})["streams"] or ())
