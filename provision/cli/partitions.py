"""``holdfast partitions``: keep partition sets ahead of time, and retire what expired."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from provision.cli import exits
from provision.cli.clock import instant
from provision.cli.output import FORMAT, options, say, show, show_json, table

if TYPE_CHECKING:
    from provision.migrate.partitions.report import Action, Report

_SIGNS = {"create": "+", "move": "→", "drop": "-"}


@click.group("partitions", help="Keep partition sets ahead of time, and retire what expired.")
def command() -> None:
    pass


def _milliseconds(ctx: click.Context, param: click.Parameter, value: str) -> int:
    from provision.spec import units

    try:
        found = units.duration_ns(value) // 1_000_000
    except units.UnitError as error:
        raise click.BadParameter(f"{error}. {error.help}", ctx, param) from None
    if found < 1:
        raise click.BadParameter("at least 1ms, please", ctx, param)
    return found


@command.command("maintain", help="Make what lies ahead, empty DEFAULT partitions, retire what expired.")
@click.option("--only", multiple=True, metavar="ADDRESS", help="Only this set, table or schema.")
@click.option("--as-of", type=str, callback=instant, metavar="TIME", help="Work for another instant (RFC 3339).")
@click.option("--allow", multiple=True, metavar="CONSENT", help="Allow one hazard by name: KIND:ADDRESS.")
@click.option("--archive", type=click.Path(path_type=Path, file_okay=False), envvar="HOLDFAST_ARCHIVE", metavar="DIR",
              help="Where archives go (default for embedded servers: .holdfast/ENV/archive).")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only show what would be done.")
@click.option(
    "--lock-timeout", default="500ms", callback=_milliseconds, metavar="TIME", help="Longest wait for a lock."
)
@click.option("--longest-hold", default="3s", callback=_milliseconds, metavar="TIME",
              help="Longest statement under a lock that others wait for.")  # fmt: skip
@click.option("--portion", default=5_000, type=click.IntRange(1), metavar="ROWS", show_default=True,
              help="Rows moved out of DEFAULT under one lock; more make several partitions.")  # fmt: skip
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", help=FORMAT)
def maintain(
    only: tuple[str, ...], as_of: datetime, allow: tuple[str, ...], archive: Path | None, dry_run: bool,
    lock_timeout: int, longest_hold: int, portion: int, form: str,
) -> int:  # fmt: skip
    from provision.migrate.partitions.runner import Patience
    from provision.reconcile import maintaining

    patience = Patience(lock_timeout_ms=lock_timeout, hold_ms=longest_hold, portion=portion)
    wish = maintaining.Wish(as_of, only, allow, archive, dry_run, patience)
    shared = options()
    progress = say if shared.verbose else lambda text: None
    report = maintaining.maintain(
        shared.specs, shared.environment, wish, cache=shared.cache, note=say, progress=progress
    )  # fmt: skip
    if form == "json":
        show_json(report.as_json())
    else:
        show(_text(report, dry_run))
    return _end(report)


def _text(report: Report, dry: bool) -> str:
    lines = [f"plane {report.plane}, environment {report.env}, as of {report.as_of}\n"]
    seen = ""
    for action in report.actions:
        if action.object != seen:
            seen = action.object
            lines.append(f"{seen}\n")
        lines.append(_line(action))
    counts = ", ".join(f"{n} {word}" for word, n in report.summary.items())
    if not report.actions:
        lines.append("nothing to do\n")
    elif not dry:
        lines.append(f"done: {counts or 'nothing'}\n")
    return "".join(lines)


def _line(action: Action) -> str:
    rows = f", {action.rows} rows" if action.rows is not None else ""
    file = f" into {action.file}" if action.file else ""
    lock = f", lock {action.lock}" if action.lock else ""
    held = f" for {action.held_ms:.0f} ms" if action.held_ms is not None else ""
    state = f" [{action.state}]" if action.state in ("failed", "held") else ""
    return f"  {_SIGNS.get(action.action, '~')} {action.action} {action.partition}{rows}{file}{lock}{held}{state}\n"


def _end(report: Report) -> int:
    """Say what is left, and give the exit code: a failure counts more than a missing consent."""
    for text in report.notes:
        say(f"note: {text}")
    for text in report.problems:
        say(f"error: {text}")
    if report.consents:
        listed = " ".join(f"--allow {consent}" for consent in report.consents)
        say(f"error: some partitions were kept for want of a consent\n  If their rows may go, add: {listed}")
    return exits.FAILED if report.problems else exits.CONSENT if report.consents else exits.DONE


@command.command("status", help="Show how each rolling set stands.")
@click.option("--only", multiple=True, metavar="ADDRESS", help="Only this set, table or schema.")
@click.option("--as-of", type=str, callback=instant, metavar="TIME", help="Look at another instant (RFC 3339).")
@click.option("--detailed-exitcode", is_flag=True, help="Exit 2 when a set lacks partitions or holds expired ones.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", help=FORMAT)
def status(only: tuple[str, ...], as_of: datetime, detailed_exitcode: bool, form: str) -> int:
    from dataclasses import asdict

    from provision.reconcile import maintaining

    shared = options()
    found = maintaining.status(shared.specs, shared.environment, clock=as_of, cache=shared.cache, only=only)
    if form == "json":
        show_json({"sets": [asdict(s) for s in found]})
    elif found:
        header = ("set", "partitions", "oldest", "newest", "ahead", "missing", "expired", "default rows")
        rows = [
            (s.object, str(s.partitions), s.oldest or "", s.newest or "", f"{s.ahead}/{s.premake}", str(s.missing),
             str(s.expired), "" if s.default_rows is None else str(s.default_rows))
            for s in found
        ]  # fmt: skip
        show(table(rows, header))
    else:
        show("no rolling partition sets\n")
    return exits.PENDING if detailed_exitcode and any(s.is_due for s in found) else exits.DONE
