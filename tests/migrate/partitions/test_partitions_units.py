"""The example units of systemd: read as systemd reads them, their command line as the program reads it."""

from __future__ import annotations

import configparser
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from provision.cli.main import program

UNITS = Path(__file__).parents[3] / "examples" / "systemd"


def unit(name: str) -> configparser.ConfigParser:
    """systemd lets a key stand several times; the last one is enough here."""
    found = configparser.ConfigParser(interpolation=None, strict=False, delimiters=("=",))
    found.optionxform = str  # type: ignore[assignment, method-assign]
    found.read(UNITS / name)
    return found


@pytest.mark.req("A6.12")
def test_the_service_calls_what_there_is() -> None:
    command, *arguments = shlex.split(unit("holdfast-partitions.service")["Service"]["ExecStart"])
    assert Path(command).name == "holdfast"
    found = program.get_command(click.Context(program), arguments[0])
    assert isinstance(found, click.Group)
    maintain = found.commands[arguments[1]]
    assert maintain.make_context("maintain", arguments[2:], parent=click.Context(program)).params["dry_run"] is False


@pytest.mark.req("A6.12")
def test_the_timer_starts_the_service_and_makes_up_for_what_was_missed() -> None:
    timer = unit("holdfast-partitions.timer")
    assert timer["Timer"]["Persistent"] == "yes"
    assert "UTC" in timer["Timer"]["OnCalendar"]
    assert "Unit" not in timer["Timer"], "a timer starts the service of its own name"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not on this machine")
def test_systemd_accepts_the_timer() -> None:
    when = unit("holdfast-partitions.timer")["Timer"]["OnCalendar"]
    subprocess.run(["systemd-analyze", "calendar", when], check=True, capture_output=True)
