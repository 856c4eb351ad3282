"""``holdfast init``: a folder of specs to start from, with the JSON Schema beside it for editors."""

from __future__ import annotations

import json
from pathlib import Path

import click

from provision.cli.output import options, say
from provision.spec.errors import InputError

_PLANE = """\
# yaml-language-server: $schema=../holdfast.schema.json
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
# yaml-language-server: $schema=../../holdfast.schema.json
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
    files = {
        specs / "plane.yaml": _PLANE.format(plane=plane),
        specs / "environments" / "dev.yaml": _DEV,
        specs.resolve().parent / "holdfast.schema.json": _pretty(schema.compose(registry.sections())),
    }
    for path in files:
        if path.exists() and path.name != "holdfast.schema.json":
            raise InputError(f"{path} exists", "Nothing was written; name another folder with --specs.")
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        say(f"wrote {_shown(path)}")
    say("next: holdfast dev up, holdfast check, holdfast apply")


def _pretty(data: object) -> str:
    return json.dumps(data, indent=2) + "\n"


def _shown(path: Path) -> Path:
    try:
        return path.resolve().relative_to(Path.cwd())
    except ValueError:
        return path
