"""``holdfast destroy``: remove what this plane owns, behind named consents."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from provision.cli import exits
from provision.cli.output import Progress, confirm, is_attended, options, say, show
from provision.spec.errors import ConsentError, InputError


@click.command("destroy", help="Remove what this plane owns.")
@click.option("--allow", multiple=True, metavar="CONSENT", help="Allow one hazard by name: KIND:ADDRESS.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def command(allow: tuple[str, ...], yes: bool) -> int:
    from provision import reconcile
    from provision.plan import consents, render

    with reconcile.open_plane(options().specs, options().environment, cache=options().cache, note=say) as plane:
        made = plane.destruction(clock=datetime.now(UTC))
        show(render.text(made, consents.required(made), verbose=options().verbose))
        lacking = consents.missing(made, allow)
        if lacking:
            raise ConsentError(lacking)
        if made.is_idle:
            return exits.DONE
        if not yes:
            if not is_attended():
                raise InputError("nobody is here to answer, so nothing was removed", "Add --yes.")
            if not confirm("Remove all of this?"):
                return exits.FAILED
        progress = Progress(len(made.steps))
        try:
            outcome = plane.apply(made, allowed=allow, progress=progress)
        finally:
            progress.close()
    say(outcome.sentence)
    return exits.DONE
