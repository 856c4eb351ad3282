"""The layer ``clusters`` and ``mode: job`` of the stacks' program: every manifest becomes the right resource."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pulumi
import pytest
from pulumi.runtime import mocks, rpc

from provision.reconcile import manifesting

ROOT = Path(__file__).parents[2]
SPECS = ROOT / "specs"


class Registered(NamedTuple):
    """A resource as the engine would hear of it."""

    token: str
    name: str
    inputs: dict[str, Any]
    retain: bool
    ignored: tuple[str, ...]


class Mocks(mocks.Mocks):
    """Stands for pulumi-kubernetes, whose binary is not to be had here. It gives back what it is given."""

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        return args.name, args.inputs

    def call(self, args: mocks.MockCallArgs) -> tuple[dict[Any, Any], list[tuple[str, str]] | None]:
        raise AssertionError(f"the program calls {args.token}")


class Kubernetes(mocks.MockMonitor):
    """Keeps what the program registers."""

    def __init__(self) -> None:
        super().__init__(Mocks())
        self.found: list[Registered] = []

    def RegisterResource(self, request: Any) -> Any:  # noqa: N802
        if request.custom:
            inputs: Any = rpc.deserialize_properties(request.object)
            options = request.retainOnDelete, tuple(request.ignoreChanges)
            self.found.append(Registered(request.type, request.name, inputs, *options))
        return super().RegisterResource(request)  # type: ignore[no-untyped-call]


@pytest.fixture
def kubernetes(program_loop: None) -> Kubernetes:
    found = Kubernetes()
    mocks.set_mocks(Mocks(), project="holdfast", stack="production-clusters", monitor=found)
    return found


def module(name: str) -> ModuleType:
    """A module of the program, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "stacks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def register(layer: str, env: str = "production-kubernetes", **config: str) -> None:
    """Run a layer of the program to its end."""
    for key, value in config.items():
        pulumi.runtime.set_config(f"holdfast:{key}", value)

    def run() -> None:
        module(layer).register(pulumi.Config("holdfast"), SPECS, env)

    pulumi.runtime.test(run)()  # type: ignore[no-untyped-call]


@pytest.mark.req("B3.2", "A1.12")
def test_every_manifest_is_one_resource_of_its_own_kind(kubernetes: Kubernetes, tmp_path: Path) -> None:
    register("clusters")
    wanted = manifesting.Clusters(SPECS, "production-kubernetes", cache=tmp_path).manifests()
    made = [r for r in kubernetes.found if not r.token.endswith("Patch")]
    assert [r.inputs for r in made] == list(wanted)
    tokens = {r.token for r in made}
    assert {
        "kubernetes:apps/v1:StatefulSet",
        "kubernetes:core/v1:Service",
        "kubernetes:postgresql.cnpg.io/v1:Cluster",
        "kubernetes:postgresql.cnpg.io/v1:Pooler",
    } <= tokens


@pytest.mark.req("B3.2")
def test_data_outlives_its_resource_and_templates_of_claims_are_left_alone(kubernetes: Kubernetes) -> None:
    register("clusters")
    kept = {r.token.rpartition(":")[2] for r in kubernetes.found if r.retain}
    assert kept == {"StatefulSet", "Cluster", "Database"}
    (servers,) = (r for r in kubernetes.found if r.token.endswith(":StatefulSet"))
    assert servers.ignored == ("spec.volumeClaimTemplates",)
    patches = [r for r in kubernetes.found if r.token == "kubernetes:core/v1:PersistentVolumeClaimPatch"]
    assert len(patches) == 3
    assert all(set(p.inputs["spec"]) == {"resources"} for p in patches)


def test_the_endpoints_that_the_plane_takes_are_those_of_the_services() -> None:
    found = manifesting.Clusters(SPECS, "production-kubernetes", cache=Path("build/cache")).endpoints()
    assert found["nats"]["main"]["urls"] == ["tls://nats-cluster.agents.svc:4222"]
    assert found["postgres"]["main"]["endpoints"]["primary"] == "postgres-rw.agents.svc.cluster.local"


def test_a_job_takes_the_specs_with_it_and_needs_an_image(kubernetes: Kubernetes) -> None:
    register("jobs", image="agents/holdfast:1.0.0", secret="holdfast")
    assert [r.token for r in kubernetes.found] == ["kubernetes:core/v1:ConfigMap", "kubernetes:batch/v1:Job"]
    job = kubernetes.found[1].inputs
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == "agents/holdfast:1.0.0"
    assert container["args"][:2] == ["apply", "--yes"]


def test_an_environment_without_kubernetes_says_so(kubernetes: Kubernetes) -> None:
    with pytest.raises(pulumi.RunError, match="no target of kind kubernetes"):
        register("clusters", "dev")


@pytest.mark.skipif(
    shutil.which("pulumi-resource-kubernetes") is None,
    reason="pulumi-resource-kubernetes is not on PATH: the layer clusters is tested with mocks and the API server",
)
@pytest.mark.soak
def test_a_preview_of_the_clusters_passes_with_the_real_provider(tmp_path: Path) -> None:
    from tests.pulumi.stack import whole

    with whole(tmp_path, "production-clusters") as stack:
        assert stack.preview().counts["create"] >= 13
