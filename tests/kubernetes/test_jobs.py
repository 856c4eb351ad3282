"""The CronJob and the Job: accepted by the schemas, the specs arriving whole, and their commands run as they stand."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from provision.kubernetes import jobs
from provision.kubernetes.jobs import Specs
from provision.kubernetes.objects import Manifest
from provision.pools.contract import digest
from provision.spec.errors import InputError
from provision.spec.target import Target
from tests.kubernetes import postgres_specs, schemas
from tests.kubernetes.postgres_specs import Found
from tests.live.conftest import Plane

ROOT = Path(__file__).parents[2]


def packed(found: Found) -> Specs:
    return jobs.specs(found.plane, found.target, found.files)


def apply_job(found: Found, **options: Any) -> Manifest:
    given = {"image": "holdfast:1", **options}
    return jobs.apply_job(found.plane, found.target, found.targets.values(), packed(found), **given)


def pod(manifest: Manifest) -> dict[str, Any]:
    spec = manifest["spec"]
    template = spec["jobTemplate"]["spec"]["template"] if manifest["kind"] == "CronJob" else spec["template"]
    found: dict[str, Any] = template["spec"]
    return found


def container(manifest: Manifest) -> dict[str, Any]:
    (found,) = pod(manifest)["containers"]
    assert isinstance(found, dict)
    return found


def variables(manifest: Manifest) -> dict[str, tuple[str, str]]:
    """The variables that come from Secrets: name -> (Secret, key)."""
    entries = [e for e in container(manifest)["env"] if "valueFrom" in e]
    return {e["name"]: tuple(e["valueFrom"]["secretKeyRef"].values()) for e in entries}


def all_of(found: Found) -> tuple[Manifest, ...]:
    specs = packed(found)
    return (specs.config_map, *jobs.maintenance(found.plane, found.target, specs), apply_job(found))


@pytest.mark.req("B3.2")
def test_every_manifest_is_what_its_schema_allows(tmp_path: Path) -> None:
    variants: list[dict[str, Any]] = [{}, {"pull_secrets": ["registry"], "deployer": None, "name": "a" * 50}]
    for kubernetes in variants:
        found = postgres_specs.plane(tmp_path, **kubernetes)
        made = all_of(found)
        assert [problem for manifest in made for problem in schemas.problems(manifest)] == []
        # Pods, and what a CronJob makes, have longer names: 63 characters for a Job, 52 for a CronJob.
        assert all(len(m["metadata"]["name"]) <= {"Job": 63, "CronJob": 52}.get(m["kind"], 253) for m in made)


def test_pods_are_as_restricted_as_they_can_be(tmp_path: Path) -> None:
    for manifest in all_of(postgres_specs.plane(tmp_path))[1:]:
        spec = pod(manifest)
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["automountServiceAccountToken"] is False
        own = container(manifest)["securityContext"]
        assert own["readOnlyRootFilesystem"] is True
        assert own["allowPrivilegeEscalation"] is False
        assert own["capabilities"] == {"drop": ["ALL"]}


def test_maintenance_never_runs_twice_at_once_nor_for_ever(tmp_path: Path) -> None:
    found = postgres_specs.plane(tmp_path)
    (cron,) = jobs.maintenance(found.plane, found.target, packed(found))
    spec = cron["spec"]
    assert (spec["concurrencyPolicy"], spec["timeZone"], spec["schedule"]) == ("Forbid", "Etc/UTC", "17 * * * *")
    assert spec["jobTemplate"]["spec"]["activeDeadlineSeconds"] == 3600
    assert container(cron)["args"] == ["partitions", "maintain", "--specs", "/plane/specs", "--env", "cluster"]
    found = postgres_specs.plane(tmp_path, maintenance=None)
    assert jobs.maintenance(found.plane, found.target, packed(found)) == ()


ARCHIVING = {"schemas": {"agents": {"tables": {"lifecycle_events": {"partitions": {"on_expiry": "archive"}}}}}}


@pytest.mark.req("A6.7", "A6.12")
def test_archives_go_to_a_claim_that_the_environment_names(tmp_path: Path) -> None:
    wanted = {"image": "holdfast:1", "secret": "holdfast", "archive": "agents-archive"}
    found = postgres_specs.plane(tmp_path, {**postgres_specs.OVERRIDE, **ARCHIVING}, maintenance=wanted)
    (cron,) = jobs.maintenance(found.plane, found.target, packed(found))
    assert schemas.problems(cron) == []
    (volume,) = (v for v in pod(cron)["volumes"] if "persistentVolumeClaim" in v)
    assert volume["persistentVolumeClaim"] == {"claimName": "agents-archive"}
    (mount,) = (m for m in container(cron)["volumeMounts"] if m["name"] == volume["name"])
    assert {"name": "HOLDFAST_ARCHIVE", "value": mount["mountPath"]} in container(cron)["env"]
    assert not mount.get("readOnly")
    assert pod(cron)["securityContext"]["fsGroup"] == jobs.USER, "it may write there"
    assert "agents-archive" not in json.dumps(apply_job(found)), "only maintenance archives"


@pytest.mark.req("A6.7")
def test_archives_without_a_claim_are_refused_and_a_claim_without_archives_is_not(tmp_path: Path) -> None:
    found = postgres_specs.plane(tmp_path, {**postgres_specs.OVERRIDE, **ARCHIVING})
    with pytest.raises(InputError, match="lifecycle_events/partitions/set archives what expired") as refused:
        jobs.maintenance(found.plane, found.target, packed(found))
    assert "kubernetes.maintenance.archive" in refused.value.help
    wanted = {"image": "holdfast:1", "secret": "holdfast", "archive": "agents-archive"}
    plain = postgres_specs.plane(tmp_path, maintenance=wanted)
    (cron,) = jobs.maintenance(plain.plane, plain.target, packed(plain))
    assert "agents-archive" in json.dumps(cron), "what an earlier run left to be archived still needs it"


def test_secrets_come_by_reference_and_only_those_that_are_needed(tmp_path: Path) -> None:
    found = postgres_specs.plane(tmp_path)
    (cron,) = jobs.maintenance(found.plane, found.target, packed(found))
    assert variables(cron) == {"DEPLOYER_PASSWORD": ("postgres-deployer", "password")}
    held = {name: ("holdfast", name) for name in ("NATS_SERVERS", *(f"{role}_DB_PASSWORD" for role in ROLES))}
    assert variables(apply_job(found)) == {"DEPLOYER_PASSWORD": ("postgres-deployer", "password"), **held}
    other = variables(apply_job(found, secret="others"))
    assert {secret for secret, _ in other.values()} == {"postgres-deployer", "others"}


ROLES = ("PRIMARY", "REPLICA", "BACKGROUND", "ANALYTICS")


def test_a_cluster_of_another_namespace_lends_no_secret(tmp_path: Path) -> None:
    found = postgres_specs.plane(tmp_path)
    settings = {**found.target.settings, "kubernetes": {**found.target.settings["kubernetes"], "namespace": "other"}}
    elsewhere = Target("pg", "elsewhere", "kubernetes", {**settings, "password": {"env": "ELSEWHERE"}})
    targets = [found.target, elsewhere]
    manifest = jobs.apply_job(found.plane, found.target, targets, packed(found), image="holdfast:1")
    assert variables(manifest)["ELSEWHERE"] == ("holdfast", "ELSEWHERE")
    (volume,) = (v for v in pod(manifest)["volumes"] if v["name"] == "authorities")
    assert [s["secret"]["name"] for s in volume["projected"]["sources"]] == ["postgres-ca"]


def test_a_secret_that_nobody_holds_is_told_by_name(tmp_path: Path) -> None:
    found = postgres_specs.plane(tmp_path, maintenance={"image": "holdfast:1"})
    with pytest.raises(InputError, match=r"no Secret holds ANALYTICS_DB_PASSWORD, .*NATS_SERVERS"):
        apply_job(found)
    assert jobs.maintenance(found.plane, found.target, packed(found)) != ()


@pytest.mark.parametrize(("path", "is_there"), [("/run/secrets/holdfast/ca.crt", True), ("certs/ca.crt", False)])
def test_files_come_from_the_secret_or_are_refused(tmp_path: Path, path: str, is_there: bool) -> None:
    found = postgres_specs.plane(tmp_path)
    target = found.target._replace(settings={**found.target.settings, "tls": {"ca": {"file": path}}})
    if not is_there:
        with pytest.raises(InputError, match=r"there is no file certs/ca\.crt"):
            jobs.maintenance(found.plane, target, packed(found))
        return
    (cron,) = jobs.maintenance(found.plane, target, packed(found))
    assert {"name": "secrets", "mountPath": "/run/secrets/holdfast", "readOnly": True} in container(cron)[
        "volumeMounts"
    ]


def test_a_change_makes_another_job_and_nothing_else_does(tmp_path: Path) -> None:
    found = postgres_specs.plane(tmp_path)
    first = apply_job(found)["metadata"]["name"]
    assert apply_job(found)["metadata"]["name"] == first
    others = [
        apply_job(found, image="holdfast:2"),
        apply_job(found, allow=["data_loss:pg:main/agents/state"]),
        apply_job(found, secret="others"),
    ]
    body = tmp_path / "specs" / "sql" / "touch_updated_at.sql"
    body.write_text(f"{body.read_text()}\n-- changed\n")
    others.append(apply_job(found))
    assert len({first, *(m["metadata"]["name"] for m in others)}) == 5


def test_specs_that_a_config_map_cannot_hold_are_refused(tmp_path: Path) -> None:
    found = postgres_specs.plane(tmp_path)
    with pytest.raises(InputError, match="a ConfigMap takes 1048576"):
        jobs.specs(found.plane, found.target, {"specs/a.yaml": "é" * 2**19, "specs/b.yaml": "x"})
    with pytest.raises(InputError, match="outside"):
        jobs.specs(found.plane, found.target, {"../secret.sql": "x"})


def test_files_whose_paths_look_alike_stay_apart(tmp_path: Path) -> None:
    found = postgres_specs.plane(tmp_path)
    files = {path: path for path in ("s/a--b.sql", "s--a/b.sql", "s/a/b.sql", "s/é.sql", "s/è.sql", "s/a b.sql")}
    specs = jobs.specs(found.plane, found.target, files, folder="s")
    data = specs.config_map["data"]
    assert {specs.paths[key]: text for key, text in data.items()} == files
    assert all(re.fullmatch(r"[-._a-zA-Z0-9]{1,253}", key) for key in data)
    assert schemas.problems(specs.config_map) == []


def mounted(manifest: Manifest, config_map: Manifest, work: Path) -> None:
    """Lay the files out as kubelet does: the ConfigMap's parts, each mounted by its subPath."""
    (volume,) = (v for v in pod(manifest)["volumes"] if v["name"] == "specs")
    assert volume["configMap"]["name"] == config_map["metadata"]["name"]
    for mount in (m for m in container(manifest)["volumeMounts"] if m["name"] == "specs"):
        assert mount["mountPath"] == f"/plane/{mount['subPath']}"
        for item in volume["configMap"]["items"]:
            if item["path"].split("/")[0] == mount["subPath"]:
                (work / item["path"]).parent.mkdir(parents=True, exist_ok=True)
                (work / item["path"]).write_text(config_map["data"][item["key"]])


