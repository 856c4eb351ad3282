"""Plan, apply and check against floors of the same run: ratios, interleaved, medians.

usage: python bench/plan.py [--size S|M|L] [--rounds N] [--only NAME,...]

Every figure is a whole process. Data lies in memory (/dev/shm) so that ratios show the tool and not the disk.
"""

from __future__ import annotations

import argparse
import subprocess

import floors
import generate
from stage import HOLDFAST, Stage, ratio, workplace

from provision.embedded import postgres


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
    table = f"t{generate.SIZES[size].tables * 35 // 100}"  # one in the midst, in schema s3
    stage.postgres.query(f"ALTER TABLE s3.{table} ALTER COLUMN score SET DEFAULT 7", database="noop")
    done = subprocess.run(
        [*HOLDFAST, "--specs", str(specs), "drift"],
        check=False,
        env=stage.environment(),
        capture_output=True,
        text=True,
    )
    found = done.returncode == 2 and f"{table}/column/score" in done.stdout
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
    with workplace() as folder, Stage(folder, options.size) as stage:
        if "check" in wanted:
            bench_check(stage, options.rounds)
        if "postgres" in wanted:
            bench_postgres(stage, options.rounds, options.size)
        if "apply" in wanted:
            bench_apply(stage, max(1, options.rounds // 2), options.size)
        if "nats" in wanted:
            bench_nats(stage, options.rounds)


assert floors.CATALOG
if __name__ == "__main__":
    main()
