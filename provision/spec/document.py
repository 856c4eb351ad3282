"""The document: every spec file of a folder merged into one, with an environment laid over it.

Reading files and putting them together are apart: ``read_inputs`` touches the disk, ``Document`` is a pure
function of the bytes it was given, and parses only when somebody looks inside.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

from provision.spec import target as targets
from provision.spec.diagnostic import Diagnostic, Mark, Related
from provision.spec.environments import overlay
from provision.spec.events import collector_off
from provision.spec.events import parse as parse_text
from provision.spec.nearest import nearest
from provision.spec.record import Pointer
from provision.spec.source import Source, unreadable
from provision.spec.target import Target
from provision.spec.tree import Rewrite

ENVIRONMENTS = "environments"
#: How many levels of names lie below a section. Files may share a schema, as they share a section, and
#: declare different objects of it; an object itself is declared in one place.
_NAME_LEVELS = {"schemas": 3, "targets": 2}
#: Keys under which ``{file: path}`` stands for the text of that file.
BODY_KEYS = frozenset({"body", "query"})
_MENTIONS_FILE = re.compile(r"""\bfile["']?\s*:""")
_ENV_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")
_PLANE_HELP = "Write plane: NAME into one of the files: letters, digits, - and _, at most 63."


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


Parse = Callable[[File], Source]


def read_inputs(folder: Path, env: str | None) -> Inputs:
    """Read every ``*.yaml`` below the folder, and the environment's file. Hidden files are left alone."""
    problems: list[Diagnostic] = []
    if not folder.is_dir():
        problems.append(_at_file(folder, "HF0120", f"there is no folder {folder}", "Run holdfast init, or give --specs."))
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


def parse_file(file: File) -> Source:
    """Decode and parse one file; mistakes are diagnostics of the result."""
    try:
        text = file.data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = file.data[: error.start]
        line = before.count(b"\n") + 1
        column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8", "replace")) + 1
        help = "Save the file as UTF-8."
        wrong = Diagnostic("HF0112", "error", Mark(file.name, line, column), "the file is not UTF-8 text", help)
        return unreadable(file.name, "", [wrong])
    return parse_text(text, file.name)


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


