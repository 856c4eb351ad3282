"""``holdfast migrate``: versioned migrations of a database."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from provision.cli import exits
from provision.cli.output import FORMAT, colored, options, say, show, show_json, table
from provision.spec.errors import InputError

if TYPE_CHECKING:
    from provision.migrate.files import Migration
    from provision.migrate.performing import Decision
    from provision.migrate.runner import Ran, Runner

_BAD = ("missing", "changed")
_WORDS = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)+")


class _InOrder(click.Group):
    """Lists its commands in the order of their use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group("migrate", cls=_InOrder, help="Write, apply and roll back versioned migrations.")
def command() -> None:
    pass


_dir = click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of migrations (default: migrations).",
)
_target = click.option("--target", default="main", metavar="NAME", help="The Postgres target (default: main).")
_form = click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", help=FORMAT)
_dry = click.option("--dry-run", is_flag=True, help="Show the statements; send none.")
_wait = click.option("--wait", metavar="DURATION", help="Wait so long for another runner, such as 5m.")
_app = click.option("--application-version", metavar="TEXT", help="Recorded with what is applied.")
_done = click.option("--done", multiple=True, metavar="VERSION:N", help="Statement N, left in doubt, took effect.")
_redo = click.option("--redo", multiple=True, metavar="VERSION:N", help="Run statement N, left in doubt, again.")


@command.command("new", help="Start a migration: two files, numbered after the last.")
@click.argument("name")
@click.option("--version", "version", metavar="VERSION", help="Its version (default: the next minor one).")
@click.option(
    "--kind", type=click.Choice(["schema", "data", "index", "partition", "function"]), default="schema",
    help="What it changes (default: schema).",
)  # fmt: skip
@_dir
def new(name: str, version: str | None, kind: str, folder: Path | None) -> None:
    from provision.migrate import files, new

    if not _WORDS.fullmatch(name):
        raise InputError(f"{name} is no name of a migration", "Say what it does, verb first: add_task_priority.")
    place = _folder(folder)
    found, _ = files.read(place)
    for path in new.write(place, name, found, version=version, kind=kind):
        show(f"{path}\n")
    say("write the statements; a migration without a way back has no down file")


@command.command("status", help="Show each version and what became of it.")
@click.option("--detailed-exitcode", is_flag=True, help="Exit 2 when a migration is not applied.")
@_form
@_target
@_dir
def status(detailed_exitcode: bool, form: str, target: str, folder: Path | None) -> int:
    with _runner(target, folder) as runner:
        rows, holder = runner.status(), runner.holder()
    if form == "json":
        show_json({"environment": runner.env, "holder": holder and holder._asdict(), "migrations": rows})
    elif not rows:
        show("no migrations\n")
    else:
        shown = [(r["version"], r["name"] or "", r["state"], r["applied_at"] or "", _ms(r)) for r in rows]
        show(table(shown, ("version", "name", "state", "applied", "ms")))
        for row in (r for r in rows if r["state"] in ("failed", "interrupted", *_BAD)):
            show(f"\n{row['version']} is {row['state']}: {row['error'] or _why(row['state'])}\n")
        if holder is not None:
            show(f"\nrunning now: {holder}\n")
    if any(r["state"] in _BAD for r in rows):
        return exits.FAILED
    is_pending = any(r["state"] != "applied" for r in rows)
    return exits.PENDING if detailed_exitcode and is_pending else exits.DONE


@command.command("up", help="Apply what is pending, in order.")
@click.option("--to", metavar="VERSION", help="Stop after this version.")
@_dry
@_wait
@_app
@_done
@_redo
@_form
@_target
@_dir
def up(
    to: str | None, dry_run: bool, wait: str | None, application_version: str | None, done: tuple[str, ...],
    redo: tuple[str, ...], form: str, target: str, folder: Path | None,
) -> None:  # fmt: skip
    with _runner(target, folder, wait=wait, application_version=application_version) as runner:
        if dry_run:
            _show_ahead([(m, m.up) for m in runner.ahead(to)], form)
            return
        _show_ran(runner.up(to, _decisions(done, redo)), form, "nothing to apply")


@command.command("down", help="Roll back the newest migration, or all later than --to.")
@click.option("--to", metavar="VERSION", help="Roll back everything later than this version; 0 for all.")
@_dry
@_wait
@_done
@_redo
@_form
@_target
@_dir
def down(
    to: str | None, dry_run: bool, wait: str | None, done: tuple[str, ...], redo: tuple[str, ...], form: str,
    target: str, folder: Path | None,
) -> None:  # fmt: skip
    with _runner(target, folder, wait=wait) as runner:
        if dry_run:
            _show_ahead([(m, m.down) for m in runner.back(to)], form)
            return
        _show_ran(runner.down(to, _decisions(done, redo)), form, "nothing to roll back")


