"""Specs of a given size: S, M or L. Deterministic, so two runs measure the same plane."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Size(NamedTuple):
    """Counts of objects. ``hash_parents`` have 100 partitions each, ``range_parents`` 900 days each."""

    tables: int
    streams: int = 0
    consumers: int = 0
    hash_parents: int = 0
    range_parents: int = 0


SIZES = {
    "S": Size(100),
    "M": Size(1_000, 500, 500),
    "L": Size(1_000, 500, 500, hash_parents=10, range_parents=10),
}
SCHEMAS = 10
_TABLE = """\
      t{n}:
        columns:
          id: {{type: bigint, nullable: false, identity: by_default}}
          parent_id: {{type: bigint}}
          name: {{type: varchar(255), nullable: false}}
          kind: {{type: text, nullable: false, default: "'plain'"}}
          amount: {{type: "numeric(12,2)", nullable: false, default: 0}}
          score: {{type: integer, nullable: false, default: 0}}
          active: {{type: boolean, nullable: false, default: true}}
          body: {{type: jsonb, nullable: false, default: "'{{}}'::jsonb"}}
          tags: {{type: "text[]"}}
          created_at: {{type: timestamptz, nullable: false, default: now()}}
          updated_at: {{type: timestamptz, nullable: false, default: now()}}
          expires_at: {{type: timestamptz}}{column}
        primary_key: [id]
        writer_touches: true
        checks:
          t{n}_amount: amount >= 0{check}
        foreign_keys:
          t{n}_parent: {{columns: [parent_id], references: s{s}.t{target}, on_delete: cascade}}
        indexes:
          t{n}_parent_id: {{columns: [parent_id]}}
          t{n}_name: {{columns: [name, created_at]}}
          t{n}_expires: {{columns: [expires_at], where: expires_at IS NOT NULL}}{index}
"""
_HASH = """\
      h{n}:
        columns: {{id: {{type: bigint, nullable: false}}, body: {{type: jsonb}}}}
        primary_key: [id]
        partitions: {{by: hash, key: [id], modulus: 100}}
"""
_RANGE = """\
      r{n}:
        columns: {{id: {{type: bigint, nullable: false}}, at: {{type: timestamptz, nullable: false}}}}
        primary_key: [id, at]
        partitions: {{by: range, key: [at], every: 1 day, premake: 898, min_ahead: 1}}
"""
_ENVIRONMENT = """\
targets:
  {nats}
  postgres:
    main:
      kind: external
      password: {{env: BENCH_PASSWORD}}
      database: {database}
      user: {user}
      host: {host}
      port: {port}
"""


def write(folder: Path, size: Size, *, changed: int = 0, nats: bool = True) -> None:
    """Write the specs below ``folder``; ``changed`` tables get one more column, check and index each."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plane.yaml").write_text("plane: bench\n")
    per_schema = size.tables // SCHEMAS
    for s in range(SCHEMAS):
        lines = ["schemas:\n", f"  s{s}:\n", "    tables:\n"]
        for i in range(per_schema):
            n = s * per_schema + i
            lines.append(_table(s, n, s * per_schema, is_changed=n < changed))
        lines += [_HASH.format(n=n) for n in range(s, size.hash_parents, SCHEMAS)]
        lines += [_RANGE.format(n=n) for n in range(s, size.range_parents, SCHEMAS)]
        (folder / f"s{s}.yaml").write_text("".join(lines))
    if nats and size.streams:
        (folder / "streams.yaml").write_text(_streams(size))


def write_environment(folder: Path, postgres: dict[str, object], nats_url: str | None) -> None:
    """Write environments/dev.yaml for servers that run already."""
    text = _ENVIRONMENT.format(
        nats=f"nats: {{main: {{kind: external, urls: ['{nats_url}']}}}}" if nats_url else "{}",
        host=postgres["host"], port=postgres["port"], user=postgres["user"], database=postgres["dbname"],
    )  # fmt: skip
    (folder / "environments").mkdir(parents=True, exist_ok=True)
    (folder / "environments" / "dev.yaml").write_text(text.replace("  {}\n", ""))


def _table(schema: int, n: int, first: int, *, is_changed: bool) -> str:
    extra = {"column": "", "check": "", "index": ""}
    if is_changed:
        extra = {
            "column": "\n          added: {type: integer}",
            "check": f"\n          t{n}_added: added > 0",
            "index": f"\n          t{n}_added_index: {{columns: [added]}}",
        }
    return _TABLE.format(s=schema, n=n, target=first, **extra)


def _streams(size: Size) -> str:
    lines = ["streams:\n"]
    for n in range(size.streams):
        lines.append(
            f"  B{n}:\n    subjects: [bench.{n}.>]\n    max_age: 1h\n    max_bytes: 1MiB\n    max_msgs: 1000\n"
        )
        if n < size.consumers:
            lines.append(f"    consumers: {{c{n}: {{ack_policy: explicit, filter_subject: bench.{n}.>}}}}\n")
    return "".join(lines)