class _Layers:
    """The merged values and where each came from. Built once, when somebody looks inside the document."""

    def __init__(self, inputs: Inputs, parse: Parse, read: Callable[[str, str], Body]) -> None:
        self.diagnostics: list[Diagnostic] = list(inputs.problems)
        self.specs = [parse(file) for file in inputs.specs]
        self.environment = parse(inputs.environment) if inputs.environment else None
        sources = [*self.specs, *([self.environment] if self.environment else [])]
        for source in sources:
            self.diagnostics += source.diagnostics
        self.complete = all(s.complete for s in sources) and all(p.severity == "warning" for p in inputs.problems)
        self.base: dict[str, Any] = {}
        for source in self.specs:
            self._merge(self.base, source.root, source, ())
        self.override: dict[str, Any] = {}
        root = self.base
        if self.environment is not None:
            self.override, env_targets = self._environment_parts(self.environment)
            root = overlay(root, self.override)
            if env_targets is not None:
                root = {**root, "targets": overlay(root.get("targets"), env_targets)}
        self.bodies: dict[Pointer, Body] = {}
        self.root: dict[str, Any] = self._with_bodies(root, sources, read)

    def _merge(self, into: dict[str, Any], more: Mapping[str, Any], source: Source, pointer: Pointer) -> None:
        for key, value in more.items():
            place = (*pointer, key)
            if value is None and not pointer:
                continue
            if key not in into:
                into[key] = self._open_copy(value, place)
            elif isinstance(into[key], dict) and isinstance(value, dict) and len(place) <= _name_levels(place):
                self._merge(into[key], value, source, place)
            elif isinstance(into[key], list) and isinstance(value, list) and not pointer:
                into[key].extend(value)
            else:
                self._declared_twice(source, place)

    def _open_copy(self, value: Any, place: Pointer) -> Any:
        """Copy as deep as names go, so that the next file can add to it without changing this one."""
        if isinstance(value, list) and len(place) == 1:
            return list(value)
        if isinstance(value, dict) and len(place) <= _name_levels(place):
            return {key: self._open_copy(inner, (*place, key)) for key, inner in value.items()}
        return value

    def _declared_twice(self, source: Source, place: Pointer) -> None:
        first = next(s for s in self.specs if s.holds(place))
        related = Related(first.locate(place, key=True), "first declared here")
        name = ".".join(str(step) for step in place)
        at = source.locate(place, key=True)
        help = "Keep one of the two."
        self.diagnostics.append(Diagnostic("HF0103", "error", at, f"{name} is declared twice", help, (related,)))

    def _environment_parts(self, source: Source) -> tuple[dict[str, Any], Any]:
        parts: dict[str, Any] = {"override": {}, "targets": None}
        for key, value in source.root.items():
            if key not in parts:
                help = nearest(key, parts, "An environment holds targets and override.")
                at = source.locate((key,), key=True)
                message = f"an environment has no {key}"
                self.diagnostics.append(Diagnostic("HF0201", "error", at, message, help))
            elif isinstance(value, dict):
                parts[key] = value
            elif value is not None:
                at = source.locate((key,))
                self.diagnostics.append(Diagnostic("HF0202", "error", at, f"{key} takes a mapping", ""))
        for key in ("plane", "targets"):
            if key in parts["override"]:
                at = source.locate(("override", key), key=True)
                help = "Write targets beside override." if key == "targets" else "The name of a plane is the same everywhere."
                self.diagnostics.append(Diagnostic("HF0122", "error", at, f"{key} cannot be overridden", help))
        override = {k: v for k, v in parts["override"].items() if k not in ("plane", "targets")}
        return override, parts["targets"]

    def _with_bodies(
        self, root: dict[str, Any], sources: list[Source], read: Callable[[str, str], Body]
    ) -> dict[str, Any]:
        rewrite = Rewrite(root)
        # The environment has the last word: its bodies are taken first.
        for source in reversed(sources):
            if not _MENTIONS_FILE.search(source.text):
                continue
            prefix: Pointer = ("override",) if source is self.environment else ()
            for pointer, path in _body_references(source.root.get("override") if prefix else source.root, ()):
                if pointer in self.bodies or rewrite.get(pointer) != {"file": path}:
                    continue
                self.bodies[pointer] = body = read(source.name, path)
                rewrite.replace(pointer, body.text)
                if body.digest is None:
                    at = source.locate((*prefix, *pointer, "file"))
                    help = f"The path starts at the folder of {source.name}; write the file there."
                    wrong = Diagnostic("HF0130", "error", at, f"no text to read at {body.name}", help)
                    self.diagnostics.append(wrong)
        return rewrite.root  # type: ignore[no-any-return]

    def owner(self, pointer: Pointer) -> tuple[Source, Pointer]:
        """The file that declares the value at this place, and the place inside it.

        A mapping that the environment only adds to belongs to the file that declares it.
        """
        for depth in range(len(pointer), 0, -1):
            above = self._overridden(pointer[:depth])
            below = self._declared(pointer[:depth])
            if above is not None and (below is None or not (_is_mapping(*above) and _is_mapping(*below))):
                return above[0], (*above[1], *pointer[depth:])
            if below is not None:
                return below[0], (*below[1], *pointer[depth:])
        return (self.specs or [unreadable("", "")])[0], ()

    def _overridden(self, pointer: Pointer) -> tuple[Source, Pointer] | None:
        inside = pointer if pointer[0] == "targets" else ("override", *pointer)
        if self.environment is not None and self.environment.holds(inside):
            return self.environment, inside
        return None

    def _declared(self, pointer: Pointer) -> tuple[Source, Pointer] | None:
        for source in self.specs:
            if len(pointer) > 1 and isinstance(pointer[1], int):
                # A list that several files continue.
                length = len(items) if isinstance(items := source.root.get(pointer[0]), list) else 0
                if pointer[1] >= length:
                    pointer = (pointer[0], pointer[1] - length, *pointer[2:])
                    continue
            if source.holds(pointer):
                return source, pointer
        return None


def _name_levels(place: Pointer) -> int:
    return _NAME_LEVELS.get(str(place[0]), 1)


def _is_mapping(source: Source, pointer: Pointer) -> bool:
    return isinstance(source.value(pointer), dict)