def test_specs_arrive_as_they_were_sent(tmp_path: Path) -> None:
    sent = postgres_specs.plane(tmp_path / "sent")
    specs = packed(sent)
    mounted(apply_job(sent), specs.config_map, tmp_path / "work")
    arrived = postgres_specs.read(tmp_path / "work")
    assert arrived.files == sent.files
    assert digest(arrived.plane) == digest(sent.plane)


def test_the_job_applies_the_specs(plane: Plane, tmp_path: Path) -> None:
    """Its arguments and its variables, run by the command on real servers; a second Job finds nothing to do."""
    files = {p.relative_to(plane.root).as_posix(): p.read_text() for p in plane.specs.rglob("*.yaml")}
    from provision.reconcile.workspace import Workspace

    workspace = Workspace(plane.specs, "dev", tmp_path / "cache")
    target = workspace.targets["pg", "main"]
    specs = jobs.specs(workspace.plane, target, files)
    manifest = jobs.apply_job(
        workspace.plane, target, workspace.targets.values(), specs, image="holdfast:1", secret="all"
    )
    work = tmp_path / "pod" / "work"
    mounted(manifest, specs.config_map, work)
    assert variables(manifest).keys() <= plane.variables.keys()
    found = container(manifest)
    assert found["command"] == ["holdfast"]
    arguments = [a.replace("/plane/", f"{work}/") for a in found["args"]]
    for said in ("done: ", "no changes"):
        done = subprocess.run(
            [sys.executable, "-m", "provision.cli", *arguments], env=plane.environment(), cwd=work, check=False,
            capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert said in (done.stdout + done.stderr).lower()
    assert plane.plan()["steps"] == []


@pytest.fixture
def plane(tmp_path: Path, pg_database: dict[str, Any], nats_url: str) -> Plane:
    return Plane(tmp_path, pg_database, nats_url)


# The image ---------------------------------------------------------------------------------------------------------

DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")


def instructions(word: str) -> list[str]:
    return re.findall(rf"^{word} (.+)$", DOCKERFILE, re.MULTILINE)


def sources() -> list[str]:
    copies = [c.split() for c in instructions("COPY") if not c.startswith("--from")]
    return [source for copy in copies for source in copy[:-1]]


def test_what_the_image_copies_is_there_and_let_through() -> None:
    assert sources() == ["requirements.lock", "pyproject.toml", "README.md", "LICENSE", "provision"]
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert rules[0] == "*"
    for source in sources():
        assert (ROOT / source).exists()
        assert f"!{source}" in rules
    left_out = [rule for rule in rules[1:] if not rule.startswith("!")]
    assert not any(fnmatch(source, rule) for source in sources() for rule in left_out)


def test_the_image_installs_nothing_without_a_digest() -> None:
    requirements = re.split(r"\n(?=\S)", (ROOT / "requirements.lock").read_text())
    pinned = [r for r in requirements if not r.startswith("#")]
    assert len(pinned) > 10
    assert [r.split()[0] for r in pinned if "==" not in r or "--hash=sha256:" not in r] == []
    commands = " ".join(instructions("RUN"))
    assert "--require-hashes --requirement requirements.lock" in commands
    assert "--no-deps" in commands


def test_the_image_runs_the_command_as_the_user_of_the_jobs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (entry,) = instructions("ENTRYPOINT")
    assert json.loads(entry) == ["holdfast"]
    assert "holdfast" in project["scripts"]
    assert instructions("USER") == [f"{jobs.USER}:{jobs.USER}"]
    assert f"--uid {jobs.USER} " in instructions("RUN")[-1]
    assert instructions("WORKDIR")[-1] == "/plane"


def test_what_only_development_needs_is_not_in_the_image() -> None:
    """The line of the Dockerfile that lists it, run here."""
    code = re.search(r'python -c "(.+?)" > development.txt', DOCKERFILE)
    assert code is not None
    run = subprocess.run([sys.executable, "-c", code[1]], cwd=ROOT, capture_output=True, text=True, check=True)
    groups: Mapping[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    assert len(run.stdout.split()) == len(groups["dev"])
    assert {"pytest", "mypy", "ruff"} <= set(run.stdout.split())
    assert not {"click", "psycopg", "pulumi"} & set(run.stdout.split())
