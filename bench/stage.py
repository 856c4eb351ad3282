"""What benchmarks share: a folder in memory, servers with specs, and ratios to a floor of the same run."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

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


@contextmanager
def workplace() -> Iterator[Path]:
    """A folder that PostgreSQL's account can reach, in memory where the machine has it; deleted afterwards."""
    parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="holdfast-bench-", dir=parent))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
