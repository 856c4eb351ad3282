"""``holdfast apply``: do the steps of a saved plan, or plan first and ask."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from provision.cli import exits
from provision.cli.output import Progress, confirm, is_attended, options, say, show
from provision.plan.plan import Plan
from provision.spec.errors import ConsentError, InputError

if TYPE_CHECKING:
    from provision.reconcile.session import OpenPlane


@click.command("apply", help="Do the steps of a plan; without PLAN, plan first and ask.")
@click.argument("plan_file", metavar="[PLAN]", required=False, type=click.Path(path_type=Path))
@click.option("--allow", multiple=True, metavar="CONSENT", help="Allow one hazard by name: KIND:ADDRESS.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def command(plan_file: Path | None, allow: tuple[str, ...], yes: bool) -> int:
    from provision import reconcile
    from provision.plan import consents, render

    saved = None if plan_file is None else read_plan(plan_file)
    env = options().environment if saved is None else saved.env
    if options().env not in (None, env):
        raise InputError(f"the plan is for environment {env}, not {options().env}", "Leave --env out, or plan again.")
    with reconcile.open_plane(options().specs, env, cache=options().cache, note=say) as plane:
        made = plane.plan(clock=datetime.now(UTC)) if saved is None else saved
        wanted = consents.required(made)
        if saved is None:
            show(render.text(made, wanted, verbose=options().verbose))
        lacking = consents.missing(made, allow)
        if lacking:
            raise ConsentError(lacking)
        if saved is None and made.is_idle:
            _stamp(plane)
            return exits.DONE
        if saved is None and not yes and not _agreed():
            say("nothing was changed")
            return exits.FAILED
        progress = Progress(len(made.steps))
        try:
            outcome = plane.apply(made, allowed=allow, progress=progress)
        finally:
            progress.close()
        say(outcome.sentence)
        _stamp(plane)
    return exits.DONE


def _stamp(plane: OpenPlane) -> None:
    """Record the migrations that the specs cover."""
    from provision.plan.protocols import LockHeld
    from provision.reconcile import stamping

    try:
        found = stamping.stamp(plane, datetime.now(UTC))
    except LockHeld as held:
        say(f"the next apply records what migrations the specs cover: {held}")
        return
    if found:
        say(f"recorded as applied, since the specs cover them: {', '.join(m.version for m in found)}")


def _agreed() -> bool:
    if not is_attended():
        raise InputError("nobody is here to answer, so nothing was changed", "Add --yes, or apply a saved plan.")
    return confirm("Do these steps?")


def read_plan(path: Path) -> Plan:
    """Read a saved plan. Raises InputError."""
    from provision.plan.plan import from_json

    try:
        return from_json(json.loads(path.read_text()))
    except FileNotFoundError:
        raise InputError(f"no such plan file: {path}", "Write one with: holdfast plan -o plan.json") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a plan: {error}", "Make the plan again.") from error
