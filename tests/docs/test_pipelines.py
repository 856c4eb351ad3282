"""examples/ci and the hook for pre-commit: every command that is ours runs, and the secrets are those of specs/."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import yaml

from provision.reconcile.workspace import Workspace
from tests.docs.pages import ROOT, files
from tests.docs.project import Project
from tests.docs.test_pages_run import shell

EXAMPLES = ROOT / "examples" / "ci"
GITHUB, GITLAB = "github-actions.yml", "gitlab-ci.yml"
#: What prepares a runner; the tests have it all. The comment on GitHub needs GitHub.
NOT_RUN = {
    "pip install 'holdfast-provision[embedded]'",
    "pip install 'holdfast-provision[embedded,pulumi]'",
    'python -m venv .venv && echo "$PWD/.venv/bin" >> "$GITHUB_PATH"',
    'python -m venv .venv && export PATH="$PWD/.venv/bin:$PATH"',
    'gh pr comment "$NUMBER" --edit-last --create-if-none --body-file comment.md',
}
#: What pipelines need besides the secrets of specs.
OWN = {"PULUMI_BACKEND_URL", "PULUMI_CONFIG_PASSPHRASE"}


def load(name: str) -> dict[Any, Any]:
    found = yaml.safe_load((EXAMPLES / name).read_text())
    assert isinstance(found, dict)
    return found


def commands(name: str) -> list[str]:
    """Every command of an example, in the order of its jobs."""
    if name == GITHUB:
        jobs = load(name)["jobs"].values()
        return [step["run"] for job in jobs for step in job["steps"] if "run" in step]
    pipeline = load(name)
    jobs = [pipeline[stage] for stage in pipeline["stages"]]
    return [*pipeline["default"]["before_script"], *(line for job in jobs for line in job["script"])]


class Comments(BaseHTTPRequestHandler):
    """Takes comments as GitLab's interface does."""

    taken: list[tuple[str, str, str]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.taken.append((self.path, self.headers["PRIVATE-TOKEN"], parse_qs(body)["body"][0]))
        self.send_response(201)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def comments() -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """Where GitLab would be, and what was written there."""
    Comments.taken = []
    server = HTTPServer(("127.0.0.1", 0), Comments)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", Comments.taken
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.req("B3.1")
@pytest.mark.parametrize("name", [GITHUB, pytest.param(GITLAB, marks=pytest.mark.soak)])  # the same commands but one
def test_every_command_of_an_example_runs(
    name: str, tmp_path: Path, pg_database: dict[str, Any], nats_url: str, comments: tuple[str, Any]
) -> None:
    project = Project(tmp_path / "project", pg_database, nats_url, "dev", "staging")
    project.run("stack", "init", "staging")
    url, taken = comments
    gitlab = {
        "CI_API_V4_URL": url, "CI_PROJECT_ID": "7", "CI_MERGE_REQUEST_IID": "3", "GITLAB_TOKEN": "a-token",
    }  # fmt: skip
    github = {"STAGING_NATS_CREDS_FILE": "nats.creds", "NATS_CREDS": "a-key"}
    environment = project.environment(**gitlab, **github)
    for line in ("holdfast migrate init", "holdfast migrate new create_plane --from-plan --env staging"):
        assert shell(line, project.root, environment).returncode == 0
    ran = [line for line in commands(name) if line not in NOT_RUN]
    for line in ran:
        done = shell(line, project.root, environment)
        told = f"$ {line}\n{done.stdout}{done.stderr}"
        assert done.returncode == 0, told
        assert "Traceback" not in told, told
        assert not [secret for secret in project.secrets if secret in told]
    assert [line.split()[:2] for line in ran if line.startswith("pulumi")] == [
        ["pulumi", "preview"], ["pulumi", "preview"], ["pulumi", "up"],
    ]  # fmt: skip
    if name == GITHUB:
        assert (project.root / "nats.creds").stat().st_mode & 0o777 == 0o600
        assert (project.root / "comment.md").read_text() == (project.root / "plan.md").read_text()
    else:
        place = "/projects/7/merge_requests/3/notes"
        assert taken == [(place, "a-token", (project.root / "plan.md").read_text())]


def test_the_examples_run_nothing_else() -> None:
    ours = re.compile(r"(holdfast|pulumi) ")
    rest = {line for name in (GITHUB, GITLAB) for line in commands(name) if not ours.match(line)} - NOT_RUN
    assert {line.split()[0] for line in rest} == {"umask", "head", "curl"}


def _references(node: Any) -> Iterator[str]:
    """The variables that a document refers to."""
    if isinstance(node, dict):
        if node.keys() == {"env"} and isinstance(node["env"], str):
            yield node["env"]
        for inner in node.values():
            yield from _references(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from _references(inner)


@pytest.mark.req("B3.3")
def test_the_examples_hand_over_the_secrets_of_staging_and_hold_none(tmp_path: Path) -> None:
    named = set(_references(Workspace(ROOT / "specs", "staging", tmp_path).document.root))
    assert "STAGING_PG_DSN" in named
    jobs = load(GITHUB)["jobs"]
    for job in (jobs["plan"], jobs["up"]):
        assert job["env"].keys() == named | OWN | {"NATS_CREDS"}
        values = {value for name, value in job["env"].items() if name != "STAGING_NATS_CREDS_FILE"}
        assert [value for value in values if not re.fullmatch(r"\$\{\{ (secrets|vars)\.[A-Z_]+ \}\}", value)] == []
    head = (EXAMPLES / GITLAB).read_text().partition("stages:")[0]
    assert set(re.findall(r"\b[A-Z]+_[A-Z_]+\b", head)) == named | OWN | {"GITLAB_TOKEN"}


def test_a_fork_and_two_runs_at_once_do_no_harm() -> None:
    jobs = load(GITHUB)["jobs"]
    assert "head.repo.full_name == github.repository" in jobs["plan"]["if"]
    assert jobs["up"]["concurrency"]["group"] == load(GITLAB)["up"]["resource_group"] == "staging"
    assert load(GITHUB)["permissions"] == {"contents": "read"}
    assert jobs["plan"]["environment"] != jobs["up"]["environment"]


# Before a commit --------------------------------------------------------------------------------------------


def test_the_hook_finds_a_mistake(tmp_path: Path, pg_database: dict[str, Any], nats_url: str) -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert hook.keys() <= {"id", "name", "description", "entry", "language", "files", "pass_filenames"}
    assert (hook["language"], hook["pass_filenames"]) == ("python", False)
    project = Project(tmp_path / "project", pg_database, nats_url, "dev")
    written = dict(files((ROOT / "docs" / "how-to" / "ci.md").read_text(), "yaml"))[".pre-commit-config.yaml"]
    (used,) = yaml.safe_load(written)["repos"][0]["hooks"]
    assert used["id"] == hook["id"]
    line = " ".join([hook["entry"], *used["args"]])
    assert shell(line, project.root, project.environment()).returncode == 0
    project.edit("max_age: 1h", "max_age: 1 hour")
    done = shell(line, project.root, project.environment())
    assert (done.returncode, "specs/plane.yaml:" in done.stdout) == (1, True), done.stdout
    for path in [*(ROOT / "specs").rglob("*.yaml"), *(ROOT / "specs").rglob("*.sql")]:
        name = path.relative_to(ROOT).as_posix()
        assert re.search(hook["files"], name)
        assert re.search(used["files"], name)
