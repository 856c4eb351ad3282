"""README and the pages about Pulumi: every command line does on real servers what the page says."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import ROOT, blocks, files, lines
from tests.docs.project import Project
from tests.docs.test_pages_run import shell
from tests.pulumi.stack import programs

HOW_TO = ROOT / "docs" / "how-to"
#: What a person at a terminal answers to each question of Pulumi's.
YES = {"PULUMI_SKIP_CONFIRMATIONS": "true"}
#: The other stack of pulumi-components.md, which knows where the database is.
SERVERS = 'import pulumi\n\npulumi.export("host", "{host}")\n'


@pytest.fixture
def project(tmp_path: Path, pg_database: dict[str, Any], nats_url: str) -> Project:
    return Project(tmp_path / "project", pg_database, nats_url, "dev")


def sections(page: str) -> Iterator[tuple[str, str]]:
    """The sections of a page by heading, what stands above the first one included."""
    for text in re.split(r"^## ", page, flags=re.MULTILINE):
        yield text.partition("\n")[0], text


def run(project: Project, script: str, code: int = 0) -> str:
    """Run a line as a person would who agrees to everything; give what it prints."""
    sure = {} if "--preview-only" in script else YES
    done = shell(script, project.root, project.environment(**sure))
    told = f"$ {script}\n{done.stdout}{done.stderr}"
    assert done.returncode == code, told
    assert "Traceback" not in told, told
    return told


def run_section(project: Project, text: str) -> str:
    return "".join(run(project, line.text, line.code) for line in lines(text) if line.skipped is None)


@pytest.mark.req("B3.1", "J2.1")
def test_the_readme_leads_to_a_stack_that_is_up(project: Project, tmp_path: Path) -> None:
    page = (ROOT / "README.md").read_text()
    script = next(text for text in blocks(page, "sh") if "make pulumi" in text)
    make = tmp_path / "bin" / "make"
    make.parent.mkdir()
    make.write_text(f"#!/bin/sh\nset -eu\ntest pulumi = $1\necho built\necho {programs()}\n")
    make.chmod(0o755)
    (project.root / ".holdfast").mkdir(mode=0o755)
    project.holdfast("apply", "--yes")
    environment = project.environment(**YES)
    for name in ("PULUMI_BACKEND_URL", "PULUMI_CONFIG_PASSPHRASE"):
        del environment[name]
    # Nothing but what the block itself puts on PATH.
    environment["PATH"] = environment["PATH"].replace(f"{programs()}:", f"{make.parent}:")
    done = shell(script + "pulumi up\nholdfast plan", project.root, environment)
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    assert re.search(r"\+ \d+ created(?s:.*)Resources:\n +\d+ unchanged", told), told
    assert "No changes: the live plane equals its specs." in told
    assert (project.root / ".holdfast" / ".pulumi" / "stacks").is_dir()


def _without_a_table(project: Project) -> None:
    project.remove(r"      log:\n(?:        .*\n)+")


def _drifted(project: Project) -> None:
    project.sql("ALTER TABLE app.item ALTER COLUMN price SET DEFAULT 5")


def _without_a_bucket(project: Project) -> None:
    project.remove(r"buckets:\n  STATE: .*\n")


#: What happens before a section of pulumi.md, and what its commands must then have said.
STORY: Mapping[str, tuple[Callable[[Project], None], str]] = {
    "Give a consent": (_without_a_table, r"data_loss:pg:main/app/log"),
    "Find and mend drift": (_drifted, r"~ default: 0 => \"?5(?s:.*)~ 1 updated"),
    "What is deleted, and what is not": (_without_a_bucket, r"\[retain\](?s:.*)\d+ created"),
}


@pytest.mark.req("B3.1", "J2.1")
@pytest.mark.timeout(400)
def test_the_commands_of_the_page_about_stacks_do_what_it_says(project: Project) -> None:
    project.run("stack", "init", "dev")
    told = {}
    for heading, text in sections((HOW_TO / "pulumi.md").read_text()):
        prepare, expected = STORY.get(heading, (lambda project: None, ""))
        prepare(project)
        told[heading] = run_section(project, text)
        assert re.search(expected, told[heading]), told[heading]
    assert told.keys() >= STORY.keys()
    assert project.plan_is_empty()
    assert project.sql("SELECT to_regclass('app.log')") == [(None,)]
    assert "another-one" not in (project.root / "stacks" / "Pulumi.dev.yaml").read_text()


@pytest.mark.req("J2.1")
def test_the_page_about_stacks_lists_what_the_program_reads() -> None:
    page = (HOW_TO / "pulumi.md").read_text()
    told = set(re.findall(r"^\| `holdfast:(\w+)`", page, re.MULTILINE)) | {"image", "secret"}
    program = "".join(path.read_text() for path in (ROOT / "stacks").glob("*.py"))
    read = set(re.findall(r'config\.(?:get|require)\w*\("(\w+)"\)', program))
    assert told == read


def _elsewhere(project: Project) -> None:
    """The stack that knows the host, and specs and variables that lack what the program brings."""
    folder = project.root.parent / "servers"
    folder.mkdir()
    (folder / "Pulumi.yaml").write_text("name: servers\nruntime: python\n")
    (folder / "__main__.py").write_text(SERVERS.format(host=project.database["host"]))
    for command in ("pulumi stack init dev", "pulumi up --non-interactive"):
        assert shell(command, folder, project.environment(**YES)).returncode == 0
    target = project.specs / "environments" / "dev.yaml"
    target.write_text(re.sub(r'"host": "[^"]*", ', "", target.read_text()))
    del project.variables["SMALL_PASSWORD"]
    project.variables["NATS_URL"] = project.url


def _legacy(project: Project) -> None:
    stream = {"name": "LEGACY", "subjects": ["legacy.>"], "max_bytes": 1000000}
    assert "error" not in project.ask("STREAM.CREATE.LEGACY", {**stream, "retention": "limits", "storage": "file"})


@pytest.mark.req("B3.1", "B3.3", "J2.1")
@pytest.mark.timeout(400)
def test_the_program_of_the_page_about_components_does_what_it_says(project: Project) -> None:
    shutil.rmtree(project.root / "stacks")
    _elsewhere(project)
    program, told = "", ""
    for heading, text in sections((HOW_TO / "pulumi-components.md").read_text()):
        for path, content in files(text, "yaml"):
            (project.root / path).write_text(content)
        for part in blocks(text, "python"):
            program += part
            project.program(program)
        if heading == "A plane":
            project.run("stack", "init", "dev")
        if heading == "Objects that exist":
            _legacy(project)
        told += run_section(project, text)
    assert "= 1 imported" in told
    assert "using pulumi-resource-holdfast from $PATH" not in told
    assert "the-password" not in (project.root / "Pulumi.dev.yaml").read_text()
    state = project.resources()
    assert {"nats:main/stream/AUDIT", "nats:main/stream/LEGACY", "nats:main/stream/EVENTS", "pg:main"} <= state.keys()
    project.program(program.replace(', import_="nats:main/stream/LEGACY"', ""))
    run(project, "pulumi preview --expect-no-changes")
    assert project.outputs()["contract"] == {"bucket": "HOLDFAST", "key": "contract.small.dev"}