@command.command("baseline", help="Record the migrations up to VERSION as applied; run none.")
@click.argument("version")
@_wait
@_app
@_target
@_dir
def baseline(version: str, wait: str | None, application_version: str | None, target: str, folder: Path | None) -> None:
    with _runner(target, folder, wait=wait, application_version=application_version) as runner:
        found = runner.baseline(version)
    for migration in found:
        show(f"{migration.version} {migration.name}\n")
    say(f"{len(found)} recorded as applied" if found else "all of them are applied already")


def _folder(given: Path | None) -> Path:
    found = given or options().root / "migrations"
    return found.relative_to(Path.cwd()) if found.is_relative_to(Path.cwd()) else found


@contextmanager
def _runner(
    target: str, folder: Path | None, *, wait: str | None = None, application_version: str | None = None
) -> Iterator[Runner]:
    """Read the folder, which must be faultless, and open the database. Raises InputError and its kin."""
    from provision import reconcile
    from provision.migrate.runner import Runner
    from provision.spec.units import UnitError, duration_ns

    migrations = _read(_folder(folder))
    try:
        wait_s = duration_ns(wait) / 1e9 if wait else 0.0
    except UnitError as error:
        raise InputError(f"--wait is {error}", error.help) from None
    env = options().environment
    with reconcile.open_plane(options().specs, env, cache=options().cache, note=say) as plane:
        known = plane.targets.names("pg")
        if target not in known:
            raise InputError(f"{env} has no Postgres target {target}", f"It has: {', '.join(known) or 'none'}.")
        connection = plane.targets.postgres(target)
        yield Runner(connection, migrations, env, application_version=application_version, wait_s=wait_s, note=say)


def _read(folder: Path) -> tuple[Migration, ...]:
    """The migrations of a folder. Tells every fault of them, then raises InputError."""
    from provision.migrate import files
    from provision.spec import render
    from provision.spec.diagnostic import Mark

    found, faults = files.read(folder)
    if not faults:
        return found

    def line(mark: Mark) -> str:
        lines = Path(mark.file).read_text(errors="replace").split("\n")
        return lines[mark.line - 1] if mark.line <= len(lines) else ""

    import sys

    say(render.text(faults, line, color=colored(sys.stderr)).rstrip("\n"))
    raise InputError(f"the migrations have faults, so none was run: {render.summary(faults)}")


def _decisions(done: Sequence[str], redo: Sequence[str]) -> dict[tuple[str, int], Decision]:
    found: dict[tuple[str, int], Decision] = {}
    words: tuple[tuple[Decision, Sequence[str]], ...] = (("done", done), ("redo", redo))
    for word, given in words:
        for text in given:
            version, _, number = text.rpartition(":")
            if not version or not number.isdigit() or (version, int(number)) in found:
                raise InputError(f"--{word} {text} names no statement", "Write VERSION:N once, such as 1.4.0:2.")
            found[version, int(number)] = word
    return found


def _show_ahead(chosen: Sequence[tuple[Migration, Any]], form: str) -> None:
    if form == "json":
        ahead = [
            {"version": m.version, "name": m.name, "file": script.file, "transaction": script.transactional,
             "statements": [s.text for s in script.statements]}
            for m, script in chosen
        ]  # fmt: skip
        show_json({"ahead": ahead})
        return
    for migration, script in chosen:
        how = "one transaction" if script.transactional else "no transaction"
        show(f"-- {migration.version} {script.file}, {how}\n")
        show("".join(f"{statement.text};\n" for statement in script.statements) + "\n")
    if not chosen:
        say("nothing to do")


def _show_ran(ran: Sequence[Ran], form: str, nothing: str) -> None:
    if form == "json":
        rows = [
            {
                "version": r.migration.version,
                "name": r.migration.name,
                "direction": r.direction,
                "execution_time_ms": r.ms,
            }
            for r in ran
        ]
        show_json({"ran": rows})
    elif not ran:
        say(nothing)


def _ms(row: dict[str, Any]) -> str:
    return "" if row["execution_time_ms"] is None else str(row["execution_time_ms"])


def _why(state: str) -> str:
    if state == "missing":
        return "it was applied, and its file is gone; bring it back"
    if state == "changed":
        return "its file was changed after it was applied; put it back"
    return "run it again: holdfast migrate up"
