"""All manifests of a plane are what Kubernetes and CloudNativePG accept, always the same, and readable by anyone."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from provision.cli import exits
from provision.cli.main import program, run
from provision.kubernetes import nats, render
from provision.kubernetes.objects import Manifest
from provision.reconcile.manifesting import Clusters, files
from provision.reconcile.workspace import Workspace
from tests.engine import kube
from tests.kubernetes.nats_plane import plane, target
from tests.kubernetes.schemas import problems

VARIANTS: dict[str, Any] = {
    "plain": {},
    "secured": {"tls": {"secret": "certs", "verify": True}, "auth": {"secret": "accounts"}},
    "placed": {"topology_key": "topology.kubernetes.io/zone", "storage_class": "fast", "pull_secrets": ["mirror"]},
    "open": {"clients": [], "monitoring": [{"namespace_labels": {"team": "x"}, "pods": {"app": "prometheus"}}]},
}


@pytest.fixture
def rendered(specs: Path, tmp_path: Path) -> tuple[Manifest, ...]:
    """What production on Kubernetes consists of."""
    return Clusters(specs, "clusters", cache=tmp_path / "cache").manifests()


@pytest.mark.req("A1.12", "B3.2", "H2.1")
def test_everything_of_production_is_valid(rendered: tuple[Manifest, ...]) -> None:
    assert {"StatefulSet", "Cluster", "Pooler", "CronJob", "NetworkPolicy"} <= {m["kind"] for m in rendered}
    assert [problem for manifest in rendered for problem in problems(manifest)] == []


@pytest.mark.parametrize("servers", [1, 3, 5])
@pytest.mark.parametrize("given", VARIANTS.values(), ids=VARIANTS)
def test_each_form_of_a_nats_cluster_is_valid(servers: int, given: Any) -> None:
    made = nats.manifests(plane({"A": {"subjects": ["a"], "max_bytes": 2**30}}), target(given, servers=servers))
    assert [problem for manifest in made for problem in problems(manifest)] == []


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("StatefulSet", "spec.template.spec.containers.0.lifecycle.preStop.exec"),
        ("StatefulSet", "spec.volumeClaimTemplates.0.spec"),
        ("Cluster", "spec.storage"),
        ("Pooler", "metadata"),
        ("NetworkPolicy", "spec.ingress.0"),
    ],
)
def test_a_field_that_nobody_knows_would_be_found(rendered: tuple[Manifest, ...], kind: str, path: str) -> None:
    broken = copy.deepcopy(next(m for m in rendered if m["kind"] == kind))
    node: Any = broken
    for step in path.split("."):
        node = node[int(step) if step.isdigit() else step]
    node["replicaz"] = 1
    (problem,) = problems(broken)
    assert path in problem
    assert "replicaz" in problem


def test_no_two_objects_have_one_name(rendered: tuple[Manifest, ...]) -> None:
    found = [render.identity(m) for m in rendered]
    assert sorted(set(found)) == sorted(found)


def test_the_same_specs_give_the_same_text_whatever_the_order_of_targets(workspace: Workspace, specs: Path) -> None:
    targets = list(workspace.document.targets.values())
    texts = files(specs, "clusters", workspace.document)
    one = render.manifests(workspace.plane, targets, texts)
    other = render.manifests(workspace.plane, reversed(targets), dict(reversed(texts.items())))
    assert render.to_yaml(one) == render.to_yaml(other)
    assert render.manifests(workspace.plane, []) == ()


def test_what_others_refer_to_comes_first(rendered: tuple[Manifest, ...]) -> None:
    kinds = list(dict.fromkeys(m["kind"] for m in rendered))
    assert kinds.index("ConfigMap") < kinds.index("Service") < kinds.index("StatefulSet") < kinds.index("Pooler")


def test_written_text_reads_back_as_the_same_objects(rendered: tuple[Manifest, ...]) -> None:
    assert tuple(yaml.safe_load_all(render.to_yaml(rendered))) == rendered
    assert render.to_list(rendered)["items"] == list(rendered)


@pytest.mark.parametrize(
    "text", ["on", "y", "N", "1e3", "0o17", "017", "12:30", "null", "~", "1.0", "", " a", "a: b", "=", "<<"]
)
def test_text_is_text_to_every_reader_of_yaml(text: str) -> None:
    assert render.to_yaml([{"value": text}]) in {f'---\nvalue: "{text}"\n', f"---\nvalue: '{text}'\n"}


@pytest.mark.req("B3.3")
def test_no_manifest_holds_a_secret(rendered: tuple[Manifest, ...]) -> None:
    assert not any(m["kind"] == "Secret" for m in rendered)


@pytest.mark.req("B3.2")
def test_the_command_prints_what_kubectl_applies(specs: Path, rendered: tuple[Manifest, ...]) -> None:
    arguments = ["manifests", "--specs", str(specs), "--env", "clusters"]
    shown = CliRunner().invoke(program, arguments)
    assert shown.exit_code == 0, shown.output
    assert tuple(yaml.safe_load_all(shown.stdout)) == rendered
    listed = json.loads(CliRunner().invoke(program, [*arguments, "--format", "json"]).stdout)
    assert (listed["kind"], tuple(listed["items"])) == ("List", rendered)


def test_an_environment_without_kubernetes_has_no_manifests(specs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["manifests", "--specs", str(specs), "--env", "dev"]) == exits.FAILED
    said = capsys.readouterr()
    assert said.out == ""
    assert "no target of kind kubernetes" in said.err


def test_specs_with_a_mistake_have_no_manifests(specs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    environment = specs / "environments" / "clusters.yaml"
    environment.write_text(environment.read_text().replace("servers: 3", "servers: 4"))
    assert run(["manifests", "--specs", str(specs), "--env", "clusters"]) == exits.FAILED
    said = capsys.readouterr()
    assert said.out == ""
    assert "clusters.yaml:11:16: servers of target main are 4" in said.err


@pytest.mark.soak
@pytest.mark.req("A1.12", "B3.2")
def test_an_api_server_takes_every_manifest(cluster: kube.Cluster, rendered: tuple[Manifest, ...]) -> None:
    spaces = {render.identity(m)[0] for m in rendered}
    for space in spaces:
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space}})
    for dry_run in (True, False):
        for manifest in rendered:
            cluster.apply(manifest, dry_run=dry_run)
    again = [cluster.get(m)["metadata"] for m in rendered]
    for manifest in rendered:
        cluster.apply(manifest)
    unchanged = ("resourceVersion", "generation")
    assert [{k: cluster.get(m)["metadata"].get(k) for k in unchanged} for m in rendered] == [
        {k: meta.get(k) for k in unchanged} for meta in again
    ]


@pytest.mark.soak
@pytest.mark.parametrize("servers", [1, 3, 5])
def test_an_api_server_takes_each_form_of_a_nats_cluster(cluster: kube.Cluster, servers: int) -> None:
    for name, given in VARIANTS.items():
        for manifest in nats.manifests(plane(), target({**given, "name": f"{name}-{servers}"}, servers=servers)):
            cluster.apply(manifest)


@pytest.mark.soak
def test_an_api_server_refuses_a_field_that_nobody_knows(cluster: kube.Cluster) -> None:
    broken = copy.deepcopy(nats.manifests(plane(), target({"name": "broken"}))[4])
    broken["spec"]["replicaz"] = 3
    assert problems(broken)
    with pytest.raises(kube.Refused, match="replicaz"):
        cluster.apply(broken, dry_run=True)


@pytest.mark.soak
def test_the_pods_keep_the_restricted_standard(cluster: kube.Cluster, rendered: tuple[Manifest, ...]) -> None:
    enforced = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "strict", "labels": enforced}})
    templates = [_template(m["spec"]) for m in rendered if m["kind"] in ("StatefulSet", "CronJob")]
    assert len(templates) == 2
    for number, template in enumerate(templates):
        metadata = {"name": f"pod-{number}", "namespace": "strict"}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": copy.deepcopy(template["spec"])}
        pod["spec"].setdefault("volumes", []).append({"name": "data", "emptyDir": {}})
        cluster.apply(pod, dry_run=True)
        pod["spec"]["securityContext"]["runAsNonRoot"] = False
        with pytest.raises(kube.Refused, match="violates PodSecurity"):
            cluster.apply(pod, dry_run=True)


def _template(spec: Any) -> Any:
    return spec["jobTemplate"]["spec"]["template"] if "jobTemplate" in spec else spec["template"]
