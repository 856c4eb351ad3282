"""Servers that cannot do what is asked: each ends with one clear message, and nothing is half done."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from provision.embedded import nats, postgres
from provision.postgres.errors import StatementFailed
from provision.reconcile.gates import Refused
from tests.live.drift_bed import Bed

#: Options by the first release line that has them, and the record that wants them.
LATER = {
    "allow_msg_ttl": ("2.11", {"allow_msg_ttl": True}), "allow_msg_counter": ("2.12", {"allow_msg_counter": True}),
    "allow_batched": ("2.14", {"allow_batched": True}),
}  # fmt: skip
EXPRESSION = {"schemas": {"app": {"tables": {"t": {
    "columns": {"a": {"type": "integer", "nullable": False, "default": "1 + 1"}}, "primary_key": ["a"],
}}}}}  # fmt: skip


@pytest.mark.soak
def test_a_server_too_old_for_an_option_is_found_by_plan(nats_of: Callable[[str], nats.Server], tmp_path: Path) -> None:
    server = nats_of("2.10")
    bed = Bed(tmp_path, {"nats": {"main": {"kind": "external", "urls": [server.url]}}})
    bed.declare({"streams": {name: {"subjects": [f"{name}.>"], **body} for name, (_, body) in LATER.items()}})
    with pytest.raises(Refused) as refused:
        bed.plan()
    assert sorted(refused.value.reasons) == sorted(
        f"nats:main/stream/{name} wants {name}, which came with {line}.0; nats main runs {server.version()}"
        for name, (line, _) in LATER.items()
    )


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[None]:
    """A file system of its own at a place. Skips where this user may not mount one."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False) if shutil.which("mount") else None
    if done is None or done.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip() if done else 'there is no mount'}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def resize(place: Path, spare: int) -> None:
    """Leave so many bytes free."""
    used = shutil.disk_usage(place).used
    subprocess.run(["mount", "-o", f"remount,size={used + spare}", str(place)], check=True)


def bed_on(folder: Path, dsn: dict[str, Any]) -> Bed:
    secret = folder / "secret"
    secret.write_text(str(dsn["password"]))
    target = {key: dsn[key] for key in ("host", "port", "user")}
    return Bed(folder, {"postgres": {"main": {
        **target, "kind": "external", "password": {"file": str(secret)}, "database": dsn["dbname"],
    }}})  # fmt: skip


def test_a_full_disk_under_the_scratch_database_is_told_and_leaves_nothing_behind(
    server_root: Path, tmp_path: Path
) -> None:
    server = postgres.Server(server_root / "postgres-full", major=18, fsync=False)
    server.start()
    try:
        server.create_database("full")
        server.stop()
        base = next(server.home.rglob("base"))
        kept = base.with_name("base.kept")
        base.rename(kept)
        base.mkdir()
        with small_disk(base, "200m"):
            subprocess.run(["cp", "-a", f"{kept}/.", str(base)], check=True)
            shutil.copystat(kept, base)
            os.chown(base, kept.stat().st_uid, kept.stat().st_gid)
            server.start()
            bed = bed_on(tmp_path, server.dsn("full"))
            bed.declare(EXPRESSION)
            resize(base, 1_000_000)
            with pytest.raises(StatementFailed, match="scratch database: could not") as error:
                bed.plan()
            assert "disk space" in error.value.help
            assert server.query("SELECT count(*) FROM pg_database WHERE datname LIKE 'holdfast%'") == [["0"]]
            resize(base, 60_000_000)
            bed.mend()
            server.stop()
    finally:
        server.remove()


def test_a_full_disk_under_the_embedded_scratch_server_is_told(server_root: Path, tmp_path: Path) -> None:
    (tmp_path / "specs" / "environments").mkdir(parents=True)
    (tmp_path / "specs" / "plane.yaml").write_text(
        "plane: small\nschemas: {app: {tables: {t: {columns: {a: {type: integer, nullable: false, default: 1 + 1}},"
        " primary_key: [a]}}}}\n"
    )
    (tmp_path / "specs" / "environments" / "dev.yaml").write_text("targets: {postgres: {main: {kind: embedded}}}\n")
    cache = server_root / "cache-full"
    cache.mkdir()
    with small_disk(cache, "6m"):
        done = subprocess.run(
            [sys.executable, "-m", "provision.cli", "--specs", "specs", "--env", "dev", "check", "--compile"],
            capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path,
            env={**os.environ, "HOLDFAST_CACHE": str(cache)},
        )  # fmt: skip
    told = done.stdout + done.stderr
    assert done.returncode == 1, told
    assert "Traceback" not in told
    assert "space" in told
