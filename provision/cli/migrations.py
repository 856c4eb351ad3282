"""The part of ``holdfast migrate`` that works on the folder: ``new``, ``lint``, ``verify``, and reading it."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from provision.cli import exits
from provision.cli.check import FORMS
from provision.cli.check import show as show_checked
from provision.cli.output import FORMAT, colored, options, say, show, show_json
from provision.spec.errors import InputError

if TYPE_CHECKING:
    from provision.migrate.files import Migration
    from provision.plan.plan import Drift
    from provision.reconcile.drafting import Drafted
    from provision.reconcile.proving import Proof
    from provision.reconcile.workspace import Workspace

_WORDS = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)+")
DIR = click.option(
    "--dir", "folder", type=click.Path(path_type=Path), metavar="DIR",
    help="Folder of migrations (default: migrations, and migrations/NAME for another target than main).",
)  # fmt: skip
TARGET = click.option("--target", default="main", metavar="NAME", help="The Postgres target (default: main).")
FORM = click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", help=FORMAT)


@click.command("init", help="Declare the history of migrations in the specs.")
@TARGET
def init(target: str) -> None:
    from importlib.resources import files

    from provision.spec import schema

    path = options().specs / "migrations.yaml"
    if not options().specs.is_dir():
        raise InputError(f"no folder {options().specs}", "Start one: holdfast init")
    if path.exists():
        raise InputError(f"{path} exists", "Nothing was written. One database of a plane has a history.")
    text = (files("provision.migrate") / "history.yaml").read_text()
    if target != "main":
        _workspace(target)
        text = text.replace("\n  migrations:\n", f"\n  migrations:\n    target: {target}\n", 1)
    path.write_text(schema.header(schema.FILE, 1) + text)
    say(f"wrote {path}; next: holdfast apply, holdfast migrate new NAME")


def _workspace(target: str, folder: Path | None = None) -> Workspace:
    """The faultless specs. Raises InputError for an unknown target, or a folder that was named and is not there."""
    from provision.reconcile.workspace import Workspace

    if folder is not None and not folder.is_dir():
        raise InputError(f"no such folder: {folder}", "Paths start at the current folder.")
    chosen = options()
    workspace = Workspace(chosen.specs, chosen.environment, chosen.cache)
    workspace.refuse_errors()
    workspace.refuse_unknown(target)
    return workspace


@click.command("new", help="Start a migration: two files, numbered after the last.")
@click.argument("name")
@click.option("--version", "version", metavar="VERSION", help="Its version (default: the next minor one).")
@click.option(
    "--kind", type=click.Choice(["schema", "data", "index", "partition", "function"]),
    help="What it changes (default: schema, or what the plan says).",
)  # fmt: skip
@click.option(
    "--from-plan", "is_planned", is_flag=True,
    help="Write what the migrations lack to equal the specs, found on a scratch server, and the way back.",
)  # fmt: skip
@TARGET
@DIR
def new(
    name: str, version: str | None, kind: str | None, is_planned: bool, target: str, folder: Path | None
) -> None:  # fmt: skip
    from provision.migrate import files
    from provision.migrate.new import Draft, write

    if not _WORDS.fullmatch(name):
        raise InputError(f"{name} is no name of a migration", "Say what it does, verb first: add_task_priority.")
    place = folder_of(folder, target)
    found, _ = files.read(place)
    draft = Draft(name, version, kind)
    if is_planned:
        steps = _lacking(read_folder(place), target)
        if not steps.up:
            say(f"nothing to write: the migrations in {place} add up to the specs")
            return
        draft = draft._replace(up=steps.up, down=steps.down, covered=steps.covered)
    for path in write(place, draft, found):
        show(f"{path}\n")
    if is_planned:
        say("read them, and the comments on what they cost; then: holdfast migrate verify")
    else:
        say("write the statements; a migration without a way back has no down file")


def _lacking(found: Sequence[Migration], target: str) -> Drafted:
    from provision.reconcile import drafting

    now = datetime.now(UTC)
    return drafting.lacking(_workspace(target), found, target, clock=now, cache=options().cache, note=say)


@click.command("lint", help="Report what the statements of migrations lock, rewrite and lose; asks no server.")
@click.option("--format", "form", type=FORMS, default="text", help=FORMAT)
@TARGET
@DIR
def lint(form: str, target: str, folder: Path | None) -> int:
    from provision.reconcile import linting

    return show_checked(linting.check(_workspace(target, folder), folder_of(folder, target), target), form)


@click.command("verify", help="Prove on a scratch server that the migrations add up to the specs, and each way back.")
@FORM
@TARGET
@DIR
def verify(form: str, target: str, folder: Path | None) -> int:
    from provision.reconcile import proving

    workspace, place = _workspace(target, folder), folder_of(folder, target)
    found = read_folder(place)
    if not found:
        raise InputError(f"no migrations in {place}", "Write the first: holdfast migrate new create_plane --from-plan")
    proof = proving.prove(workspace, found, target, clock=datetime.now(UTC), cache=options().cache, note=say)
    if form == "json":
        show_json(_as_json(proof))
    elif lines := _lines(proof):
        show("\n".join(lines) + "\n")
    if proof.failure is not None:
        raise proof.failure
    return exits.DONE if proof.holds else exits.FAILED


def _lines(proof: Proof) -> list[str]:
    lines = []
    for way in proof.ways_back:
        which = way.migration.down if way.after == "down" else way.migration.up
        assert which is not None
        want = "what was there before it" if way.after == "down" else "what it made the first time"
        if way.differences:
            lines.append(f"{which.file}: {way.after} does not give {want}:")
            lines += [f"  ~ {_line(d, 'now', 'before')}" for d in way.differences]
        if way.lost:
            lines.append(f"{which.file}: {way.after} drops what held rows and makes it anew, empty:")
            lines += [f"  ~ {address}" for address in way.lost]
            lines.append("  Rename or change it instead; if the file carries the rows: -- allow HF0856: REASON")
    if proof.missing is not None and (proof.missing.steps or proof.missing.drift):
        lines.append("The migrations do not add up to the specs:")
        lines += [f"  ~ {_line(d, 'by the migrations', 'by the specs')}" for d in proof.missing.drift]
        lines.append("Write what is missing: holdfast migrate new NAME --from-plan; or correct the specs.")
    if proof.holds:
        lines.append("The migrations add up to the specs, and every way back leads back.")
        lines.append(f"  {proof.migrations} up, {proof.reversed} of them down and up again")
    return lines


def _line(drift: Drift, live: str, declared: str) -> str:
    if drift.change == "missing":
        return f"{drift.object} is missing {live}" if live == "now" else f"{drift.object} is not made {live}"
    if drift.change == "undeclared":
        return f"{drift.object} is left over" if live == "now" else f"{drift.object} is made {live}, and not declared"
    from provision.plan.render import values

    shown = ((name, *values(v["live"], v["declared"])) for name, v in drift.fields.items())
    parts = (f"{name}: {one} {live}, {other} {declared}" for name, one, other in shown)
    return f"{drift.object} differs: {'; '.join(parts)}"


def _as_json(proof: Proof) -> dict[str, Any]:
    plan = proof.missing
    return {
        "holds": proof.holds,
        "migrations": proof.migrations,
        "ways_back": proof.reversed,
        "differences": [_drift(d) for d in plan.drift] if plan else [],
        "missing": [s.request.text for s in plan.steps if s.system == "pg"] if plan else [],  # type: ignore[union-attr]
        "astray": [
            {
                "version": w.migration.version,
                "after": w.after,
                "differences": [_drift(d) for d in w.differences],
                "lost": list(w.lost),
            }
            for w in proof.ways_back
        ],
        "failure": None if proof.failure is None else str(proof.failure),
    }


def _drift(drift: Drift) -> dict[str, Any]:
    return {"object": drift.object, "change": drift.change, "fields": dict(drift.fields)}


def folder_of(given: Path | None, target: str) -> Path:
    """The folder that was named, or the target's own; relative where it lies below the current one."""
    from provision.migrate import files

    found = given or files.folder_of(options().root, target)
    return found.relative_to(Path.cwd()) if found.is_relative_to(Path.cwd()) else found


def read_folder(folder: Path) -> tuple[Migration, ...]:
    """The migrations of a folder. Tells every fault of them, then raises InputError."""
    from provision.migrate import files
    from provision.reconcile import linting
    from provision.spec import render

    found, faults = files.read(folder)
    if faults:
        say(render.text(faults, linting.line, color=colored(sys.stderr)).rstrip("\n"))
        raise InputError(f"the migrations have faults, so none was run: {render.summary(faults)}")
    return found
