"""``holdfast check``: every diagnostic of the specs, offline unless --compile."""

from __future__ import annotations

from pathlib import Path

import click

from provision.cli import exits
from provision.cli.output import options, say


@click.command("check", help="Report every mistake in the specs.")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("--compile", "compiled", is_flag=True, help="Also build the schema on a scratch server (rolled back).")
@click.option("--format", "form", type=click.Choice(["text", "json", "github", "sarif"]), default="text")
def command(paths: tuple[Path, ...], compiled: bool, form: str) -> int:
    from provision import reconcile
    from provision.spec import render

    chosen = options()
    found = reconcile.check(
        chosen.specs, chosen.env, cache=chosen.cache, root=chosen.root, compiled=compiled, paths=paths, note=say
    )
    errors = sum(d.severity == "error" for d in found.diagnostics)
    text = render.render(found.diagnostics, form, found.line)
    click.echo(text, nl=not text.endswith("\n") and bool(text))
    if form == "text":
        warnings = len(found.diagnostics) - errors
        say(f"{found.checked}: {errors} errors, {warnings} warnings")
    return exits.FAILED if errors else exits.DONE
