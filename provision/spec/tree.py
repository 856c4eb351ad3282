"""Changing shared trees of plain values without touching them: copies are made along the way to a change."""

from __future__ import annotations

from typing import Any

from provision.spec.record import Pointer


class Rewrite:
    """A tree under change. ``root`` is the changed tree; what was handed in stays as it was."""

    def __init__(self, root: Any) -> None:
        self.root = root
        self._own: set[int] = set()
        #: Keeps the copies alive, so that an id in ``_own`` is never reused.
        self._kept: list[Any] = []

    def replace(self, pointer: Pointer, value: Any) -> None:
        """Put a value at an existing place."""
        self._parent(pointer)[pointer[-1]] = value

    def drop(self, pointer: Pointer) -> None:
        """Take a key out of its mapping."""
        del self._parent(pointer)[pointer[-1]]

    def get(self, pointer: Pointer) -> Any:
        """The value at this place, or None."""
        node = self.root
        for step in pointer:
            if isinstance(node, dict):
                node = node.get(step)
            elif isinstance(node, list) and isinstance(step, int) and step < len(node):
                node = node[step]
            else:
                return None
        return node

    def _parent(self, pointer: Pointer) -> Any:
        node = self.root = self._owned(self.root)
        for step in pointer[:-1]:
            node[step] = child = self._owned(node[step])
            node = child
        return node

    def _owned(self, node: Any) -> Any:
        if id(node) in self._own:
            return node
        copy = dict(node) if isinstance(node, dict) else list(node)
        self._own.add(id(copy))
        self._kept.append(copy)
        return copy
