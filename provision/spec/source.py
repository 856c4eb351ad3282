"""One YAML file as plain values, and the place of every one of them. Called by the document loader.

The values are ordinary dicts, lists and scalars. The places stand beside them: one offset for each node and
each key, in document order, in one array. A place is found by pointer, on demand, so that loading pays one
integer per node and nothing more.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from provision.spec.diagnostic import Diagnostic, Mark
from provision.spec.record import Pointer

_LINE_BREAK = re.compile(r"\r\n|\r|\n")
_ANCHOR = re.compile(r"(?:[&!]\S*\s+)*")
#: A literal or folded block scalar opens with this, and its text starts on the next line.
_BLOCK_SCALAR = re.compile(r"[|>][-+0-9]*[ \t]*(?:#.*)?$")


class Source:
    """A parsed file: its text, its values and where they stand.

    ``root`` and everything in it must not be changed: the places are found by walking it.
    """

    def __init__(
        self,
        name: str,
        text: str,
        root: Any,
        offsets: Sequence[int],
        diagnostics: Sequence[Diagnostic] = (),
        *,
        complete: bool = True,
    ) -> None:
        self.name = name
        self.text = text
        self.root = root
        self.offsets = offsets
        self.diagnostics = tuple(diagnostics)
        self.complete = complete
        self._children: dict[int, dict[str | int, int]] = {}

    def holds(self, pointer: Pointer) -> bool:
        """Whether the file itself has a node at this pointer."""
        node: Any = self.root
        for step in pointer:
            if isinstance(node, dict):
                if step not in node:
                    return False
            elif not (isinstance(node, list) and isinstance(step, int) and step < len(node)):
                return False
            node = node[step]
        return True

    def locate(self, pointer: Pointer, *, key: bool = False) -> Mark:
        """Give the place of a value, or of its key. A pointer that leads nowhere gives its last known key."""
        if not self.offsets:
            return Mark(self.name, 1, 1)
        node, ordinal, key_ordinal, in_flow = self.root, 0, -1, False
        for step in pointer:
            if not isinstance(node, (dict, list)):
                key = True
                break
            own = self._numbers.get(id(node), (ordinal, 0))[0]
            places = self._places(node, own)
            if step not in places:
                key = True
                break
            in_flow = self._opens_flow(own)
            ordinal = places[step]
            key_ordinal = ordinal - 1 if isinstance(node, dict) else -1
            node = node[step]  # type: ignore[index]  # a step of this very container
        if key_ordinal >= 0 and (key or self._is_empty(ordinal)):
            ordinal = key_ordinal
        return self.mark(self.offsets[ordinal], in_flow=in_flow)

    def place_of_key(self, container: dict[str, Any], key: str) -> Mark:
        """Give the place of a key of a mapping that is part of this file."""
        own = self._numbers[id(container)][0]
        ordinal = self._places(container, own)[key] - 1
        return self.mark(self.offsets[ordinal], in_flow=self._opens_flow(own))

    def locate_text(self, pointer: Pointer, position: int) -> Mark:
        """Give the place of one character of a text value, e.g. where SQL inside it is wrong.

        Exact for single-line and literal (``|``) text; elsewhere the start of the value.
        """
        pointer, value = self._reach(pointer)
        start = self.locate(pointer)
        line = self.line(start.line)[start.column - 1 :]
        if not isinstance(value, str):
            return start
        if line.startswith("|") and _BLOCK_SCALAR.match(line):
            before = value[:position]
            down = before.count("\n")
            number = start.line + 1 + down
            first = self.line(start.line + 1)
            indent = len(first) - len(first.lstrip(" "))
            return Mark(self.name, number, indent + position - (before.rfind("\n") + 1) + 1, 0)
        if line.startswith(value) or line[1:].startswith(value):
            return Mark(self.name, start.line, start.column + position + (not line.startswith(value)), 0)
        return start

    def mark(self, offset: int, *, in_flow: bool = False) -> Mark:
        """Turn an offset into line and column, with the width of the node that starts there."""
        number = bisect_right(self._line_starts, offset)
        column = offset - self._line_starts[number - 1]
        return Mark(self.name, number, column + 1, _width(self.line(number)[column:], in_flow))

    def line(self, number: int) -> str:
        """One line of the text, counted from 1, without its line break; empty beyond the end."""
        starts = self._line_starts
        if not 1 <= number <= len(starts):
            return ""
        end = starts[number] if number < len(starts) else len(self.text)
        return self.text[starts[number - 1] : end].rstrip("\r\n")

    def offset(self, line: int, column: int) -> int:
        """The offset of a line and a column that count from 1."""
        starts = self._line_starts
        return starts[min(line, len(starts)) - 1] + column - 1

    def value(self, pointer: Pointer) -> Any:
        """The value at a place that the file holds."""
        node: Any = self.root
        for step in pointer:
            node = node[step]
        return node

    def _reach(self, pointer: Pointer) -> tuple[Pointer, Any]:
        """The pointer as far as it leads, and what is there: the short form of an option lacks the last steps."""
        node: Any = self.root
        for index, step in enumerate(pointer):
            if not isinstance(node, (dict, list)):
                return pointer[:index], node
            try:
                node = node[step]  # type: ignore[index]  # another kind of step leads nowhere
            except (LookupError, TypeError):
                return pointer, None
        return pointer, node

    @cached_property
    def _line_starts(self) -> list[int]:
        return [0, *(m.end() for m in _LINE_BREAK.finditer(self.text))]

    @cached_property
    def _numbers(self) -> dict[int, tuple[int, int]]:
        """Ordinal and size (in offsets) of each container, by its id. An alias takes one offset."""
        numbers: dict[int, tuple[int, int]] = {}

        def visit(node: Any, start: int) -> int:
            if id(node) in numbers:
                return start + 1
            numbers[id(node)] = (start, 0)
            after = start + 1
            keyed = isinstance(node, dict)
            for child in node.values() if keyed else node:
                after += keyed
                after = visit(child, after) if child.__class__ in (dict, list) else after + 1
            numbers[id(node)] = (start, after - start)
            return after

        if isinstance(self.root, (dict, list)):
            visit(self.root, 0)
        return numbers

    def _places(self, node: Any, own: int) -> dict[str | int, int]:
        """The ordinals of a container's values, by key or index."""
        found = self._children.get(id(node))
        if found is None:
            found = self._children[id(node)] = {}
            keyed = isinstance(node, dict)
            after = own + 1
            for step, child in node.items() if keyed else enumerate(node):
                after += keyed
                found[step] = after
                start, size = self._numbers.get(id(child), (-1, 0)) if child.__class__ in (dict, list) else (-1, 0)
                after += size if start == after else 1
        return found

    def _opens_flow(self, ordinal: int) -> bool:
        offset = self.offsets[ordinal]
        match = _ANCHOR.match(self.text, offset)
        end = match.end() if match else offset
        return self.text[end : end + 1] in ("{", "[")

    def _is_empty(self, ordinal: int) -> bool:
        """Whether the node is a null that was never written."""
        offset = self.offsets[ordinal]
        return not self.text[offset : offset + 1].strip(" \t\r\n,}]")


