"""What the command says of itself: help, pages of diagnostics, JSON Schemas, and completion in a shell."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from provision import registry
from provision.checks.registry import RULES
from provision.cli.main import program
from provision.spec import schema
from provision.spec.codes import CODES

ROOT = Path(__file__).parents[2]


def commands(group: click.Group, *above: str) -> Iterator[tuple[str, ...]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        yield (*above, name)
        if isinstance(found, click.Group):
            yield from commands(found, *above, name)


def said(*arguments: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "provision.cli", *arguments],
        capture_output=True, text=True, cwd=ROOT, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("names", [(), *commands(program)], ids=lambda names: " ".join(names) or "holdfast")
def test_help_fits_a_terminal_and_explains_every_option(names: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(program, [*names, "--help"], prog_name="holdfast", terminal_width=80)
    assert shown.exit_code == 0
    lines = shown.output.splitlines()
    assert lines[0].startswith(f"Usage: {' '.join(('holdfast', *names))} ")
    assert max(map(len, lines)) <= 80
    node: click.Command = program
    for name in names:
        assert isinstance(node, click.Group)
        found = node.get_command(click.Context(node), name)
        assert found is not None
        node = found
    assert node.help is not None
    assert node.help.endswith((".", '".'))
    for option in node.params:
        if isinstance(option, click.Option):
            assert option.help, option.name
            assert option.help.endswith("."), option.help


@pytest.mark.parametrize("code", ["HF0101", "HF0206", RULES[0].code, RULES[0].code.lower(), RULES[0].slug])
def test_explain_prints_the_page_of_a_code_or_of_a_rule_by_its_name(code: str) -> None:
    page = said("explain", code)
    assert page.startswith(f"# {RULES[0].code if code == RULES[0].slug else code.upper()}: ")
    assert "\nBad:\n" in page
    assert "\nGood:\n" in page


def test_every_code_of_the_language_and_every_rule_has_a_page() -> None:
    from provision.checks import pages

    assert set(pages.all_pages()) == set(CODES) | {rule.code for rule in RULES}


def test_explain_names_what_is_near_a_code_that_nobody_reports() -> None:
    assert "Near: HF0" in said("explain", "HF0399", code=1)
    assert RULES[0].slug in said("explain", RULES[0].slug[:-2], code=1)


def test_schema_prints_both_json_schemas() -> None:
    written = schema.files(registry.sections())
    assert said("schema") == written[schema.FILE]
    assert said("schema", "--environment") == written[schema.ENVIRONMENT_FILE]


def test_init_writes_both_json_schemas_where_the_headers_point(tmp_path: Path) -> None:
    said("--specs", str(tmp_path / "specs"), "init", "--plane", "mine")
    for name in ("plane.yaml", "environments/dev.yaml"):
        path = tmp_path / "specs" / name
        target = path.parent / path.read_text().splitlines()[0].partition("$schema=")[2]
        assert target.resolve().parent == tmp_path
        wanted = schema.ENVIRONMENT_ID if "environments" in name else schema.ID
        assert json.loads(target.read_text())["$id"] == wanted
    assert "exists" in said("--specs", str(tmp_path / "specs"), "init", code=1)


COMPLETE = """
eval "$(holdfast completion bash)"
complete -p holdfast > /dev/null || exit 1
COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); COMPREPLY=()
_holdfast_completion holdfast
echo "${COMPREPLY[*]}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="completes in bash")
@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("pl", "plan"),
        ("d", "drift destroy doctor dev"),
        ("dev re", "reset"),
        ("check --format sa", "sarif"),
        ("plan --env st", "staging"),
        ("explain hf012", "HF0120 HF0121 HF0122"),
    ],
)
def test_bash_completes_commands_and_values(tmp_path: Path, words: str, found: str) -> None:
    program = tmp_path / "holdfast"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m provision.cli "$@"\n')
    program.chmod(0o755)
    done = subprocess.run(
        ["bash", "--norc", "-c", COMPLETE, "bash", "holdfast", *words.split()],
        capture_output=True, text=True, cwd=ROOT, timeout=60, check=False,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
    )  # fmt: skip
    assert done.stdout.split() == found.split(), done.stderr
