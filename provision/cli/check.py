"""``holdfast check``: every diagnostic of the specs, offline unless --compile."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from provision.cli import exits
from provision.cli.output import FORMAT, colored, options, say
from provision.spec.errors import InputError

if TYPE_CHECKING:
    from provision.reconcile.checking import Checked

FORMS = click.Choice(["text", "json", "github", "sarif"])


@click.command("check", help="Report every mistake in the specs; with PATHS, only those in these files.")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("--compile", "compiled", is_flag=True, help="Also build the schema on a scratch server (rolled back).")
@click.option("--format", "form", type=FORMS, default="text", help=FORMAT)
def command(paths: tuple[Path, ...], compiled: bool, form: str) -> int:
    from provision import reconcile

    chosen = options()
    if missing := [path for path in paths if not path.exists()]:
        raise InputError(f"no such file: {missing[0]}", "Paths start at the current folder.")
    found = reconcile.check(
        chosen.specs, chosen.env, cache=chosen.cache, root=chosen.root, compiled=compiled, paths=paths, note=say
    )
    return show(found, form)


def show(found: Checked, form: str) -> int:
    """Print diagnostics in one of ``FORMS``; gives the exit code."""
    from provision.spec import render

    errors = sum(d.severity == "error" for d in found.diagnostics)
    if form == "text":
        click.echo(render.text(found.diagnostics, found.line, color=colored()), nl=False)
        say(f"{found.checked}: {render.summary(found.diagnostics)}")
    elif form == "github":
        click.echo(render.github(found.diagnostics), nl=False)
    else:
        click.echo({"json": render.as_json, "sarif": render.sarif}[form](found.diagnostics), nl=False)
    return exits.FAILED if errors else exits.DONE
