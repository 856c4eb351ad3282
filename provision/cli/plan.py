"""``holdfast plan``: the steps that lead from the live plane to the specs. It changes nothing."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click

from provision.cli import exits
from provision.cli.clock import instant
from provision.cli.output import FORMAT, options, say, show


@click.command("plan", help="Show the steps that lead from the live plane to the specs.")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Save the plan for apply.")
@click.option("--format", "form", type=click.Choice(["text", "json", "markdown"]), default="text", help=FORMAT)
@click.option("--detailed-exitcode", is_flag=True, help="Exit 2 when steps are pending.")
@click.option("--as-of", type=str, callback=instant, metavar="TIME", help="Plan for another instant (RFC 3339).")
@click.option("--only", multiple=True, metavar="ADDRESS", help="Only this object and what it needs.")
def command(output: Path | None, form: str, detailed_exitcode: bool, as_of: datetime, only: tuple[str, ...]) -> int:
    from provision import reconcile
    from provision.plan import consents, plan, render

    with reconcile.open_plane(options().specs, options().environment, cache=options().cache, note=say) as plane:
        made = plane.plan(clock=as_of, only=only)
    wanted = consents.required(made)
    if output is not None:
        output.write_text(plan.dumps(made, wanted))
        say(f"wrote {output}; run: holdfast apply {output}")
    if form == "json":
        click.echo(plan.dumps(made, wanted), nl=False)
    elif form == "markdown":
        click.echo(render.markdown(made, wanted), nl=False)
    else:
        show(render.text(made, wanted, verbose=options().verbose))
    return exits.PENDING if detailed_exitcode and not made.is_empty else exits.DONE
