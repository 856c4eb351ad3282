"""Pulumi against floors of the same run: an empty program, and ``holdfast apply`` of the same specs.

usage: python bench/pulumi.py [--rounds N] [--only plane,100,500]

Every figure is a whole process; servers and state lie in memory (/dev/shm) so that ratios show the tool.
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
from pathlib import Path

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
EMPTY = "import pulumi\n"
PLANE = 'from provision.pulumi.plane import Plane\n\nPlane("plane", "specs", "dev")\n'
PROJECT = "name: bench\nruntime: python\nplugins: {{providers: [{{name: holdfast, path: {path}}}]}}\n"
_STREAM = "  B{n}: {{subjects: [bench.{n}.>], max_age: 1h, max_bytes: 64KiB, max_msgs: 1000}}\n"
_DEV = "targets: {nats: {main: {kind: embedded}}}\n"
#: What an up without changes may cost more than one of an empty program, and creation against apply plus empty.
SECONDS_MORE, TIMES_APPLY = 2.0, 1.5


class Project:
    """A Pulumi project with its specs, servers and state in a folder of its own."""

    def __init__(self, folder: Path, engine: str, specs: Path | int | None) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "state").mkdir()
        (folder / "Pulumi.yaml").write_text(PROJECT.format(path=BIN))
        (folder / "__main__.py").write_text(EMPTY if specs is None else PLANE)
        self.has_plane = specs is not None
        if isinstance(specs, Path):
            shutil.copytree(specs, folder / "specs")
        elif specs is not None:
            (folder / "specs" / "environments").mkdir(parents=True)
            (folder / "specs" / "environments" / "dev.yaml").write_text(_DEV)
            streams = "".join(_STREAM.format(n=n) for n in range(specs))
            (folder / "specs" / "plane.yaml").write_text(f"plane: bench\nstreams:\n{streams}")
        kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        self.environment = {
            **kept, "PATH": f"{BIN}:{engine}:{os.environ['PATH']}", "PULUMI_HOME": str(folder / "home"),
            "PULUMI_BACKEND_URL": f"file://{folder / 'state'}", "PULUMI_CONFIG_PASSPHRASE": "",
            "PULUMI_SKIP_UPDATE_CHECK": "true", "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
            "HOLDFAST_CACHE": str(folder / "cache"),
        }  # fmt: skip

    def run(self, *command: str) -> float:
        """Seconds of one process."""
        start = time.perf_counter()
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        elapsed = time.perf_counter() - start
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(command)}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
        return elapsed

    def pulumi(self, *arguments: str) -> float:
        return self.run("pulumi", *arguments, "--non-interactive")

    def holdfast(self, *arguments: str) -> float:
        return self.run("holdfast", *arguments)

    def fresh(self) -> None:
        """Empty servers and an empty stack."""
        if self.has_plane:
            self.close()
            self.holdfast("dev", "up")
        if (self.folder / "state" / ".pulumi").exists():
            self.pulumi("stack", "rm", "dev", "--yes", "--force")
        self.pulumi("stack", "init", "dev")

    def cycle(self) -> dict[str, float]:
        """One life of a stack, in seconds by command."""
        self.fresh()
        up = ("up", "--yes", "--skip-preview")
        return {
            "preview": self.pulumi("preview"),
            "up": self.pulumi(*up),
            "no-change up": self.pulumi(*up),
            "refresh": self.pulumi("refresh", "--yes", "--skip-preview"),
            "destroy": self.pulumi("destroy", "--yes", "--skip-preview"),
        }

    def apply(self) -> float:
        """Seconds of ``holdfast apply`` on empty servers."""
        self.fresh()
        return self.holdfast("apply", "--yes")

    def close(self) -> None:
        if self.has_plane:
            self.holdfast("dev", "reset", "--yes")


def bench(name: str, project: Project, empty: Project, rounds: int) -> None:
    """Print the medians of one subject over interleaved rounds, and whether they meet the bars."""
    project.apply()  # what a first run only compiles is not measured
    lives, floors, applies = [], [], []
    for _ in range(rounds):
        lives.append(project.cycle())
        floors.append(empty.cycle())
        applies.append(project.apply())
    median = {step: statistics.median(life[step] for life in lives) for step in lives[0]}
    floor = {step: statistics.median(life[step] for life in floors) for step in floors[0]}
    for step, seconds in median.items():
        times = seconds / floor[step]
        print(f"{name:6} {step:14} {times:6.2f}x  {seconds:7.2f} s ÷ {floor[step]:5.2f} s of an empty program")
    if name != "plane":  # what hundreds of resources cost is the engine's: it writes its whole state at each step
        return
    more = median["no-change up"] - floor["no-change up"]
    apply = statistics.median(applies)
    times = median["up"] / (apply + floor["up"])
    _judge(f"{name}: no-change up, more than empty", f"{more:6.2f} s", f"{SECONDS_MORE} s", more <= SECONDS_MORE)
    _judge(f"{name}: up ÷ (apply {apply:.2f} s + empty)", f"{times:6.2f}x", f"{TIMES_APPLY}x", times <= TIMES_APPLY)


def _judge(what: str, value: str, bar: str, is_met: bool) -> None:
    print(f"{what:44} {value}  bar {bar}  {'ok' if is_met else 'MISSED'}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="plane,100,500")
    options = parser.parse_args()
    build = [sys.executable, str(ROOT / "tools" / "build.py"), "pulumi"]
    engine = subprocess.run(build, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="holdfast-bench-", dir=parent))
    folder.chmod(0o711)
    try:
        empty = Project(folder / "empty", engine, None)
        for name in options.only.split(","):
            project = Project(folder / name, engine, ROOT / "specs" if name == "plane" else int(name))
            try:
                bench(name, project, empty, options.rounds)
            finally:
                project.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
