"""The document: every spec file of a folder merged into one, with an environment laid over it.

``read_inputs`` touches the disk; ``Document`` is a pure function of the bytes it was given (and of ``file:``
bodies), and parses only when somebody looks inside.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from provision.spec.diagnostic import Diagnostic, Mark
from provision.spec.events import collector_off
from provision.spec.files import Body, Inputs, environments, read_body, read_inputs
from provision.spec.layers import Layers, Parse, parse_file
from provision.spec.record import Pointer
from provision.spec.source import Source, unreadable
from provision.spec.target import NAME_PATTERN, Target

__all__ = ["Document", "Known", "environments", "load"]

_PLANE_HELP = "Write plane: NAME into one of the files: letters, digits, - and _, at most 63."


class Known(NamedTuple):
    """What is known of a document without looking inside: a cache keeps it."""

    plane: str
    targets: Mapping[tuple[str, str], Target]
    diagnostics: tuple[Diagnostic, ...]
    is_complete: bool
    #: Digests of the ``file:`` bodies by name; "" for a file that could not be read.
    bodies: Mapping[str, str]


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
        known: Known | None = None,
    ) -> None:
        self.inputs = inputs
        self._parse = parse
        self._read_body = read_body
        self._known = known or self._examine()
        self.plane, self.targets, self.diagnostics, self.is_complete, _ = self._known

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
        return digests | dict(self._known.bodies)

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
    def _layers(self) -> Layers:
        with collector_off():
            return Layers(self.inputs, self._parse, self._read_body)

    @cached_property
    def _by_name(self) -> dict[str, Source]:
        layers = self._layers
        bodies = [unreadable(body.name, body.text) for body in layers.bodies.values()]
        environment = [layers.environment] if layers.environment else []
        return {source.name: source for source in (*bodies, *environment, *layers.specs)}

    def _examine(self) -> Known:
        from provision.spec.reading import read_targets

        layers = self._layers
        diagnostics = list(layers.diagnostics)
        plane = layers.root.get("plane")
        if not (isinstance(plane, str) and re.fullmatch(NAME_PATTERN, plane)):
            if plane is not None:
                at = self.locate(("plane",))
                diagnostics.append(
                    Diagnostic("HF0207", "error", at, f"{plane!r} cannot be the name of a plane", _PLANE_HELP)
                )
            elif layers.complete and layers.specs:
                at = Mark(layers.specs[0].name, 1, 1)
                diagnostics.append(Diagnostic("HF0206", "error", at, "no file says plane: NAME", _PLANE_HELP))
            plane = ""
        found, wrong = read_targets(self)
        bodies = {body.name: body.digest or "" for body in layers.bodies.values()}
        return Known(plane, found, (*diagnostics, *wrong), layers.complete, bodies)


def load(folder: Path, env: str | None = None) -> Document:
    """Read a folder of specs for one environment. Never raises for bad input: see ``diagnostics``."""
    with collector_off():
        return Document(read_inputs(folder, env))
