"""``holdfast import``: live servers become specs."""

from __future__ import annotations

from pathlib import Path

import click

from provision.cli.output import options, say


@click.command("import", help="Write specs from live servers; without a server, those of the environment.")
@click.option("--postgres", metavar="DSN", help="Database to read.")
@click.option("--nats", metavar="URL", help="NATS server to read.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), metavar="DIR", help="New folder.")
@click.option("--schema", "schemas", multiple=True, metavar="NAME", help="Only these schemas.")
@click.option("--stream", "streams", multiple=True, metavar="NAME", help="Only these streams and buckets.")
def command(
    postgres: str | None, nats: str | None, output: Path, schemas: tuple[str, ...], streams: tuple[str, ...]
) -> None:
    from provision.reconcile import importing

    written = importing.import_plane(
        options().specs, options().environment, output, cache=options().cache, postgres=postgres, nats=nats,
        schemas=schemas, streams=streams, note=say,
    )  # fmt: skip
    for path in written.files:
        say(f"wrote {path}")
    for line in written.left_out:
        say(f"note: {line}")
