"""Lint of migrations against the specs of an environment, without a server."""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path

from provision.migrate import files
from provision.migrate.files import Migration
from provision.migrate.lint import lint
from provision.reconcile.canonical import part_of
from provision.reconcile.checking import Checked
from provision.reconcile.workspace import Workspace
from provision.spec.diagnostic import Diagnostic, Mark


def check(workspace: Workspace, folder: Path, target: str) -> Checked:
    """Every fault and hazard of a folder of migrations, given faultless specs. Raises InputError as ``judge``."""
    migrations, faults = files.read(folder)
    found = (*faults, *judge(workspace, migrations, target))
    return Checked(found, line, f"checked {folder} against {workspace.env}")


def judge(
    workspace: Workspace, migrations: Sequence[Migration], target: str, chosen: Container[str] | None = None
) -> tuple[Diagnostic, ...]:
    """What lint says of migrations, or of the ``chosen`` versions, given what the specs declare of their target.

    Raises InputError for a target that the environment does not declare.
    """
    workspace.refuse_unknown(target)
    version = workspace.facts["pg", target].version
    return lint(migrations, part_of(workspace.plane, target), chosen, version)


def line(mark: Mark) -> str:
    """The line of a file that a mark stands in; empty where there is none any more."""
    try:
        lines = Path(mark.file).read_text(errors="replace").split("\n")
    except OSError:
        return ""
    return lines[mark.line - 1] if mark.line <= len(lines) else ""
