"""Lint of migrations against the specs of an environment, without a server."""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path

from provision.migrate import files
from provision.migrate.files import Migration
from provision.migrate.lint import lint
from provision.reconcile.checking import Checked
from provision.reconcile.workspace import Workspace
from provision.spec.diagnostic import Diagnostic, Mark
from provision.spec.errors import InputError
from provision.spec.record import Plane


def check(specs: Path, env: str, folder: Path, target: str, *, cache: Path) -> Checked:
    """Every fault and hazard of a folder of migrations. Raises InputError for specs that hold an error."""
    migrations, faults = files.read(folder)
    found = (*faults, *judge(specs, env, migrations, target, cache=cache))
    return Checked(found, line, f"checked {folder} against {env}")


def judge(
    specs: Path, env: str, migrations: Sequence[Migration], target: str, *, cache: Path,
    chosen: Container[str] | None = None,
) -> tuple[Diagnostic, ...]:  # fmt: skip
    """What lint says of migrations, or of the ``chosen`` versions, given what the specs declare of their target.

    Raises InputError as ``check``.
    """
    workspace = Workspace(specs, env, cache)
    workspace.refuse_errors()
    if ("pg", target) not in workspace.targets:
        known = ", ".join(name for system, name in workspace.targets if system == "pg")
        raise InputError(f"{env} has no Postgres target {target}", f"It has: {known or 'none'}.")
    own = [record for record in workspace.plane if record.address[:2] == ("pg", target)]
    facts = workspace.facts.get(("pg", target))
    version = facts.version if facts is not None else ()
    return lint(migrations, Plane(own, name=workspace.name, env=env), chosen, version)


def line(mark: Mark) -> str:
    """The line of a file that a mark stands in; empty where there is none any more."""
    try:
        lines = Path(mark.file).read_text(errors="replace").split("\n")
    except OSError:
        return ""
    return lines[mark.line - 1] if mark.line <= len(lines) else ""
