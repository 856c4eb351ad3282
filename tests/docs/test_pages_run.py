"""README and how-to pages: every command line does on real servers what the page says."""

from __future__ import annotations

import ast
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs.pages import PAGES, ROOT, files, lines
from tests.live.conftest import Plane

HOW_TO = ROOT / "docs" / "how-to"
#: Run by tests/live/test_least_privilege.py, tests/pulumi/test_pulumi_import.py, tests/docs/test_pulumi_pages.py and
#: tests/docs/test_runtime_pages.py.
ELSEWHERE = {
    "least-privilege.md", "pulumi.md", "pulumi-components.md", "pulumi-import.md",
    "runtime.md", "runtime-promises.md", "runtime-limits.md",
}  # fmt: skip


@pytest.fixture
def plane(tmp_path: Path, pg_database: dict[str, Any], nats_url: str) -> Plane:
    """A project folder with the small plane in ``specs/``, for the environments dev and staging."""
    found = Plane(tmp_path, pg_database, nats_url)
    (found.specs / "environments" / "staging.yaml").write_text((found.specs / "environments" / "dev.yaml").read_text())
    return found


def _without_specs(plane: Plane) -> None:
    """The plane's servers, applied, and nothing of it in the folder or the ledger."""
    plane.run("apply", "--yes")
    plane.sql("DROP SCHEMA holdfast CASCADE")
    for path in sorted(plane.specs.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    plane.specs.rmdir()


def _drifted(plane: Plane) -> None:
    plane.run("apply", "--yes")
    plane.sql("ALTER TABLE app.item ALTER COLUMN price SET DEFAULT 5")


def _without_a_table(plane: Plane) -> None:
    plane.run("apply", "--yes")
    text = (plane.specs / "plane.yaml").read_text()
    plane.write(re.sub(r"      log:\n(?:        .*\n)+", "", text))


def _applied(plane: Plane) -> None:
    plane.run("apply", "--yes")


def _nothing(plane: Plane) -> None:
    pass


def _on_kubernetes(plane: Plane) -> None:
    """The environment that the page declares."""
    for path, text in files((HOW_TO / "kubernetes.md").read_text(), "yaml"):
        if path.startswith("specs/"):
            (plane.root / path).write_text(text)


def _differ(plane: Plane) -> None:
    """Between two sections of adopt.md: a table differs, and the ledger knows nothing of it."""
    plane.sql("DELETE FROM holdfast.objects")
    plane.sql("ALTER TABLE app.item ALTER COLUMN price SET DEFAULT 5")


def _with_a_note(plane: Plane) -> None:
    """Before the second migration of migrations.md: the specs have a column more."""
    plane.edit("default: now()}\n", "default: now()}\n          note: {type: text}\n")


def _filled(plane: Plane) -> None:
    """The statements that the reader writes."""
    for path, text in files((HOW_TO / "migrations.md").read_text(), "sql"):
        (plane.root / path).write_text(text)


def _with_migrations(plane: Plane) -> None:
    """The history declared, and a first file that holds the plane."""
    plane.run("migrate", "init")
    plane.run("migrate", "new", "create_plane", "--from-plan")


#: Page -> how its project is prepared, and what happens before certain lines.
STATES: dict[str, Callable[[Plane], None]] = {
    "README.md": _with_migrations,
    "CONTRIBUTING.md": _nothing,
    "ci.md": _with_migrations,
    "adopt.md": _without_specs,
    "drift.md": _drifted,
    "consents.md": _without_a_table,
    "kubernetes.md": _on_kubernetes,
    "partitions.md": _applied,
    "migrations.md": _nothing,
}
BEFORE: dict[tuple[str, str, int], Callable[[Plane], None]] = {
    ("adopt.md", "holdfast apply --yes", 3): _differ,
    ("migrations.md", "holdfast migrate new add_item_note --from-plan", 0): _with_a_note,
    ("migrations.md", "holdfast migrate lint", 0): _filled,
}


def shell(line: str, project: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a line as a person at a terminal would, who answers each question with yes."""
    terminal, keyboard = pty.openpty()
    try:
        os.write(terminal, b"y\n" * 5)
        return subprocess.run(
            ["bash", "-euc", line], cwd=project, env=environment, stdin=keyboard,
            capture_output=True, text=True, timeout=150, check=False,
        )  # fmt: skip
    finally:
        os.close(terminal)
        os.close(keyboard)


def _environment(folder: Path, **more: str) -> dict[str, str]:
    """A shell that knows ``holdfast`` and nothing of this machine's caches."""
    programs = folder / "bin"
    programs.mkdir()
    (programs / "holdfast").write_text(f'#!/bin/sh\nexec {sys.executable} -m provision.cli "$@"\n')
    (programs / "holdfast").chmod(0o755)
    kept = {k: v for k, v in os.environ.items() if k in ("HOME", "LANG", "TMPDIR")}
    return kept | {"PATH": f"{programs}:{os.environ['PATH']}", "HOLDFAST_CACHE": str(folder / "cache"), **more}


def _run(page: Path, project: Path, environment: dict[str, str], before: Callable[[str, int], None]) -> None:
    for line in lines(page.read_text()):
        if line.skipped is None:
            before(line.text, line.code)
            done = shell(line.text, project, environment)
            told = f"$ {line.text}\n{done.stdout}{done.stderr}"
            assert done.returncode == line.code, told
            assert "Traceback" not in told, told


@pytest.mark.req("J2.1")
@pytest.mark.parametrize("name", STATES)
def test_every_command_of_a_page_does_what_the_page_says(
    name: str, plane: Plane, tmp_path_factory: pytest.TempPathFactory
) -> None:
    STATES[name](plane)
    database = plane.database
    place = f"{database['host']}:{database['port']}/{database['dbname']}"
    secret = {"POSTGRES_PASSWORD": str(database["password"]), "NATS_URL": plane.url}
    dsn = f"postgresql://{database['user']}:{database['password']}@{place}"
    folder = tmp_path_factory.mktemp("shell")
    environment = _environment(folder, DATABASE_URL=dsn, **secret, **plane.variables)

    def before(text: str, code: int) -> None:
        BEFORE.get((name, text, code), _nothing)(plane)

    page = ROOT / name if (ROOT / name).exists() else HOW_TO / name
    _run(page, plane.root, environment, before)


def test_the_commands_for_embedded_servers_work_in_an_empty_folder(
    server_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    project = server_root / "embedded-page"
    project.mkdir(mode=0o755)
    environment = _environment(tmp_path_factory.mktemp("shell"))
    try:
        _run(HOW_TO / "embedded.md", project, environment, lambda text, code: None)
        assert not list(project.glob(".holdfast/*/postgres*"))
    finally:
        shell("holdfast dev reset --yes", project, environment)


def test_no_page_is_forgotten() -> None:
    assert {page.name for page in PAGES} == {*STATES, "embedded.md", *ELSEWHERE}


def test_a_line_that_is_not_run_says_why() -> None:
    for page in PAGES:
        for line in lines(page.read_text()):
            assert line.skipped is None or len(line.skipped) > 10, line


# What pages claim ----------------------------------------------------------------------------------------


def test_the_exit_codes_of_the_page_are_those_of_the_command() -> None:
    from provision.cli import exits

    found = re.findall(r"^\| (\d+) \|", (HOW_TO / "ci.md").read_text(), re.MULTILINE)
    assert sorted(map(int, found)) == sorted(v for k, v in vars(exits).items() if k.isupper() and isinstance(v, int))


def _hazards() -> Iterator[str]:
    """The kinds of all hazards that the code makes."""
    for path in (ROOT / "provision").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id == "Hazard"
                and node.args
            ):
                kind = node.args[0]
                assert isinstance(kind, ast.Constant), f"{path}:{node.lineno}"
                yield str(kind.value)


def test_every_hazard_that_a_plan_can_show_is_explained() -> None:
    explained = re.findall(r"^### (\w+)$", (HOW_TO / "consents.md").read_text(), re.MULTILINE)
    assert sorted(explained) == sorted(set(_hazards()))


YAML = [(page.name, path, text) for page in PAGES for path, text in files(page.read_text(), "yaml")]


@pytest.mark.parametrize(("name", "path", "text"), YAML, ids=[f"{n}-{i}" for i, (n, *_) in enumerate(YAML)])
def test_yaml_of_a_page_is_one_the_language_takes(name: str, path: str, text: str) -> None:
    import jsonschema

    from provision import registry
    from provision.spec import schema
    from provision.spec.events import parse

    if path and not path.startswith("specs/"):  # Pulumi's, or a pipeline's
        assert yaml.safe_load(text)
        return
    found = parse(text, name)
    assert not found.diagnostics
    is_environment = "override" in found.root or ("targets" in found.root and "streams" not in found.root)
    compose = schema.compose_environment if is_environment else schema.compose
    jsonschema.Draft202012Validator(compose(registry.sections())).validate(found.root)
