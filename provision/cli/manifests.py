"""``holdfast manifests``: what to apply to Kubernetes for the targets that run there."""

from __future__ import annotations

import click

from provision.cli.output import FORMAT, options, show_json


@click.command("manifests", help="Print the Kubernetes objects of the targets of kind kubernetes. No server is asked.")
@click.option("--format", "form", type=click.Choice(["yaml", "json"]), default="yaml", help=FORMAT)
def command(form: str) -> None:
    from provision.kubernetes import render
    from provision.reconcile.manifesting import Clusters

    found = Clusters(options().specs, options().environment, cache=options().cache).manifests()
    if form == "json":
        show_json(render.to_list(found))
    else:
        click.echo(render.to_yaml(found), nl=False)
