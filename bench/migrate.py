"""``migrate up`` of many small files against psql running the same files.

usage: python bench/migrate.py [--files N] [--rounds N]

Both figures are whole processes on a fresh database that has the schema ``migrations``; lint judges every file and
finds nothing. psql gets all files in one call and keeps no history.
"""

from __future__ import annotations

import argparse
import json
from itertools import count
from pathlib import Path

import generate
import yaml
from stage import HERE, Stage, ratio, workplace

from provision.embedded import postgres

_UP = """\
-- version: 1.{n}.0
-- description: Table number {n}
CREATE TABLE app.t{n} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL, at timestamptz);
CREATE INDEX t{n}_name ON app.t{n} (name, at);
INSERT INTO app.t{n} (name) VALUES ('one'), ('two'), ('three');
"""
_DOWN = "-- version: 1.{n}.0\nDROP TABLE app.t{n};\n"


def write_specs(folder: Path) -> None:
    """Specs that declare the schema ``migrations`` and nothing else."""
    schemas = HERE.parent / "specs" / "schemas"
    schema = yaml.safe_load((schemas / "operations.yaml").read_text())["schemas"]["migrations"]
    for table in schema["tables"].values():
        table.pop("grants", None)
    for function in schema["functions"].values():
        function["body"] = (schemas / function["body"]["file"]).read_text()
    folder.mkdir()
    (folder / "plane.yaml").write_text(json.dumps({"plane": "bench", "schemas": {"migrations": schema}}))


def write_migrations(folder: Path, files: int) -> None:
    """Numbered migrations of three statements each, with their ways back."""
    folder.mkdir()
    for n in range(1, files + 1):
        for way, text in (("up", _UP), ("down", _DOWN)):
            (folder / f"{n:04}_create_t{n}.{way}.sql").write_text(text.format(n=n))


def bench_up(stage: Stage, files: int, rounds: int) -> None:
    specs, migrations, numbers = stage.folder / "specs", stage.folder / "migrations", count(1)
    write_specs(specs)
    write_migrations(migrations, files)
    stage.postgres.create_database("template")
    generate.write_environment(specs, stage.postgres.dsn("template"), None)
    stage.holdfast(specs, "apply", "--yes")
    stage.postgres.query("CREATE SCHEMA app", database="template")

    def fresh() -> str:
        name = f"bench{next(numbers)}"
        stage.postgres.query(f"CREATE DATABASE {name} TEMPLATE template")
        return name

    def up() -> float:
        database = fresh()
        generate.write_environment(specs, stage.postgres.dsn(database), None)
        seconds = stage.holdfast(specs, "migrate", "up", "--dir", str(migrations))
        applied = "SELECT count(*) FROM migrations.applied_migrations WHERE status = 'applied'"
        if stage.postgres.query(applied, database=database) != [[str(files)]]:
            raise SystemExit("not every file was applied")
        return seconds

    psql = str(postgres.programs(18, stage.postgres.account) / "psql")
    chosen = [f"--file={path}" for path in sorted(migrations.glob("*.up.sql"))]

    def floor() -> float:
        return stage.run([psql, "-Xq", "-v", "ON_ERROR_STOP=1", *chosen, stage.conninfo(fresh())])

    up()
    ratio(f"migrate up, {files} files ÷ psql", rounds, up, floor, 3.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with workplace() as folder, Stage(folder, "S") as stage:
        bench_up(stage, options.files, options.rounds)


if __name__ == "__main__":
    main()
