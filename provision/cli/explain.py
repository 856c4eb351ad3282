"""``holdfast explain CODE``: the page of a diagnostic."""

from __future__ import annotations

import difflib

import click

from provision.spec.errors import InputError


@click.command("explain", help="Print the page of a diagnostic code.")
@click.argument("code")
def command(code: str) -> None:
    from provision.checks import pages

    known = pages.all_pages()
    found = known.get(code.upper()) or next((p for p in known.values() if f"({code})" in p.split("\n")[0]), None)
    if found is None:
        near = difflib.get_close_matches(code.upper(), known, n=3)
        raise InputError(f"no diagnostic {code}", f"Near: {', '.join(near)}." if near else "See docs/rules/.")
    click.echo(found, nl=not found.endswith("\n"))
