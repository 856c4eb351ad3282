"""``holdfast migrate``: versioned migrations of a database."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from provision.cli import exits, migrations
from provision.cli.migrations import DIR, FORM, TARGET, folder_of, read_folder
from provision.cli.output import colored, options, say, show, show_json, table
from provision.spec.errors import ConsentError, InputError

if TYPE_CHECKING:
    from provision.migrate.files import Migration, Script
    from provision.migrate.performing import Decision
    from provision.migrate.runner import Ran, Runner
    from provision.reconcile.session import OpenPlane
    from provision.reconcile.stamping import Found

    Chosen = Sequence[tuple[Migration, Script]]

_CONSENT = re.compile(r"data_loss:\S+")
_BAD = ("missing", "changed")


class _InOrder(click.Group):
    """Lists its commands in the order of their use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group("migrate", cls=_InOrder, help="Write, apply and roll back versioned migrations.")
def command() -> None:
    pass


command.add_command(migrations.init)
command.add_command(migrations.new)
command.add_command(migrations.lint)
command.add_command(migrations.verify)

_dry = click.option("--dry-run", is_flag=True, help="Show the statements; send none.")
_allow = click.option(
    "--allow", multiple=True, metavar="data_loss:VERSION", help="Let this version lose what its statements take away."
)
_wait = click.option("--wait", metavar="DURATION", help="Wait so long for another runner, such as 5m.")
_app = click.option("--application-version", metavar="TEXT", help="Recorded with what is applied.")
_unlinted = click.option("--no-lint", is_flag=True, help="Run although lint finds errors; they are still told.")
_done = click.option("--done", multiple=True, metavar="VERSION:N", help="Statement N, left in doubt, took effect.")
_redo = click.option("--redo", multiple=True, metavar="VERSION:N", help="Run statement N, left in doubt, again.")


@command.command("status", help="Show each version and what became of it.")
@click.option("--detailed-exitcode", is_flag=True, help="Exit 2 when a migration is not applied.")
@FORM
@TARGET
@DIR
def status(detailed_exitcode: bool, form: str, target: str, folder: Path | None) -> int:
    with _runner(target, folder) as (_, runner):
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
@_unlinted
@_allow
@_wait
@_app
@_done
@_redo
@FORM
@TARGET
@DIR
def up(
    to: str | None, dry_run: bool, no_lint: bool, allow: tuple[str, ...], wait: str | None,
    application_version: str | None, done: tuple[str, ...], redo: tuple[str, ...], form: str, target: str,
    folder: Path | None,
) -> None:  # fmt: skip
    with _runner(target, folder, wait=wait, application_version=application_version) as (plane, runner):
        found = _find(plane, target, runner, to)
        ahead = [(m, m.up) for m in runner.ahead(to, found.made)]
        _judge(plane, runner.migrations, ahead, target, refuses=not no_lint)
        if dry_run:
            _show_ahead(ahead, form, found.made)
            _told_losses(ahead, allow)
            return
        found.refuse_there(runner.standings())
        _refuse_losses(ahead, allow)
        _prepare(plane, target, runner, found.made)
        agreed = [m.version for m, _ in ahead]
        _show_ran(runner.up(to, _decisions(done, redo), agreed), form, "nothing to apply")


@command.command("down", help="Roll back the newest migration, or all later than --to.")
@click.option("--to", metavar="VERSION", help="Roll back everything later than this version; 0 for all.")
@_dry
@_allow
@_wait
@_done
@_redo
@FORM
@TARGET
@DIR
def down(
    to: str | None, dry_run: bool, allow: tuple[str, ...], wait: str | None, done: tuple[str, ...],
    redo: tuple[str, ...], form: str, target: str, folder: Path | None,
) -> None:  # fmt: skip
    with _runner(target, folder, wait=wait) as (plane, runner):
        back = [(m, m.down) for m in runner.back(to) if m.down is not None]
        _judge(plane, runner.migrations, back, target, refuses=False)
        if dry_run:
            _show_ahead(back, form)
            _told_losses(back, allow)
            return
        _refuse_losses(back, allow)
        agreed = [m.version for m, _ in back]
        _show_ran(runner.down(to, _decisions(done, redo), agreed), form, "nothing to roll back")


@command.command("baseline", help="Record the migrations up to VERSION as applied; run none.")
@click.argument("version")
@_wait
@_app
@TARGET
@DIR
def baseline(version: str, wait: str | None, application_version: str | None, target: str, folder: Path | None) -> None:
    with _runner(target, folder, wait=wait, application_version=application_version) as (plane, runner):
        _prepare(plane, target, runner)
        found = runner.baseline(version)
    for migration in found:
        show(f"{migration.version} {migration.name}\n")
    say(f"{len(found)} recorded as applied" if found else "all of them are applied already")


