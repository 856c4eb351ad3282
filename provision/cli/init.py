"""``holdfast init``: a folder of specs to start from, with the JSON Schemas beside it for editors."""

from __future__ import annotations

from pathlib import Path

import click

from provision.cli.output import options, say
from provision.spec.errors import InputError

_PLANE = """\
plane: {plane}
streams:
  EVENTS:
    subjects: [events.>]
    max_age: 1d
    max_bytes: 64MiB
    max_msgs: 100000
    consumers:
      worker: {{ack_policy: explicit, ack_wait: 30s, max_deliver: 5, filter_subject: events.>, dead_letter: none}}
buckets:
  STATE: {{ttl: 30m, history: 5, max_bytes: 64MiB}}
schemas:
  {plane}:
    tables:
      state:
        columns:
          id: {{type: uuid, nullable: false, default: gen_random_uuid()}}
          body: {{type: jsonb, nullable: false}}
          created_at: {{type: timestamptz, nullable: false, default: now()}}
        primary_key: [id]
"""
_DEV = """\
targets:
  nats: {main: {kind: embedded}}
  postgres: {main: {kind: embedded}}
"""


@click.command("init", help="Start a folder of specs.")
@click.option("--plane", default="agents", metavar="NAME", help="Name of the plane.")
def command(plane: str) -> None:
    from provision import registry
    from provision.spec import schema

    if not plane.isidentifier():
        raise InputError(f"{plane!r} cannot be a plane's name", "Use letters, digits and underscores.")
    specs = options().specs
    schemas = {specs.resolve().parent / name: text for name, text in schema.files(registry.sections()).items()}
    files = {
        specs / "plane.yaml": schema.header(schema.FILE, 1) + _PLANE.format(plane=plane),
        specs / "environments" / "dev.yaml": schema.header(schema.ENVIRONMENT_FILE, 2) + _DEV,
    }
    for path in files:
        if path.exists():
            raise InputError(f"{path} exists", "Nothing was written; name another folder with --specs.")
    for path, text in (files | schemas).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        say(f"wrote {_shown(path)}")
    say("next: holdfast dev up, holdfast check, holdfast apply")


def _shown(path: Path) -> Path:
    try:
        return path.resolve().relative_to(Path.cwd())
    except ValueError:
        return path
