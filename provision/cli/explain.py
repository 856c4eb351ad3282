"""``holdfast explain CODE``: the page of a diagnostic."""

from __future__ import annotations

import difflib

import click

from provision.spec.errors import InputError


def _codes(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from provision.checks import pages
    from provision.migrate.lint import pages as migrations

    return [code for code in (*pages.all_pages(), *migrations.all_pages()) if code.startswith(incomplete.upper())]


@click.command(
    "explain",
    help="Print the page of a diagnostic: what it means, a bad and a good example. CODE is HF0312, or a rule's name.",
)
@click.argument("code", shell_complete=_codes)
def command(code: str) -> None:
    from provision.checks import pages
    from provision.checks.registry import RULES
    from provision.migrate.lint import RULES as ON_MIGRATIONS
    from provision.migrate.lint import pages as migrations

    known = pages.all_pages() | migrations.all_pages()
    names = {rule.slug: rule.code for rule in (*RULES, *ON_MIGRATIONS)}
    page = known.get(code.upper()) or known.get(names.get(code.lower(), ""))
    if page is None:
        near = difflib.get_close_matches(code.upper(), known) or difflib.get_close_matches(code.lower(), names)
        raise InputError(f"no diagnostic {code}", f"Near: {', '.join(near)}." if near else "See docs/rules/.")
    click.echo(page, nl=not page.endswith("\n"))