class Document:
    """The merged document of one environment (or of the base, ``env`` None). Treat it as immutable.

    ``plane`` is the declared name ("" if missing or malformed), ``targets`` the servers by (system, name),
    ``diagnostics`` what was wrong with the files. ``is_complete`` is false when a file could not be read at
    all: then names may be missing that are declared in it. ``root`` and places are parsed on first use.
    """

    def __init__(
        self,
        inputs: Inputs,
        *,
        parse: Parse = parse_file,
        read_body: Callable[[str, str], Body] = read_body,
        known: tuple[str, Mapping[tuple[str, str], Target], tuple[Diagnostic, ...], bool] | None = None,
    ) -> None:
        self.inputs = inputs
        self._parse = parse
        self._read_body = read_body
        if known is None:
            known = self._examine()
        self.plane, self.targets, self.diagnostics, self.is_complete = known

    @property
    def folder(self) -> Path:
        return self.inputs.folder

    @property
    def env(self) -> str | None:
        return self.inputs.env

    @property
    def root(self) -> dict[str, Any]:
        """The merged values. Never change them: files and environments share parts."""
        return self._layers.root

    @property
    def base(self) -> dict[str, Any]:
        """The merged values of the spec files alone, before the environment."""
        return self._layers.base

    @property
    def override(self) -> dict[str, Any]:
        """What the environment lays over the base."""
        return self._layers.override

    @property
    def syntax(self) -> tuple[Diagnostic, ...]:
        """What was wrong with the files as such, before any schema."""
        return tuple(self._layers.diagnostics)

    @property
    def bodies(self) -> Mapping[Pointer, Body]:
        """The ``file:`` bodies, by the place of their text."""
        return self._layers.bodies

    @cached_property
    def files(self) -> dict[str, str]:
        """Digests of all files the document is made of, bodies included, by name."""
        environment = (self.inputs.environment,) if self.inputs.environment else ()
        digests = {file.name: file.digest for file in (*self.inputs.specs, *environment)}
        return digests | {body.name: body.digest or "" for body in self.bodies.values()}

    def locate(self, pointer: Pointer, key: bool = False) -> Mark:
        """Give the place of a value, or of its key: in the environment's file if that has the last word.

        A pointer that leads nowhere gives the key of its nearest known ancestor.
        """
        source, inside = self._layers.owner(pointer)
        return source.locate(inside, key=key)

    def locate_text(self, pointer: Pointer, position: int) -> Mark:
        """Give the place of one character of a text value, in the body's own file where it has one."""
        body = self._layers.bodies.get(pointer)
        if body is not None:
            before = body.text[:position]
            return Mark(body.name, before.count("\n") + 1, position - before.rfind("\n"))
        source, inside = self._layers.owner(pointer)
        return source.locate_text(inside, position)

    def line(self, mark: Mark) -> str:
        """The source line of a mark; empty when it is not known."""
        source = self._by_name.get(mark.file)
        return source.line(mark.line) if source is not None else ""

    @cached_property
    def _layers(self) -> _Layers:
        with collector_off():
            return _Layers(self.inputs, self._parse, self._read_body)

    @cached_property
    def _by_name(self) -> dict[str, Source]:
        layers = self._layers
        bodies = [unreadable(body.name, body.text) for body in layers.bodies.values()]
        environment = [layers.environment] if layers.environment else []
        return {source.name: source for source in (*bodies, *environment, *layers.specs)}

    def _examine(self) -> tuple[str, Mapping[tuple[str, str], Target], tuple[Diagnostic, ...], bool]:
        from provision.spec.reading import read_targets

        layers = self._layers
        diagnostics = list(layers.diagnostics)
        plane = layers.root.get("plane")
        if not (isinstance(plane, str) and re.fullmatch(targets.NAME_PATTERN, plane)):
            if plane is not None:
                at = self.locate(("plane",))
                diagnostics.append(Diagnostic("HF0207", "error", at, f"{plane!r} cannot be the name of a plane", _PLANE_HELP))
            elif layers.complete and layers.specs:
                at = Mark(layers.specs[0].name, 1, 1)
                diagnostics.append(Diagnostic("HF0206", "error", at, "no file says plane: NAME", _PLANE_HELP))
            plane = ""
        found, wrong = read_targets(self)
        return plane, found, (*diagnostics, *wrong), layers.complete


def _body_references(node: Any, pointer: Pointer) -> Iterator[tuple[Pointer, str]]:
    if isinstance(node, dict):
        for key, value in node.items():
            if not isinstance(value, (dict, list)):
                continue
            if key in BODY_KEYS and isinstance(value, dict) and value.keys() == {"file"} and isinstance(value["file"], str):
                yield (*pointer, key), value["file"]
            else:
                yield from _body_references(value, (*pointer, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            if isinstance(value, (dict, list)):
                yield from _body_references(value, (*pointer, index))


def load(folder: Path, env: str | None = None) -> Document:
    """Read a folder of specs for one environment. Never raises for bad input: see ``diagnostics``."""
    with collector_off():
        return Document(read_inputs(folder, env))
