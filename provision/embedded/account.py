"""The operating-system account that PostgreSQL runs under, since it refuses to run as root."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from provision.embedded.process import ServerError

_OWN = "holdfast"
#: Where servers of root keep what their account could not reach inside the project.
SHELTER = Path("/var/lib/holdfast")


class Account(NamedTuple):
    """A user and group id; None stands for the user who runs us."""

    uid: int | None
    gid: int | None

    def run(self, command: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command as this account, without a terminal or any supplementary group, output captured."""
        if self.uid is not None:
            options |= {"user": self.uid, "group": self.gid, "extra_groups": []}
        if "input" not in options:
            options["stdin"] = subprocess.DEVNULL
        return subprocess.run(
            [str(part) for part in command], text=True, capture_output=True, check=False, cwd="/", **options
        )

    def can_enter(self, folder: Path) -> bool:
        """Whether this account may pass into an existing folder through every one above it."""
        return self.uid is None or self.run(["/bin/sh", "-c", 'test -x "$0"', folder]).returncode == 0

    def can_read(self, folder: Path) -> bool:
        """Whether this account may also list it."""
        return self.uid is None or self.run(["/bin/sh", "-c", 'test -r "$0/."', folder]).returncode == 0

    def write(self, file: Path, text: str) -> None:
        """Replace a private file with our hands tied to this account, whatever lies in its folder."""
        script = 'umask 077 && cat >"$0.new" && mv -f "$0.new" "$0"'
        done = self.run(["/bin/sh", "-c", script, file], input=text)
        if done.returncode != 0:
            raise ServerError(f"{file} cannot be written: {done.stderr.strip()}")

    def make_folder(self, path: Path) -> None:
        """Create a private folder of this account. An existing one keeps its mode and owner."""
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            return
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)


def for_servers(home: Path) -> Account:
    """The account for a server in ``home``: ourselves, or an unprivileged one when we are root.

    A home that exists stays with its owner. Raises ServerError.
    """
    if os.geteuid() != 0:
        return Account(None, None)
    if home.is_dir() and home.stat().st_uid != 0:
        return Account(home.stat().st_uid, home.stat().st_gid)
    found = _look_up(_OWN) or _look_up("postgres") or _create() or _look_up("nobody")
    if found is None:
        raise ServerError(
            "PostgreSQL does not run as root, and no unprivileged user could be found or made",
            f"Create one: useradd --system {_OWN}",
        )
    return found


def _look_up(name: str) -> Account | None:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return Account(entry.pw_uid, entry.pw_gid) if entry.pw_uid != 0 else None


def _create() -> Account | None:
    useradd = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if useradd is None:
        return None
    options = ["--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
    subprocess.run([useradd, *options, "--shell", "/bin/false", _OWN], capture_output=True, check=False)
    return _look_up(_OWN)  # also when another process was faster


def shelter(name: str) -> Path:
    """A folder of root's that every account can pass through, below no private one. Raises ServerError."""
    SHELTER.mkdir(mode=0o755, exist_ok=True)
    facts = SHELTER.lstat()
    if not SHELTER.is_dir() or SHELTER.is_symlink() or facts.st_uid != 0 or facts.st_mode & 0o022:
        raise ServerError(f"{SHELTER} is not a folder that only root can write", "Remove it and try again.")
    path = SHELTER / name
    path.mkdir(mode=0o755, exist_ok=True)
    for made in (SHELTER, path):
        if not made.stat().st_mode & 0o001:
            raise ServerError(f"{made} cannot be entered by other users", f"Run: chmod o+x {made}")
    return path


def readable_copy(account: Account, folders: Sequence[Path], name: str) -> Path:
    """The parent of sibling ``folders`` if the account can read them, else of their copies in the shelter."""
    if all(account.can_read(folder) for folder in folders):
        return folders[0].parent
    target = shelter("programs") / name
    if not target.exists():
        draft = target.with_name(f"{name}.{os.getpid()}")
        for folder in folders:
            shutil.copytree(folder, draft / folder.name, symlinks=True)
        draft.chmod(0o755)
        try:
            draft.rename(target)
        except OSError:  # somebody else put it there first
            shutil.rmtree(draft)
    return target
