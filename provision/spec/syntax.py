"""What libyaml says about broken YAML, put into the words of this product, at the place to mend."""

from __future__ import annotations

import re
from typing import Any

from provision.spec.diagnostic import Diagnostic, Mark, Related
from provision.spec.source import Source

_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
_TEMPLATE_START = re.compile(r"\{\{|\{%|\$\{")
TEMPLATE_HELP = "Holdfast expands no templates: use environments/, or quote text that is meant literally."
_QUOTED = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^']|'')*'")

#: Part of libyaml's problem text -> what is wrong, how to mend it, and whether the fault lies where the
#: construct began (its context) rather than where the scanner gave up.
_PROBLEMS: tuple[tuple[str, str, str, bool], ...] = (
    (
        "mapping values are not allowed",
        "a second colon on this line, or a wrong indentation",
        "Quote the value if the colon belongs to it; otherwise align the key with its neighbours.",
        False,
    ),
    (
        "could not find expected ':'",
        "this line is neither a key with a value nor part of the value above",
        "Write key: value, or indent the line if it continues the text above.",
        True,
    ),
    (
        "did not find expected ',' or ']'",
        "the list that opens here is not closed properly",
        "Close it with ] and put a comma between its items.",
        True,
    ),
    (
        "did not find expected ',' or '}'",
        "the mapping that opens here is not closed properly",
        "Close it with } and put a comma between its entries.",
        True,
    ),
    (
        "unexpected end of stream",
        "the quoted text that starts here is never closed",
        "Add the closing quote.",
        True,
    ),
    (
        "unexpected document indicator",
        "the quoted text that starts here is never closed",
        "Add the closing quote.",
        True,
    ),
    (
        "unknown escape character",
        "no such escape in a double-quoted text",
        "Use single quotes, where a backslash is only a backslash.",
        False,
    ),
    (
        "did not find expected key",
        "the indentation of this line fits nothing above it",
        "Align it with the entries it belongs to.",
        False,
    ),
    (
        "did not find expected '-' indicator",
        "the indentation of this line fits nothing above it",
        "Align it with the items of the list.",
        False,
    ),
    (
        "expected <document start>",
        "the indentation of this line fits nothing above it",
        "Align it with the first line of the file.",
        False,
    ),
    (
        "block sequence entries are not allowed",
        "a list cannot start on the line of its key",
        "Start it on the next line, or write [a, b].",
        False,
    ),
    ("undefined tag handle", "tags are not allowed", "Leave the tag out.", False),
)


def explain(error: Any, source: Source) -> Diagnostic:
    """Turn a YAMLError into a diagnostic of the file it was met in."""
    if not hasattr(error, "problem_mark"):
        return _unprintable(error, source)
    problem = error.problem or error.context or ""
    at = _mark(error.problem_mark or error.context_mark, source)
    began = _mark(error.context_mark, source) if error.context_mark is not None else at
    for mark in (at, began):
        if (template := _template_before(mark, source)) is not None:
            return Diagnostic("HF0106", "error", template, "templating is not expanded", TEMPLATE_HELP)
    if "cannot start any token" in problem:
        return _cannot_start(at, source)
    for part, message, help, at_context in _PROBLEMS:
        if part in problem:
            code = "HF0105" if part == "undefined tag handle" else "HF0101"
            place = began if at_context else at
            gave_up = (Related(at, "noticed here"),) if place.line != at.line and source.line(at.line) else ()
            return Diagnostic(code, "error", place, message, help, gave_up)
    return Diagnostic("HF0101", "error", at, f"not YAML: {problem}", "")


def _mark(mark: Any, source: Source) -> Mark:
    """A place of libyaml, kept inside the text: an unclosed construct is noticed behind its end."""
    index = min(mark.index, len(source.text.rstrip()))
    at = source.mark(index)
    return at._replace(width=1) if source.text[index : index + 1] in (":", ",", "]", "}", "\\") else at


def _template_before(mark: Mark, source: Source) -> Mark | None:
    """The template on the marked line, if one stands there outside quotes."""
    line = _QUOTED.sub(lambda quoted: " " * len(quoted[0]), source.line(mark.line)).split(" #", 1)[0]
    match = _TEMPLATE_START.search(line)
    if match is None:
        return None
    closing = {"{{": "}}", "{%": "%}", "${": "}"}[match[0]]
    end = line.find(closing, match.end())
    if end < 0:
        return None
    return Mark(mark.file, mark.line, match.start() + 1, end + len(closing) - match.start())


def _cannot_start(at: Mark, source: Source) -> Diagnostic:
    char = source.line(at.line)[at.column - 1 : at.column]
    if char == "\t":
        return Diagnostic("HF0110", "error", at._replace(width=1), "a tab in the indentation", "Indent with spaces.")
    help = f"Quote the value: a plain one cannot start with {char}."
    return Diagnostic("HF0101", "error", at._replace(width=1), f"a value cannot start with {char}", help)


def _unprintable(error: Any, source: Source) -> Diagnostic:
    match = _UNPRINTABLE.search(source.text)
    if match is None:
        return Diagnostic("HF0101", "error", Mark(source.name, 1, 1), f"not YAML: {error.reason}", "")
    message = f"the file holds the control character U+{ord(match[0]):04X}"
    at = source.mark(match.start())._replace(width=1)
    return Diagnostic("HF0101", "error", at, message, "Remove it, or write it as an escape in double quotes.")
