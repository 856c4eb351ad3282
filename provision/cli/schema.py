"""``holdfast schema``: the JSON Schema of the spec language, for editors."""

from __future__ import annotations

import click

from provision.cli.output import show_json


@click.command("schema", help="Print the JSON Schema of the spec language.")
def command() -> None:
    from provision import registry
    from provision.spec import schema

    show_json(schema.compose(registry.sections()))
