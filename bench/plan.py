"""Plan, apply and check against floors of the same run: ratios, interleaved, medians.

usage: python bench/plan.py [--size S|M|L] [--rounds N] [--only NAME,...]

Every figure is a whole process. Data lies in memory (/dev/shm) so that ratios show the tool and not the disk.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import floors
import generate

from provision.embedded import nats, postgres

HERE = Path(__file__).parent
PYTHON = sys.executable
HOLDFAST = [PYTHON, "-m", "provision.cli"]


class Stage:
    """A folder with specs, a Postgres and a NATS server, all in memory."""

    def __init__(self, folder: Path, size: str) -> None:
        self.folder = folder
        self.size = generate.SIZES[size]
        settings = {"max_locks_per_transaction": 4096, "shared_buffers": "512MB"}
        self.postgres = postgres.Server(folder / "pg", fsync=False, settings=settings)
        self.nats = nats.Server(folder / "nats", config={"jetstream": {"sync_interval": "1m"}})
        self.cache = folder / "cache"

    def __enter__(self) -> Stage:
        self.postgres.start()
        self.nats.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.postgres.stop()
        self.nats.stop()

    def specs(self, name: str, database: str, *, changed: int = 0, with_nats: bool = False) -> Path:
        """Specs for one database, with NATS or without."""
        target = self.folder / name / "specs"
        generate.write(target, self.size, changed=changed, nats=with_nats)
        generate.write_environment(target, self.postgres.dsn(database), self.nats.url if with_nats else None)
        return target

    def environment(self, cache: Path | None = None) -> dict[str, str]:
        # Modules are compiled once on a user's machine, not on every start.
        kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        password = str(self.postgres.dsn("postgres")["password"])
        return {
            **kept, "BENCH_PASSWORD": password, "PGPASSWORD": password,
            "HOLDFAST_CACHE": str(cache or self.cache), "PYTHONPATH": str(HERE.parent),
        }  # fmt: skip

    def conninfo(self, database: str) -> str:
        d = self.postgres.dsn(database)
        return f"host={d['host']} port={d['port']} user={d['user']} dbname={database}"

    def holdfast(self, specs: Path, *arguments: str, cache: Path | None = None) -> float:
        """Seconds of one holdfast process."""
        return self.run([*HOLDFAST, "--specs", str(specs), *arguments], cache=cache)

    def cold(self, specs: Path, *arguments: str) -> float:
        """The same with an empty cache."""
        with tempfile.TemporaryDirectory(dir=self.folder) as empty:
            return self.holdfast(specs, *arguments, cache=Path(empty))

    def floor(self, name: str, argument: str) -> float:
        return self.run([PYTHON, str(HERE / "floors.py"), name, argument])

    def run(self, command: list[str], cache: Path | None = None) -> float:
        start = time.perf_counter()
        done = subprocess.run(command, check=False, env=self.environment(cache), capture_output=True, text=True)
        elapsed = time.perf_counter() - start
        if done.returncode not in (0, 2):
            raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return elapsed


def ratio(name: str, rounds: int, measured: Callable[[], float], floor: Callable[[], float], bar: float) -> None:
    """Print the median of measured ÷ floor over interleaved rounds."""
    pairs = [(measured(), floor()) for _ in range(rounds)]
    ratios = [m / f for m, f in pairs]
    value = statistics.median(ratios)
    seconds = statistics.median(m for m, _ in pairs)
    low = statistics.median(f for _, f in pairs)
    verdict = "ok" if value <= bar else "MISSED"
    print(f"{name:44} {value:6.2f}x  bar {bar:4.1f}x  {seconds:7.2f} s ÷ {low:6.2f} s  {verdict}", flush=True)


def bench_check(stage: Stage, rounds: int) -> None:
    folder = stage.folder / "five" / "specs"
    generate.write(folder, generate.Size(3_500))
    (folder / "environments").mkdir()
    (folder / "environments" / "dev.yaml").write_text("targets: {postgres: {main: {kind: embedded}}}\n")
    size = sum(p.stat().st_size for p in folder.rglob("*.yaml")) / 1e6
    ratio(
        f"load and check, {size:.1f} MB ÷ events", rounds,
        lambda: stage.cold(folder, "check", "--env", "dev"), lambda: stage.floor("events", str(folder)), 2.0,
    )  # fmt: skip


def bench_postgres(stage: Stage, rounds: int, size: str) -> None:
    stage.postgres.create_database("noop")
    specs = stage.specs("noop", "noop")
    stage.holdfast(specs, "apply", "--yes")
    floor = stage.conninfo("noop")
    stage.holdfast(specs, "plan")
    ratio(
        f"no-op plan, warm, {size} ÷ catalog read", rounds, lambda: stage.holdfast(specs, "plan"),
        lambda: stage.floor("catalog", floor), 2.0 if size == "L" else 1.5,
    )  # fmt: skip
    ratio(
        f"no-op plan, cold, {size} ÷ catalog read", rounds, lambda: stage.cold(specs, "plan"),
        lambda: stage.floor("catalog", floor), 3.5,
    )  # fmt: skip
    changed = stage.specs("changed", "noop", changed=20)
    stage.holdfast(changed, "plan")
    ratio(
        f"plan of 20 changed tables, warm, {size} ÷ catalog read", rounds, lambda: stage.holdfast(changed, "plan"),
        lambda: stage.floor("catalog", floor), 3.0,
    )  # fmt: skip
    stage.postgres.query("ALTER TABLE s3.t350 ALTER COLUMN score SET DEFAULT 7", database="noop")
    done = subprocess.run(
        [*HOLDFAST, "--specs", str(specs), "drift"],
        check=False,
        env=stage.environment(),
        capture_output=True,
        text=True,
    )
    found = done.returncode == 2 and "t350/column/score" in done.stdout
    print(f"one option changed behind a warm cache: {'found' if found else 'NOT FOUND'}", flush=True)
    if not found:
        raise SystemExit(done.stdout + done.stderr)


def bench_apply(stage: Stage, rounds: int, size: str) -> None:
    specs = stage.specs("apply", "apply0")
    dump = stage.folder / "schema.sql"
    counter = iter(range(1_000_000))

    def fresh(prefix: str) -> str:
        name = f"{prefix}{next(counter)}"
        stage.postgres.create_database(name)
        return name

    def measured() -> float:
        database = fresh("apply")
        generate.write_environment(specs, stage.postgres.dsn(database), None)
        return stage.holdfast(specs, "apply", "--yes")

    measured()
    psql = postgres.programs(18, stage.postgres.account) / "psql"
    pg_dump = psql.with_name("pg_dump")
    source = stage.conninfo("noop")
    with dump.open("w") as file:
        subprocess.run([str(pg_dump), "-s", "-N", "holdfast", source], env=stage.environment(), stdout=file, check=True)

    def floor() -> float:
        command = [str(psql), "-q", "-1", "-v", "ON_ERROR_STOP=1", "-f", str(dump), stage.conninfo(fresh("psql"))]
        return stage.run(command)

    ratio(f"apply from empty, {size} ÷ psql -1", rounds, measured, floor, 1.3)


def bench_nats(stage: Stage, rounds: int) -> None:
    stage.postgres.create_database("empty")
    specs = stage.folder / "nats-specs" / "specs"
    size = generate.Size(0, 1_000, 1_000)
    generate.write(specs, size)
    for schema in specs.glob("s[0-9].yaml"):
        schema.unlink()
    generate.write_environment(specs, stage.postgres.dsn("empty"), stage.nats.url)
    text = (specs / "environments" / "dev.yaml").read_text().splitlines()
    (specs / "environments" / "dev.yaml").write_text("\n".join(text[:2]) + "\n")
    created = stage.holdfast(specs, "apply", "--yes")
    raw = stage.floor("create", stage.nats.url)
    print(f"{'create 2,000 NATS objects ÷ raw requests, 64 in flight':44} {created / raw:6.2f}x  bar  1.2x", flush=True)
    stage.holdfast(specs, "plan")
    ratio(
        "NATS no-op, 2,000 objects ÷ paged lists", rounds, lambda: stage.holdfast(specs, "plan"),
        lambda: stage.floor("nats", stage.nats.url), 2.0,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=list(generate.SIZES), default="M")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="check,postgres,apply,nats")
    options = parser.parse_args()
    wanted = options.only.split(",")
    parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="holdfast-bench-", dir=parent))
    folder.chmod(0o711)
    try:
        with Stage(folder, options.size) as stage:
            if "check" in wanted:
                bench_check(stage, options.rounds)
            if "postgres" in wanted:
                bench_postgres(stage, options.rounds, options.size)
            if "apply" in wanted:
                bench_apply(stage, max(1, options.rounds // 2), options.size)
            if "nats" in wanted:
                bench_nats(stage, options.rounds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


assert floors.CATALOG
if __name__ == "__main__":
    main()
