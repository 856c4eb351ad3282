"""``holdfast schema``: the JSON Schema of the spec language, for editors."""

from __future__ import annotations

import click


@click.command("schema", help="Print the JSON Schema of spec files, or that of environments.")
@click.option("--environment", is_flag=True, help="The one of the files below environments/.")
def command(environment: bool) -> None:
    from provision import registry
    from provision.spec import schema

    compose = schema.compose_environment if environment else schema.compose
    click.echo(schema.text(compose(registry.sections())), nl=False)
