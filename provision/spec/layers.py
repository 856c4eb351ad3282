"""Putting spec files together: one tree of values, and which file has the last word on each place.

Pure but for the reading of ``file:`` bodies, which is handed in.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from provision.spec.diagnostic import Diagnostic, Related
from provision.spec.environments import overlay
from provision.spec.events import parse as parse_text
from provision.spec.files import Body, File, Inputs
from provision.spec.nearest import nearest
from provision.spec.record import Pointer
from provision.spec.source import Source, unreadable
from provision.spec.tree import Rewrite

#: How many levels of names lie below a section. Files may share a schema, as they share a section, and
#: declare different objects of it; an object itself is declared in one place.
_NAME_LEVELS = {"schemas": 3, "targets": 2}
#: Keys under which ``{file: path}`` stands for the text of that file.
BODY_KEYS = frozenset({"body", "query"})
_MENTIONS_FILE = re.compile(r"""\bfile["']?\s*:""")

Parse = Callable[[File], Source]


def parse_file(file: File) -> Source:
    """Decode and parse one file; mistakes are diagnostics of the result."""
    data = file.data.removeprefix(BOM_UTF8)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        readable = unreadable(file.name, data.decode("utf-8", "replace"))
        at = readable.mark(len(data[: error.start].decode("utf-8")))._replace(width=1)
        wrong = Diagnostic("HF0112", "error", at, "the file is not UTF-8 text", "Save the file as UTF-8.")
        return unreadable(file.name, readable.text, [wrong])
    return parse_text(text, file.name)


class Layers:
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
                help = (
                    "Write targets beside override."
                    if key == "targets"
                    else "The name of a plane is the same everywhere."
                )
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


def _body_references(node: Any, pointer: Pointer) -> Iterator[tuple[Pointer, str]]:
    if isinstance(node, dict):
        for key, value in node.items():
            if not isinstance(value, (dict, list)):
                continue
            if (
                key in BODY_KEYS
                and isinstance(value, dict)
                and value.keys() == {"file"}
                and isinstance(value["file"], str)
            ):
                yield (*pointer, key), value["file"]
            else:
                yield from _body_references(value, (*pointer, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            if isinstance(value, (dict, list)):
                yield from _body_references(value, (*pointer, index))
