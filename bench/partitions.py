"""Maintenance of 100 parents with 10,000 partitions against one reading of the same catalog, and against psql.

usage: python bench/partitions.py [--parents N] [--partitions N] [--rounds N]

Each figure is a whole process; ratios are medians of interleaved rounds. A run with nothing due is put beside a bulk
reading of the catalog. A day's turn (each set gets a partition and loses one) is put beside psql, which sends the
same statements for another database of the same content.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import generate
from stage import Stage, ratio, workplace

from provision.embedded import postgres

#: What a run may cost more: nothing due ÷ catalog read, a day's turn ÷ psql.
READ, TURN = 2.0, 2.5
START = datetime.now(UTC)
DAY = timedelta(days=1)
_TABLE = """\
      log{n}:
        columns:
          id: {{type: bigint, nullable: false}}
          at: {{type: timestamptz, nullable: false}}
          note: {{type: text}}
        primary_key: [id, at]
        partitions: {{by: range, key: [at], every: 1 day, premake: {premake}, retain: {retain} days, start: "{start}"}}
        indexes: {{log{n}_at: {{columns: [at]}}}}
"""


def write(folder: Path, parents: int, partitions: int) -> None:
    """Specs of ``parents`` tables with so many partitions each: half behind ``START``, half ahead."""
    folder.mkdir(parents=True, exist_ok=True)
    behind = partitions // 2
    start = f"{START - DAY * behind:%Y-%m-%dT00:00:00Z}"
    tables = [_TABLE.format(n=n, premake=partitions - behind - 1, retain=behind, start=start) for n in range(parents)]
    (folder / "plane.yaml").write_text("plane: bench\nschemas:\n  app:\n    tables:\n" + "".join(tables))


class Rolling:
    """One database under maintenance, with a clock that goes on a day with each turn."""

    def __init__(self, stage: Stage, options: argparse.Namespace) -> None:
        self.stage = stage
        self.parents: int = options.parents
        self.specs = stage.folder / "rolling" / "specs"
        self.ahead = options.partitions - options.partitions // 2
        self.behind = options.partitions // 2
        self.turns = self.floors = 0
        write(self.specs, options.parents, options.partitions)
        stage.postgres.create_database("ours")
        generate.write_environment(self.specs, stage.postgres.dsn("ours"), None)
        stage.holdfast(self.specs, "apply", "--yes")
        self.maintain()
        counted = "SELECT count(*) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE c.relkind = 'r'"
        ((found,),) = stage.postgres.query(counted, database="ours")
        print(f"{options.parents} parents, {found} partitions", flush=True)
        assert int(found) == options.parents * options.partitions
        stage.postgres.query('CREATE DATABASE "theirs" TEMPLATE "ours"')

    def maintain(self) -> float:
        """Seconds of a run at the clock of the last turn."""
        clock = (START + DAY * self.turns).isoformat()
        # The server's clock does not go on with ours: retiring by it takes a consent.
        allowed = (f"--allow=data_loss:pg:main/app/log{n}/partitions/set" for n in range(self.parents))
        return self.stage.holdfast(self.specs, "partitions", "maintain", "--as-of", clock, *allowed)

    def turn(self) -> float:
        self.turns += 1
        return self.maintain()

    def psql(self) -> float:
        """Seconds of psql for the statements of a turn, each set's creation in a transaction."""
        self.floors += 1
        script = self.stage.folder / "turn.sql"
        script.write_text("\n".join(self._statements(START + DAY * self.floors)))
        psql = postgres.programs(18, self.stage.postgres.account) / "psql"
        where = self.stage.conninfo("theirs")
        return self.stage.run([str(psql), "-Xq", "-v", "ON_ERROR_STOP=1", "-f", str(script), where])

    def _statements(self, clock: datetime) -> Iterator[str]:
        low = clock.replace(hour=0) + DAY * (self.ahead - 1)
        old = clock.replace(hour=0) - DAY * (self.behind + 1)
        yield "SET timezone = 'UTC';"
        for n in range(self.parents):
            table = f"app.log{n}"
            new = f"{table}_{low:%Y_%m_%d}"
            bound = f"FOR VALUES FROM ('{low:%F}') TO ('{low + DAY:%F}')"
            yield f"BEGIN; CREATE TABLE {new} (LIKE {table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS);"
            yield f"ALTER TABLE {table} ATTACH PARTITION {new} {bound}; COMMIT;"
        for n in range(self.parents):
            gone = f"app.log{n}_{old:%Y_%m_%d}"
            yield f"ALTER TABLE app.log{n} DETACH PARTITION {gone} CONCURRENTLY; DROP TABLE {gone};"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parents", type=int, default=100)
    parser.add_argument("--partitions", type=int, default=100, help="of each parent")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with workplace() as folder, Stage(folder, "S") as stage:
        rolling = Rolling(stage, options)
        floor = stage.conninfo("ours")
        ratio(
            "maintenance, nothing due ÷ catalog read", options.rounds, rolling.maintain,
            lambda: stage.floor("catalog", floor), READ,
        )  # fmt: skip
        ratio("maintenance, a day's turn ÷ psql", options.rounds, rolling.turn, rolling.psql, TURN)
        done = stage.postgres.query(
            "SELECT summary->>'create', summary->>'drop' FROM holdfast.runs ORDER BY started_at DESC LIMIT 1",
            database="ours",
        )
        assert done == [[str(options.parents)] * 2], done


if __name__ == "__main__":
    main()
