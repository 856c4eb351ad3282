"""From libyaml's events to plain values by the YAML 1.2 core schema, with one offset per node and key.

PyYAML's events are the fastest way in Python that keeps places. What the language refuses (duplicate and
non-string keys, merge keys, tags, templating, numbers with a leading zero) is reported and read past, so
that one run shows every mistake of a file.
"""

from __future__ import annotations

import gc
import re
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from provision.spec.diagnostic import Diagnostic, Mark, Related
from provision.spec.nearest import nearest
from provision.spec.source import Source, unreadable
from provision.spec.syntax import TEMPLATE_HELP, explain

_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]")
_INFINITE = re.compile(r"([-+]?)\.(inf|Inf|INF)")
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
#: Jinja, Helm and shell placeholders. ``'{{1,2},{3,4}}'`` is an array literal of PostgreSQL and stays legal.
TEMPLATE = re.compile(
    r"(?<!')\{\{-?\s*(?:[.$][A-Za-z_]|[A-Za-z_][\w.]*\s*(?:\||\(|-?\}\}))"
    r"|\{%-?\s*\w|\$\{[A-Za-z_]\w*(?:[:?+-][^}]*)?\}"
)
#: Python refuses to convert longer digit strings, and no option takes them.
_MAX_DIGITS = 4300
#: Far above any real document; guards every recursive walk that comes after.
MAX_DEPTH = 100
#: How many nodes aliases may add up to, against documents that grow without bound when they are read.
_MAX_EXPANSION = 1_000_000
_NONE: Any = object()
#: Stands for a key whose mistake has been reported already.
_REPORTED: Any = object()


