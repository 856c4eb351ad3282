"""``holdfast drift``: where the live plane departs from the specs. Exit 2 when it does."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import click

from provision.cli import exits
from provision.cli.clock import instant
from provision.cli.output import FORMAT, options, say, show, show_json

if TYPE_CHECKING:
    from provision.plan.plan import Plan


@click.command("drift", help="Show where the live plane departs from the specs.")
@click.option("--format", "form", type=click.Choice(["text", "json", "markdown"]), default="text", help=FORMAT)
@click.option("--as-of", type=str, callback=instant, metavar="TIME", help="Judge for another instant (RFC 3339).")
@click.option("--only", multiple=True, metavar="ADDRESS", help="Only this object and what it needs.")
def command(form: str, as_of: datetime, only: tuple[str, ...]) -> int:
    from provision import reconcile
    from provision.plan import consents, plan, render

    with reconcile.open_plane(options().specs, options().environment, cache=options().cache, note=say) as plane:
        made = plane.plan(clock=as_of, only=only)
    if form == "json":
        show_json(plan.to_json(made, consents.required(made)))
    elif form == "markdown":
        click.echo(render.markdown(made, consents.required(made)), nl=False)
    elif made.is_empty and not made.drift:
        show(f"No drift: plane {made.plane} in {made.env} equals its specs.\n")
    else:
        lines = [render.drift_line(d) for d in made.drift]
        gone = len(_missing(made))
        show("".join(f"  ~ {line}\n" for line in lines) + f"{len(lines)} differences, {gone} objects missing.\n")
    return exits.PENDING if made.steps or made.drift else exits.DONE


def _missing(made: Plan) -> set[str]:
    """What is declared and not there: what was there once, and what nobody has made yet."""
    other = {d.object for d in made.drift if d.change != "missing"}
    lost = {d.object for d in made.drift} - other
    return lost | {s.object for s in made.steps if s.action == "create"} - other
