"""Diagnostics as text for a terminal, as JSON, as GitHub annotations and as SARIF. Pure: strings out.

Every form is sorted by place and says each thing once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from provision.spec.codes import CODES
from provision.spec.diagnostic import Diagnostic, Mark, Related
from provision.spec.reading import in_order
from provision.spec.secrets import Redactor

#: Gives the source line of a mark; empty when it is not known.
Line = Callable[[Mark], str]
_REDACT = Redactor()
#: A broken file may hold anything; none of it may steer the terminal, or move the caret.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
#: A secret where a reference belongs.
_PLAIN_SECRET = re.compile(
    r"""(\b(?:password|token|nkey)["']?\s*:\s*)(?!null\b|~|\{)("[^"]*"?|'[^']*'?|[^\s,}\]][^,}\]]*)"""
)
_BOLD, _RED, _YELLOW, _DIM, _OFF = "\x1b[1m", "\x1b[31m", "\x1b[33m", "\x1b[2m", "\x1b[0m"
#: Longer source lines are shown around the caret.
_MAX_LINE = 140
_SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def text(diagnostics: Iterable[Diagnostic], line: Line, *, color: bool = False) -> str:
    """Render for people: place, code, sentence, source line with a caret, help. Empty if there is nothing."""
    return "\n".join(_block(_printable(diagnostic), line, color) for diagnostic in in_order(diagnostics))


def summary(diagnostics: Iterable[Diagnostic]) -> str:
    """Count them: ``2 errors, 1 warning``."""
    severities = [d.severity for d in diagnostics]
    counts = [(severities.count("error"), "error"), (severities.count("warning"), "warning")]
    return ", ".join(f"{n} {word}{'' if n == 1 else 's'}" for n, word in counts if n) or "no problems"


def _printable(diagnostic: Diagnostic) -> Diagnostic:
    """Names and values of a spec stand in messages: none of them may steer a terminal."""
    message, help = (_UNPRINTABLE.sub("\ufffd", text) for text in (diagnostic.message, diagnostic.help))
    return diagnostic._replace(message=message, help=help)


def _block(diagnostic: Diagnostic, line: Line, color: bool) -> str:
    tone = _RED if diagnostic.severity == "error" else _YELLOW
    word = "" if diagnostic.severity == "error" else "warning: "
    code, place, message = diagnostic.code, str(diagnostic.mark), f"{word}{diagnostic.message}"
    if color:
        code, place = f"{tone}{code}{_OFF}", f"{_BOLD}{place}{_OFF}"
    parts = [f"{place}: {code} {message}\n", _excerpt(diagnostic.mark, line, color and tone)]
    for related in diagnostic.related:
        parts.append(f"  {related.mark}: {related.message}\n")
        parts.append(_excerpt(related.mark, line, color and _DIM))
    if diagnostic.help:
        parts.append(f"  {diagnostic.help}\n")
    return "".join(parts)


def _excerpt(mark: Mark, line: Line, tone: str | bool) -> str:
    written = _UNPRINTABLE.sub(" ", line(mark))
    if not written.strip():
        return ""
    # A password that somebody wrote into a spec must not be repeated in a log.
    source, start = _without_secrets(written), len(_without_secrets(written[: mark.column - 1]))
    width = max(1, min(mark.width or 1, len(source) - start))
    if len(source) > _MAX_LINE:
        cut = max(0, min(start - 20, len(source) - _MAX_LINE))
        source = ("…" if cut else "") + source[cut + bool(cut) : cut + _MAX_LINE]
        start -= cut
        width = max(1, min(width, len(source) - start))
    number = str(mark.line)
    caret = "^" * width
    if tone:
        caret = f"{tone}{caret}{_OFF}"
    return f"    {number:>3} | {source}\n    {'':>{max(3, len(number))}} | {' ' * start}{caret}\n"


def _without_secrets(line: str) -> str:
    return _PLAIN_SECRET.sub(r"\1***", _REDACT(line))


def as_json(diagnostics: Iterable[Diagnostic]) -> str:
    """Render as ``{"diagnostics": [...]}``, the contract of ``check --format json``."""
    entries = [_entry(diagnostic) for diagnostic in in_order(diagnostics)]
    return json.dumps({"diagnostics": entries}, indent=2, ensure_ascii=False) + "\n"


def _entry(diagnostic: Diagnostic) -> dict[str, Any]:
    return {
        "code": diagnostic.code,
        "severity": diagnostic.severity,
        **_place(diagnostic.mark),
        "message": diagnostic.message,
        "help": diagnostic.help,
        "related": [{**_place(related.mark), "message": related.message} for related in diagnostic.related],
    }


def _place(mark: Mark) -> dict[str, Any]:
    return {"file": mark.file, "line": mark.line, "column": mark.column}


def github(diagnostics: Iterable[Diagnostic]) -> str:
    """Render as workflow commands, which GitHub shows on the changed lines of a pull request."""
    return "".join(_annotation(_printable(diagnostic)) for diagnostic in in_order(diagnostics))


def _annotation(diagnostic: Diagnostic) -> str:
    mark = diagnostic.mark
    seconds = [f"{related.mark}: {related.message}" for related in diagnostic.related]
    message = "\n".join([diagnostic.message, *seconds, *filter(None, [diagnostic.help])])
    properties = {"file": mark.file, "line": mark.line, "col": mark.column, "title": diagnostic.code}
    if mark.width:
        properties = {**properties, "endColumn": mark.column + mark.width}
    listed = ",".join(f"{key}={_escape_property(str(value))}" for key, value in properties.items())
    return f"::{diagnostic.severity} {listed}::{_escape_data(message)}\n"


def _escape_data(value: str) -> str:
    return value.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _escape_property(value: str) -> str:
    return _escape_data(value).replace(":", "%3A").replace(",", "%2C")


def sarif(diagnostics: Iterable[Diagnostic], *, version: str = "") -> str:
    """Render as SARIF 2.1.0 for code-scanning tools."""
    found = in_order(diagnostics)
    codes = sorted({diagnostic.code for diagnostic in found})
    driver: dict[str, Any] = {"name": "holdfast", "rules": [_rule(code) for code in codes]}
    if version:
        driver["version"] = version
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": [_result(diagnostic, codes.index(diagnostic.code)) for diagnostic in found],
    }
    return json.dumps({"$schema": _SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def _rule(code: str) -> dict[str, Any]:
    known = CODES.get(code)
    return {"id": code} | ({"shortDescription": {"text": known.title}} if known is not None else {})


def _result(diagnostic: Diagnostic, rule: int) -> dict[str, Any]:
    message = " ".join(filter(None, [diagnostic.message + ".", diagnostic.help]))
    result: dict[str, Any] = {
        "ruleId": diagnostic.code,
        "ruleIndex": rule,
        "level": diagnostic.severity,
        "message": {"text": message},
        "locations": [_location(diagnostic.mark)],
    }
    if diagnostic.related:
        result["relatedLocations"] = [_related(i, related) for i, related in enumerate(diagnostic.related)]
    return result


def _related(number: int, related: Related) -> dict[str, Any]:
    return {"id": number, **_location(related.mark), "message": {"text": related.message}}


def _location(mark: Mark) -> dict[str, Any]:
    path = PurePosixPath(mark.file)
    uri = ("file://" if path.is_absolute() else "") + quote(mark.file)
    region = {"startLine": mark.line, "startColumn": mark.column}
    if mark.width:
        region["endColumn"] = mark.column + mark.width
    return {"physicalLocation": {"artifactLocation": {"uri": uri}, "region": region}}