@contextmanager
def _runner(
    target: str, folder: Path | None, *, wait: str | None = None, application_version: str | None = None
) -> Iterator[tuple[OpenPlane, Runner]]:
    """Read the folder, which must be faultless, and open the database. Raises InputError and its kin."""
    from provision import reconcile
    from provision.migrate.runner import Runner
    from provision.spec.units import UnitError, duration_ns

    migrations = read_folder(folder_of(folder, target))
    try:
        wait_s = duration_ns(wait) / 1e9 if wait else 0.0
    except UnitError as error:
        raise InputError(f"--wait is {error}", error.help) from None
    env = options().environment
    with reconcile.open_plane(options().specs, env, cache=options().cache, note=say) as plane:
        plane.workspace.refuse_unknown(target)
        connection = plane.targets.postgres(target)
        yield plane, Runner(
            connection, migrations, env, application_version=application_version, wait_s=wait_s, note=say
        )  # fmt: skip


def _find(plane: OpenPlane, target: str, runner: Runner, to: str | None) -> Found:
    """What the specs have made already; nothing where that cannot be told, which is said."""
    from provision.reconcile import stamping
    from provision.spec.errors import UnreachableError

    try:
        return stamping.find(plane, target, runner.migrations, datetime.now(UTC), to)
    except UnreachableError as error:
        say(f"whether the specs have made any of this cannot be told: {error}")
        return stamping.Found()


def _prepare(plane: OpenPlane, target: str, runner: Runner, made: Sequence[Migration] = ()) -> None:
    """Make the tables of the history where there are none, and record what the specs have made already."""
    from provision.reconcile import stamping

    stamping.make_history(plane, target, datetime.now(UTC), wait_s=runner.wait_s)
    if found := stamping.record(plane, target, runner.migrations, made, wait_s=runner.wait_s):
        say(f"recorded as applied, since the specs made them: {', '.join(m.version for m in found)}")


def _judge(plane: OpenPlane, migrations: Sequence[Migration], chosen: Chosen, target: str, *, refuses: bool) -> None:
    """Tell what lint finds in the files to run. Raises InputError where one is sure to do harm, if it ``refuses``."""
    if not chosen:
        return
    import sys

    from provision.reconcile import linting
    from provision.spec import render

    pending = {m.version for m, _ in chosen}
    scripts = (s for m, script in chosen for s in ((m.up, m.down) if script is m.up else (script,)))
    own = {script.file for script in scripts if script is not None}
    found = linting.judge(plane.workspace, migrations, target, pending)
    found = tuple(d for d in found if d.mark.file in own)
    if found:
        say(render.text(found, linting.line, color=colored(sys.stderr)).rstrip("\n"))
    if refuses and any(d.severity == "error" for d in found):
        raise InputError(
            f"lint refuses what is pending, so none was run: {render.summary(found)}",
            "Correct the errors; what does no harm in its file may stay with -- allow CODE: REASON at its head. A file"
            " that ran elsewhere cannot change any more: --no-lint runs it as it is.",
        )


def _told_losses(chosen: Chosen, allowed: Sequence[str]) -> tuple[str, ...]:
    """Tell each statement that loses data and that neither its file nor the command line allows: the consents."""
    from provision.migrate.lint.loss import losses

    for consent in allowed:
        if not _CONSENT.fullmatch(consent):
            raise InputError(f"{consent} is not a consent", "Write data_loss:VERSION, such as data_loss:1.2.0.")
    lacking: dict[str, None] = {}
    for migration, script in chosen:
        consent = f"data_loss:{migration.version}"
        for loss in losses(script) if consent not in allowed else ():
            say(f"{loss.mark.file}:{loss.mark.line}:{loss.mark.column}: {loss.what} ({loss.code})")
            lacking[consent] = None
    return tuple(lacking)


def _refuse_losses(chosen: Chosen, allowed: Sequence[str]) -> None:
    if lacking := _told_losses(chosen, allowed):
        error = ConsentError(lacking)
        error.help = (
            f"Read the statements, then add: {' '.join(f'--allow {c}' for c in lacking)}; or say -- allow CODE: REASON"
            " at the head of their files."
        )
        raise error


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


def _show_ahead(chosen: Chosen, form: str, made: Sequence[Migration] = ()) -> None:
    if form == "json":
        ahead = [
            {"version": m.version, "name": m.name, "file": script.file, "transaction": script.transactional,
             "statements": [s.text for s in script.statements]}
            for m, script in chosen
        ]  # fmt: skip
        show_json({"recorded": [m.version for m in made], "ahead": ahead})
        return
    if made:
        say(f"would be recorded as applied, since the specs made them: {', '.join(m.version for m in made)}")
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