def _width(rest: str, in_flow: bool) -> int:
    """How many characters the node takes that starts ``rest``, on its own line."""
    if not rest.strip(" \t"):
        return 0
    if rest[0] in "|>" and _BLOCK_SCALAR.match(rest):
        return 1
    from yaml._yaml import CParser
    from yaml.error import YAMLError
    from yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, ScalarEvent

    depth = 0
    opener = "[" if in_flow else ""
    flow_node = rest[0] in "[{"
    try:
        parser = CParser(opener + rest)
        for _ in range(3 if in_flow else 2):
            parser.get_event()
        while (event := parser.get_event()) is not None:
            if isinstance(event, CollectionStartEvent):
                depth += 1
            elif isinstance(event, CollectionEndEvent):
                depth -= 1
            if depth == 0 if flow_node else isinstance(event, (ScalarEvent, AliasEvent)):
                return int(event.end_mark.column) - len(opener)  # type: ignore[union-attr]
    except YAMLError:
        pass
    return len(rest.rstrip(" \t"))


def unreadable(name: str, text: str, diagnostics: Sequence[Diagnostic] = ()) -> Source:
    """A file of which nothing could be read: it declares nothing, and its names stay unknown."""
    return Source(name, text, {}, array("I"), diagnostics, complete=False)
