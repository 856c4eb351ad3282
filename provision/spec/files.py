"""What a document is made of, as it lies on the disk: spec files, an environment, ``file:`` bodies."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

from provision.spec.diagnostic import Diagnostic, Mark
from provision.spec.nearest import nearest

ENVIRONMENTS = "environments"
_ENV_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")


@dataclass(frozen=True)
class File:
    """One file as read: the name people see, where it is, its bytes and their digest."""

    name: str
    path: Path
    data: bytes = field(repr=False)

    @cached_property
    def digest(self) -> str:
        return blake2b(self.data, digest_size=20).hexdigest()


@dataclass(frozen=True)
class Inputs:
    """Everything of the disk that a document is made of, except ``file:`` bodies."""

    folder: Path
    env: str | None
    specs: tuple[File, ...]
    environment: File | None = None
    problems: tuple[Diagnostic, ...] = ()


def read_inputs(folder: Path, env: str | None) -> Inputs:
    """Read every ``*.yaml`` below the folder, and the environment's file. Hidden files are left alone."""
    problems: list[Diagnostic] = []
    if not folder.is_dir():
        problems.append(
            _at_file(folder, "HF0120", f"there is no folder {folder}", "Run holdfast init, or give --specs.")
        )
        return Inputs(folder, env, (), None, tuple(problems))
    specs: list[File] = []
    for path in sorted(folder.rglob("*.y*ml")):
        inside = path.relative_to(folder)
        if any(part.startswith(".") for part in inside.parts) or inside.parts[0] == ENVIRONMENTS:
            continue
        if path.suffix == ".yml":
            help = f"Rename it to {inside.stem}.yaml."
            problems.append(_at_file(path, "HF0132", "a .yml file is not read", help)._replace(severity="warning"))
        elif path.suffix == ".yaml" and (found := _read(path, problems)) is not None:
            specs.append(found)
    if not specs and not problems:
        problems.append(_at_file(folder, "HF0120", f"no *.yaml below {folder}", "Run holdfast init to get a start."))
    environment = _read_environment(folder, env, problems) if env is not None else None
    return Inputs(folder, env, tuple(specs), environment, tuple(problems))


def environments(folder: Path) -> tuple[str, ...]:
    """The names of the environments that the folder declares, sorted."""
    return tuple(sorted(path.stem for path in (folder / ENVIRONMENTS).glob("*.yaml")))


def _read_environment(folder: Path, env: str, problems: list[Diagnostic]) -> File | None:
    path = folder / ENVIRONMENTS / f"{env}.yaml"
    if _ENV_NAME.fullmatch(env) and path.is_file():
        return _read(path, problems)
    known = environments(folder)
    listed = f"There are: {', '.join(known)}." if known else f"Write {path.as_posix()}."
    help = " ".join(part for part in (nearest(env, known), listed) if part)
    problems.append(_at_file(folder / ENVIRONMENTS, "HF0121", f"there is no environment {env}", help))
    return None


def _read(path: Path, problems: list[Diagnostic]) -> File | None:
    try:
        return File(path.as_posix(), path, path.read_bytes())
    except OSError as error:
        problems.append(_at_file(path, "HF0112", f"cannot be read: {error.strerror}", "Mend its permissions."))
        return None


def _at_file(path: Path, code: str, message: str, help: str) -> Diagnostic:
    return Diagnostic(code, "error", Mark(path.as_posix(), 1, 1), message, help)


@dataclass(frozen=True)
class Body:
    """A ``file:`` body: the file whose text stands at a place of the document.

    A file that cannot be read has no digest, and a comment for its text, so that the rest is still checked.
    """

    name: str
    path: Path
    text: str = field(repr=False)
    digest: str | None


def read_body(declared_in: str, path: str) -> Body:
    """Read a body file; its path is relative to the file that declares it."""
    place = Path(os.path.normpath(Path(declared_in).parent / path))
    try:
        data = place.read_bytes()
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError):
        return Body(place.as_posix(), place, f"-- {path}", None)
    return Body(place.as_posix(), place, text, blake2b(data, digest_size=20).hexdigest())