class _Refused(Exception):
    """A plain scalar that the language does not take. ``value`` stands in for it."""

    def __init__(self, code: str, message: str, help: str, value: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.help = help
        self.value = value


class _Abandon(Exception):
    """The rest of the file cannot be read; the reason has been reported."""


def resolve_plain(text: str) -> Any:
    """Give the value of a plain scalar by the core schema (YAML 1.2.2, section 10.3.2). Raises _Refused."""
    if text in _WORDS:
        return _WORDS[text]
    first = text[0]
    if first in "0123456789-+.":
        return _number(text)
    if text == "<<":
        raise _Refused("HF0104", "merge keys (<<) are not part of YAML 1.2", "Write the keys out.", text)
    if ("{" in text) and TEMPLATE.search(text):
        raise _Refused("HF0106", f"templating is not expanded: {_shorten(text)}", TEMPLATE_HELP)
    return text


def _number(text: str) -> Any:
    if _INTEGER.fullmatch(text):
        if len(text) > _MAX_DIGITS:
            raise _Refused("HF0107", "a number this long cannot be read", "Quote it if it is meant as text.")
        if _LEADING_ZERO.match(text):
            raise _leading_zero(text, int(text))
        return int(text)
    if text.startswith("0o") and re.fullmatch("0o[0-7]+", text):
        return int(text, 0)
    if text.startswith("0x") and re.fullmatch("0x[0-9a-fA-F]+", text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        if _LEADING_ZERO.match(text):
            raise _leading_zero(text, float(text))
        return float(text)
    if match := _INFINITE.fullmatch(text):
        return float(f"{match[1]}inf")
    if "{" in text and TEMPLATE.search(text):
        raise _Refused("HF0106", f"templating is not expanded: {_shorten(text)}", TEMPLATE_HELP)
    return text


def _leading_zero(text: str, value: float) -> _Refused:
    bare = re.sub(r"^([-+]?)0+(?=[0-9])", r"\1", text)
    octal = f", 0o{bare} for octal" if re.fullmatch("[0-7]+", bare) else ""
    help = f"Write {bare} for the decimal number{octal}, or quote it as text."
    return _Refused("HF0107", f"number with a leading zero: {text}", help, value)


def _shorten(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}…"


class _Plain(dict[str, Any]):
    """Plain scalars already resolved: most of a document's scalars repeat."""

    def __missing__(self, text: str) -> Any:
        value = self[text] = resolve_plain(text)
        return value


@contextmanager
def collector_off() -> Iterator[None]:
    """Keep the cyclic garbage collector off: it would walk the growing document again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def parse(text: str, name: str) -> Source:
    """Read one YAML text. Mistakes are diagnostics of the result; a file that is no YAML declares nothing."""
    from yaml.error import YAMLError

    text = text.removeprefix("\ufeff")
    builder = _Builder(text, name)
    try:
        with collector_off():
            root = builder.document()
    except _Abandon:
        return unreadable(name, text, builder.diagnostics)
    except YAMLError as error:
        fault = explain(error, unreadable(name, text))
        known = [d for d in builder.diagnostics if d.mark != fault.mark]
        return unreadable(name, text, [*known, fault])
    if not isinstance(root, dict):
        found = "a list" if isinstance(root, list) else "a single value"
        mark = builder.mark(builder.offsets[0])
        help = "Start the file with a section, such as streams: or schemas:."
        wrong = Diagnostic("HF0113", "error", mark, f"the file holds {found}, not a mapping of sections", help)
        return unreadable(name, text, [*builder.diagnostics, wrong])
    return Source(name, text, root, builder.offsets, builder.diagnostics)


class _Builder:
    """The state of reading one text."""

    def __init__(self, text: str, name: str) -> None:
        from yaml._yaml import CParser

        self.text = text
        self.offsets = array("I")
        self.diagnostics: list[Diagnostic] = []
        self._marks = unreadable(name, text)
        self._get: Callable[[], Any] = CParser(text).get_event
        self._plain = _Plain()
        self._anchors: dict[str, Any] = {}
        self._open: list[Any] = []
        self._aliased = False

    def mark(self, offset: int, *, in_flow: bool = False) -> Mark:
        return self._marks.mark(offset, in_flow=in_flow)

    def _at(self, event: Any) -> Mark:
        """The place of a node, as wide as its text where that stands on one line."""
        at = self.mark(event.start_mark.index)
        one_line = event.end_mark.line == event.start_mark.line and event.end_mark.index > event.start_mark.index + 1
        return at._replace(width=event.end_mark.index - event.start_mark.index) if one_line else at

    def report(self, code: str, mark: Mark, message: str, help: str, *related: Related) -> None:
        self.diagnostics.append(Diagnostic(code, "error", mark, message, help, related))

    def document(self) -> Any:
        """Read the one document of the stream; an empty stream is an empty mapping."""
        from yaml.events import DocumentStartEvent, StreamEndEvent

        self._get()
        if isinstance(self._get(), StreamEndEvent):
            return {}
        root = self._node(self._get())
        self._get()
        event: Any = self._get()
        if isinstance(event, DocumentStartEvent):
            at = self.mark(event.start_mark.index)  # type: ignore[union-attr]
            self.report("HF0108", at, "a second document starts here", "Put it into a file of its own.")
        if self._aliased and _expansion(root) > _MAX_EXPANSION:
            at = self.mark(self.offsets[0])
            self.report("HF0111", at, "aliases make this file grow beyond a million values", "Write it out.")
            raise _Abandon
        return {} if root is None else root

    def _node(self, event: Any) -> Any:
        """Read the node that ``event`` starts. One loop: this is where loading spends its time."""
        from yaml.events import AliasEvent, MappingEndEvent, MappingStartEvent, ScalarEvent, SequenceEndEvent

        get, note, plain, text = self._get, self.offsets.append, self._plain, self.text
        # Looked up node by node only where the text has the character at all.
        decorated, braces = "!" in text or "&" in text, "{{" in text
        holder: list[Any] = []
        current: Any = holder
        key: Any = _NONE
        stack = self._open
        while True:
            kind = event.__class__
            if kind is MappingEndEvent or kind is SequenceEndEvent:
                current = stack.pop()
                if current is holder:
                    return holder[0]
                event = get()
                continue
            note(event.start_mark.index)
            opens = False
            if kind is ScalarEvent:
                value = event.value
                if event.implicit[0]:
                    try:
                        value = plain[value]
                    except _Refused as refused:
                        value = self._refuse(refused, event, as_key=key is _NONE and current.__class__ is dict)
            elif kind is AliasEvent:
                value = self._alias(event, current)
            elif braces and text.startswith("{{", event.start_mark.index):
                value = self._template(event)
            else:
                value = {} if kind is MappingStartEvent else []
                opens = True
            if decorated and kind is not AliasEvent:
                self._decoration(event, value)
            if key is not _NONE:
                current[key] = value
                key = _NONE
            elif current.__class__ is list:
                current.append(value)
                if not opens and current is holder:
                    return value
            elif value.__class__ is str and value not in current:
                key = value
            else:
                self.offsets.pop()
                self._bad_key(event, value, current, opens)
                opens = False
            if opens:
                stack.append(current)
                if len(stack) > MAX_DEPTH:
                    at = self.mark(event.start_mark.index)
                    self.report("HF0114", at, f"nested deeper than {MAX_DEPTH} levels", "Flatten the document.")
                    raise _Abandon
                current = value
            event = get()

    def _refuse(self, refused: _Refused, event: Any, *, as_key: bool) -> Any:
        if refused.code == "HF0107" and as_key:
            return refused.value
        if refused.code == "HF0104" and not as_key:
            return refused.value
        at = self._at(event)
        self.report(refused.code, at, str(refused), refused.help)
        return _REPORTED if as_key else refused.value

    def _decoration(self, event: Any, value: Any) -> None:
        """Take a node's anchor and refuse its tag."""
        if event.tag is not None:
            at = self.mark(event.start_mark.index)
            written = self.text[event.start_mark.index :].split(None, 1)[0]
            at = at._replace(width=len(written))
            help = "Leave the tag out; quote a value that is meant as text."
            self.report("HF0105", at, f"tags are not allowed: {_shorten(written)}", help)
        if event.anchor is not None:
            self._anchors[event.anchor] = value

    def _alias(self, event: Any, current: Any) -> Any:
        name = event.anchor
        at = self.mark(event.start_mark.index)._replace(width=len(name) + 1)
        if name not in self._anchors:
            help = nearest(name, self._anchors, "Write the anchor (&" + name + ") before its first use.")
            self.report("HF0111", at, f"alias *{name} has no anchor before it", help)
            return None
        value = self._anchors[name]
        if value.__class__ in (dict, list) and any(value is node for node in (current, *self._open)):
            help = "Write the value out, or move the anchor."
            self.report("HF0111", at, f"alias *{name} stands inside its own anchor", help)
            return None
        self._aliased = True
        return value

    def _template(self, event: Any) -> Any:
        """Report ``{{ … }}``, which YAML reads as a mapping with a mapping as its key, and read past it."""
        offset = event.start_mark.index
        written = self.text[offset:].split("}}", 1)[0].split("\n", 1)[0] + "}}"
        at = self.mark(offset)._replace(width=len(written))
        self.report("HF0106", at, f"templating is not expanded: {_shorten(written)}", TEMPLATE_HELP)
        self._discard(event)
        return None

    def _bad_key(self, event: Any, value: Any, current: Any, opens: bool) -> None:
        """Report a key that cannot stand in this mapping, and read past it and its value."""
        at = self._at(event)
        if opens:
            self.report("HF0109", at, "a key must be text, not a mapping or a list", "Write one word as the key.")
            self._discard(event)
        elif isinstance(value, str):
            first = self._first_of(value, current)
            help = "Keep one of the two."
            self.report("HF0102", at, f"key {value} is written twice", help, Related(first, "first written here"))
        elif value is not _REPORTED and event.__class__.__name__ == "ScalarEvent":
            shown = event.value or "nothing"
            what = {bool: "a truth value", type(None): "the null value"}.get(value.__class__, "a number")
            help = f'Quote it: "{event.value}".' if event.value else "Write the key before the colon."
            self.report("HF0109", at, f"a key must be text, but {shown} is {what}", help)
        self._discard(self._get())

    def _first_of(self, key: str, current: dict[str, Any]) -> Mark:
        """The place of a key already read: the file so far is a small document of its own."""
        root = self._open[1] if len(self._open) > 1 else current
        so_far = Source(self._marks.name, self.text, root, self.offsets)
        return so_far.place_of_key(current, key)

    def _discard(self, event: Any) -> None:
        """Read past a node. What it anchors is null from here on."""
        if event.__class__.__name__ in ("ScalarEvent", "AliasEvent"):
            anchors = [event.anchor] if event.__class__.__name__ == "ScalarEvent" and event.anchor else []
        else:
            depth, anchors = 1, [event.anchor]
            while depth:
                event = self._get()
                kind = event.__class__.__name__
                depth += kind.endswith("StartEvent") - kind.endswith("EndEvent")
                anchors.append(getattr(event, "anchor", None) if kind != "AliasEvent" else None)
        for anchor in anchors:
            if anchor is not None:
                self._anchors[anchor] = None


def _expansion(root: Any) -> int:
    """How many nodes a walk would meet that follows every alias."""
    weights: dict[int, int] = {}

    def weigh(node: Any) -> int:
        if node.__class__ not in (dict, list):
            return 1
        if id(node) not in weights:
            weights[id(node)] = 1 + sum(map(weigh, node.values() if isinstance(node, dict) else node))
        return weights[id(node)]

    return weigh(root)
