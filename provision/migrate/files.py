"""The folder of migrations: ``NNNN_verb_noun.up.sql`` and ``.down.sql``, their headers and their order."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from provision.migrate.codes import LINTED
from provision.migrate.statements import Places, Statement, split
from provision.spec import units
from provision.spec.diagnostic import Diagnostic, Mark, Related
from provision.spec.nearest import closest

__all__ = ["Assertion", "Migration", "Script", "Statement", "order_of", "read", "read_script"]

KINDS = ("schema", "data", "index", "partition", "function")
LOCK_TIMEOUT_NS = 3_000_000_000
_NAME = re.compile(r"(?P<number>\d{4})_(?P<name>[a-z][a-z0-9]*(?:_[a-z0-9]+)+)\.(?P<way>up|down)\.sql")
#: As the column applied_migrations.version demands.
VERSION = re.compile(r"\d+\.\d+\.\d+(?:-\w+)?")
_LONGEST_VERSION = 20
_HEADER = re.compile(
    r"--[ \t]*(?P<key>[a-z]+(?:[-_][a-z]+)*)(?:[ \t]+(?P<label>\w+))?[ \t]*:(?:[ \t]+(?P<value>.*?))?[ \t\r]*$"
)
#: A directive as people write it who do not know the form: with capitals, other blanks, or indented.
_LOOSE = re.compile(
    r"[ \t]*--+[ \t]*(?P<key>[A-Za-z]+(?:[-_ ][A-Za-z]+)?)(?:[ \t]+(?P<label>\w+))?[ \t]*:(?P<value>.*)$"
)
_KEYS = (
    "version", "description", "kind", "depends-on", "covered-by", "transaction", "lock-timeout", "statement-timeout",
    "assert-before", "assert-after", "allow",
)  # fmt: skip
_ASSERTIONS = ("assert-before", "assert-after")
_MANY = (*_ASSERTIONS, "allow")
#: Key -> the only value that it can have, and why the line may be needless.
_ONLY = {
    "transaction": ("none", "Leave the line out: a file is one transaction unless it says none."),
    "covered-by": ("specs", "Leave the line out where a plane made from the specs needs this file all the same."),
}
#: A line that speaks of allowing a code, however it is spelt.
_ALLOW = re.compile(r"--[ \t]*allow[ \t]+(?P<code>hf\d+)\b(?P<rest>.*)", re.IGNORECASE)
_NONE: Mapping[str, str] = MappingProxyType({})


class Assertion(NamedTuple):
    """A query that gives one boolean; true is what the writer expects."""

    name: str
    sql: str
    line: int


class Script(NamedTuple):
    """One file. ``digest`` is the SHA-256 of its bytes, in hex; a time-out of 0 is none.

    ``allowed``: codes that lint does not tell of this file -> why.
    """

    file: str
    text: str
    digest: str
    statements: tuple[Statement, ...]
    transactional: bool
    lock_timeout_ns: int
    statement_timeout_ns: int
    before: tuple[Assertion, ...]
    after: tuple[Assertion, ...]
    allowed: Mapping[str, str] = _NONE


class Migration(NamedTuple):
    """A step forward and, where ``down`` is there, the way back.

    ``covered``: a plane that ``apply`` made from the specs does not need it.
    """

    number: int
    name: str
    version: str
    kind: str
    description: str | None
    depends_on: tuple[str, ...]
    up: Script
    down: Script | None
    covered: bool = False


class _Entry(NamedTuple):
    label: str | None
    value: str
    line: int
    column: int


class _Read(NamedTuple):
    script: Script
    header: dict[str, list[_Entry]]


def read(folder: Path) -> tuple[tuple[Migration, ...], tuple[Diagnostic, ...]]:
    """Read every migration of a folder, in order. Never raises for bad files: what is wrong is told beside.

    A migration with an error of its own is left out. A folder that does not exist holds none.
    """
    said: list[Diagnostic] = []
    ups: dict[str, tuple[Path, _Read]] = {}
    downs: dict[str, tuple[Path, _Read]] = {}
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() == ".sql") if folder.is_dir() else []
    for path in paths:
        match = _NAME.fullmatch(path.name)
        if match is None:
            help = "Name it NNNN_verb_noun.up.sql or NNNN_verb_noun.down.sql, for example 0002_add_priority.up.sql."
            said.append(_error("HF0803", path, (1, 1), f"{path.name} is no name of a migration", help))
            continue
        found, faults = _read_file(path)
        said += faults
        if found is not None:
            (ups if match["way"] == "up" else downs)[f"{match['number']}_{match['name']}"] = (path, found)
    said += _lonely(folder, paths, downs)
    migrations = [m for stem in sorted(ups) if (m := _migration(stem, ups[stem], downs.get(stem), said)) is not None]
    said += [*_numbering(paths), *_ordering(migrations), *_dependencies(migrations)]
    return tuple(migrations), tuple(said)


def folder_of(root: Path, target: str) -> Path:
    """Where the migrations of a Postgres target lie: ``migrations/``, or a folder of its own in there."""
    return root / "migrations" if target == "main" else root / "migrations" / target


def read_script(file: str, data: bytes) -> tuple[Script | None, tuple[Diagnostic, ...]]:
    """Read one file's bytes. The script is None where the text cannot be read at all."""
    found, said = _parse(file, data)
    return (found.script if found else None), said


def order_of(version: str) -> tuple[Any, ...]:
    """The sort key of a version: numbers as numbers; a pre-release comes before its release."""
    release, _, pre = version.partition("-")
    word = pre.rstrip("0123456789")
    return (*(int(n) for n in release.split(".")), not pre, word, int(pre[len(word) :] or 0))


def _read_file(path: Path) -> tuple[_Read | None, tuple[Diagnostic, ...]]:
    if path.is_dir():
        help = "Move it out of the folder of migrations, or give it another name."
        return None, (_error("HF0803", path, (1, 1), f"{path.name} is a folder", help),)
    try:
        return _parse(str(path), path.read_bytes())
    except OSError as error:
        return None, (
            _error("HF0803", path, (1, 1), f"the file cannot be read: {error.strerror}", "Make it readable."),
        )


def _parse(file: str, data: bytes) -> tuple[_Read | None, tuple[Diagnostic, ...]]:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return None, (_error("HF0803", file, (line, 1), "the file is not UTF-8 text", "Save it as UTF-8."),)
    if (unseen := _unprintable(text)) is not None:
        offset, told, help = unseen
        return None, (_error("HF0803", file, Places(text)(offset), told, help, 1),)
    header, said = _header(file, text)
    transactional = _first(header, "transaction").value != "none"
    statements, faults = split(text, transactional=transactional)
    place = Places(text)
    for fault in faults:
        said.append(_error(fault.code, file, place(fault.offset), fault.message, fault.help, fault.width))
    if not statements:
        said.append(_error("HF0813", file, (1, 1), "the file holds no statement", "Write one, or delete the file."))
    timeouts = [_duration(file, header, key, usual, said) for key, usual in _TIMEOUTS]
    checks = [_assertions(file, header, key, said) for key in _ASSERTIONS]
    script = Script(
        file, text, hashlib.sha256(data).hexdigest(), statements, transactional, timeouts[0], timeouts[1],
        checks[0], checks[1], _allowed(file, header, said),
    )  # fmt: skip
    return _Read(script, header), tuple(said)


def _unprintable(text: str) -> tuple[int, str, str] | None:
    """Where signs stand that no editor shows and the server refuses, what they are, and what to do."""
    if text.startswith("\ufeff"):
        return 0, "the file begins with a byte order mark", "Save it as UTF-8 without a byte order mark (BOM)."
    if "\0" in text:
        help = "Delete it; a file with many of them was saved as UTF-16: save it as UTF-8."
        return text.index("\0"), "the file holds a zero byte, which SQL cannot hold", help
    return None


# The header ------------------------------------------------------------------------------------------------


def _header(file: str, text: str) -> tuple[dict[str, list[_Entry]], list[Diagnostic]]:
    """The directives: comment lines ``-- key: value`` before the first statement. Other comments are for people."""
    found: dict[str, list[_Entry]] = {}
    said: list[Diagnostic] = []
    below = False
    for number, line in enumerate(text.split("\n"), 1):
        below = below or (not line.strip().startswith("--") and bool(line.strip()))
        match = _HEADER.match(line)
        if (allow := _ALLOW.match(line)) is not None and (below or match is None or not match["value"]):
            said.append(_idle_allow(file, number, allow, below=below))
            continue
        if (told := _misspelt(line, below=below, read=match is not None)) is not None:
            said.append(_error("HF0804", file, (number, told[0]), *told[1:]))
            continue
        if below or match is None or _is_prose(match["key"], match["label"]):
            continue
        key, place = match["key"], (number, match.start("key") + 1)
        if key not in _KEYS:
            help = f"Did you mean {near}?" if (near := closest(key, _KEYS)) else f"Known: {', '.join(_KEYS)}."
            said.append(_error("HF0804", file, place, f"{key} is no directive of a migration", help, len(key)))
        elif (match["label"] and key not in _MANY) or not match["value"]:
            said.append(_error("HF0804", file, place, f"{key} has no value", f"Write -- {key}: VALUE", len(key)))
        elif key in found and key not in _MANY:
            said.append(_error("HF0804", file, place, f"{key} is written twice", "Keep one of them.", len(key)))
        else:
            found.setdefault(key, []).append(_Entry(match["label"], match["value"], *place))
    _check_words(file, found, said)
    return found, said


def _misspelt(line: str, *, below: bool, read: bool) -> tuple[int, str, str, int] | None:
    """A line that names a directive and would have no effect: its column, what is wrong, what to do, and its width."""
    match = _LOOSE.match(line)
    if match is None:
        return None
    words = match["key"].lower().replace("_", "-").replace(" ", "-")
    label = match["label"]
    if words not in _KEYS and " " in match["key"] and label is None:  # the second word may be a label
        first, _, label = match["key"].partition(" ")
        words = first.lower().replace("_", "-")
    if words not in _KEYS or (label is not None and words not in _ASSERTIONS):
        return None
    at, width = match.start("key") + 1, len(match["key"])
    if below:
        is_meant = "-" in words or (words == "transaction" and match["value"].strip() == "none")
        return (
            (at, f"{words} stands below a statement", "Move it to the head of the file.", width) if is_meant else None
        )
    if read:
        return None  # the strict form judges it
    form = f"-- {words}{' NAME: SQL' if words in _ASSERTIONS else ': VALUE'}"
    help = f"Write {form}, in lower case, at the beginning of the line, with a blank after the colon."
    return (at, f"{match['key']} is not read as the directive {words}", help, width)


def _is_prose(key: str, label: str | None) -> bool:
    """Whether ``key:`` or ``key label:`` opens a sentence and is not meant as a directive."""
    near = key if key in _KEYS else closest(key, _KEYS)
    if label is None:
        return near is None and "_" in key
    return near is None or (near == "allow" and not re.match(r"[A-Za-z]{1,3}\d", label))


def _check_words(file: str, header: dict[str, list[_Entry]], said: list[Diagnostic]) -> None:
    version = _first(header, "version")
    if not version.value:
        if not any(d.message.startswith("version ") for d in said):
            help = "Open the file with a line such as: -- version: 1.2.0"
            said.append(_error("HF0804", file, (1, 1), "the file does not say its version", help))
    elif not _is_version(version.value):
        told = f"{version.value} is no version"
        help = (
            f"Write three numbers, and a pre-release if you like: 1.2.0, 1.2.0-rc1; at most {_LONGEST_VERSION} signs."
        )
        said.append(_error("HF0804", file, (version.line, version.column), told, help))
    for key, (only, help) in _ONLY.items():
        entry = _first(header, key)
        if entry.value and entry.value != only:
            told = f"{key} can only be {only}, not {entry.value}"
            said.append(_error("HF0804", file, (entry.line, entry.column), told, help))


def _is_version(text: str) -> bool:
    return VERSION.fullmatch(text) is not None and len(text) <= _LONGEST_VERSION


def _first(header: dict[str, list[_Entry]], key: str) -> _Entry:
    return header[key][0] if key in header else _Entry(None, "", 1, 1)


_TIMEOUTS = (("lock-timeout", LOCK_TIMEOUT_NS), ("statement-timeout", 0))


def _duration(file: str, header: dict[str, list[_Entry]], key: str, usual: int, said: list[Diagnostic]) -> int:
    entry = _first(header, key)
    if not entry.value:
        return usual
    try:
        found = units.duration_ns(0 if entry.value == "0" else re.sub(r"min\b", "m", entry.value.replace(" ", "")))
    except units.UnitError as error:
        said.append(_error("HF0804", file, (entry.line, entry.column), f"{key} is {error}", error.help, len(key)))
        return usual
    if found % 1_000_000:
        told = f"{key} is finer than a millisecond"
        said.append(_error("HF0804", file, (entry.line, entry.column), told, "Write 500ms, 3s or 10min.", len(key)))
    return found


def _assertions(file: str, header: dict[str, list[_Entry]], key: str, said: list[Diagnostic]) -> tuple[Assertion, ...]:
    found: list[Assertion] = []
    for number, entry in enumerate(header.get(key, ()), 1):
        name = entry.label or f"{number}"
        sql = entry.value.strip()
        statements, faults = split(sql, transactional=True)
        if len(statements) != 1 or faults or name in {a.name for a in found}:
            is_twice = name in {a.name for a in found}
            told = f"{key} {name} is written twice" if is_twice else f"{key} {name} is not one query"
            help = "Give it another name." if is_twice else "Write one query that gives one boolean, on one line."
            said.append(_error("HF0804", file, (entry.line, entry.column), told, help, len(key)))
            continue
        found.append(Assertion(name, statements[0].text, entry.line))
    return tuple(found)


def _allowed(file: str, header: dict[str, list[_Entry]], said: list[Diagnostic]) -> Mapping[str, str]:
    """The codes that lint is not to tell, with the writer's reasons."""
    found: dict[str, str] = {}
    for entry in header.get("allow", ()):
        code = entry.label or ""
        if not code:
            told, help = "allow names no code", "Write -- allow CODE: REASON, with a code that lint told."
        elif code not in LINTED:
            told = f"{code} is no code that can be allowed"
            help = f"Did you mean {near}?" if (near := closest(code, LINTED)) else "Write a code that lint told."
        elif code in found:
            told, help = f"allow {code} is written twice", "Keep one of them."
        else:
            found[code] = entry.value
            continue
        said.append(_error("HF0804", file, (entry.line, entry.column), told, help, len("allow")))
    return MappingProxyType(found) if found else _NONE


def _idle_allow(file: str, line: int, match: re.Match[str], *, below: bool) -> Diagnostic:
    """An allow that would have no effect."""
    code = match["code"].upper()
    help = f"Write -- allow {code}: and why it does no harm here; one line for each code."
    if below:
        told, help = f"allow {code} stands below a statement", "Move it to the head of the file."
    elif match["rest"].strip(": \t\r"):
        told = f"allow {code} cannot be read"
    else:
        told = f"allow {code} gives no reason"
    return _error("HF0804", file, (line, match.start("code") - 5), told, help)


# The folder ------------------------------------------------------------------------------------------------


def _migration(
    stem: str, up: tuple[Path, _Read], down: tuple[Path, _Read] | None, said: list[Diagnostic]
) -> Migration | None:
    """Put the two files of a migration together; None for one whose version nobody can tell."""
    path, (script, header) = up
    version = _first(header, "version").value
    kind = _first(header, "kind")
    if kind.value and kind.value not in KINDS:
        help = f"Write one of {', '.join(KINDS)}."
        said.append(_error("HF0804", path, (kind.line, kind.column), f"{kind.value} is no kind of migration", help))
    if not _is_version(version):
        return None
    if down is not None:
        said += _way_back(path, version, down)
    return Migration(
        int(stem[:4]), stem[5:], version,
        kind.value if kind.value in KINDS else "schema",
        _first(header, "description").value or None,
        tuple(part.strip() for part in _first(header, "depends-on").value.split(",") if part.strip()),
        script, down[1].script if down is not None else None,
        _first(header, "covered-by").value == "specs",
    )  # fmt: skip


def _way_back(up: Path, version: str, down: tuple[Path, _Read]) -> Iterator[Diagnostic]:
    path, (_, header) = down
    own = _first(header, "version")
    if _is_version(own.value) and own.value != version:
        told = f"the way back is for version {own.value}, the way there for {version}"
        related = Related(Mark(str(up), 1, 1), f"says version {version}")
        yield _error("HF0807", path, (own.line, own.column), told, f"Write -- version: {version}")._replace(
            related=(related,)
        )
    for key in ("kind", "depends-on", "covered-by"):
        if key in header:
            entry = _first(header, key)
            told = f"{key} belongs into the up file"
            yield _error("HF0804", path, (entry.line, entry.column), told, "Leave it out here.", len(key))


def _lonely(folder: Path, paths: Sequence[Path], downs: Iterable[str]) -> Iterator[Diagnostic]:
    names = {path.name for path in paths}
    for stem in downs:
        if f"{stem}.up.sql" not in names:
            told = f"{stem}.down.sql has no {stem}.up.sql"
            yield _error("HF0807", folder / f"{stem}.down.sql", (1, 1), told, "Add the up file, or delete this one.")


def _numbering(paths: Sequence[Path]) -> Iterator[Diagnostic]:
    """Numbers run from 0001 without a gap, each once: a file that is lost shows."""
    found: dict[int, Path] = {}
    for path in paths:
        match = _NAME.fullmatch(path.name)
        if match is None or match["way"] == "down":
            continue
        number = int(match["number"])
        if number in found:
            told = f"number {number:04} is taken by {found[number].name}"
            yield _error("HF0805", path, (1, 1), told, "Give this file the next free number, and a later version.")
        elif number != (want := max(found, default=0) + 1):
            told = f"{path.name} follows {want - 1:04}: {want:04} is missing"
            help = "Bring the missing file back (git log --all -- migrations), or renumber what was never applied."
            yield _error("HF0805", path, (1, 1), told, help)
        found[number] = path


def _ordering(migrations: Sequence[Migration]) -> Iterator[Diagnostic]:
    for before, after in pairwise(migrations):
        if order_of(after.version) <= order_of(before.version):
            word = "the same as" if after.version == before.version else "not later than"
            told = f"version {after.version} is {word} {before.version} of the file before it"
            related = Related(Mark(before.up.file, 1, 1), f"version {before.version}")
            help = "Versions rise with the numbers of the files, compared as numbers: 1.9.0 comes before 1.10.0."
            yield _error("HF0805", after.up.file, (1, 1), told, help)._replace(related=(related,))


def _dependencies(migrations: Sequence[Migration]) -> Iterator[Diagnostic]:
    numbers = {m.version: m.number for m in migrations}
    for migration in migrations:
        for version in migration.depends_on:
            if version not in numbers:
                near = closest(version, numbers)
                told = f"it depends on version {version}, which no file has"
                help = f"Did you mean {near}?" if near else "Bring the file back, or correct the line depends-on."
            elif numbers[version] >= migration.number:
                told = f"it depends on version {version}, which does not come before it"
                help = "Depend on an earlier version, or renumber the files."
            else:
                continue
            yield _error("HF0806", migration.up.file, (1, 1), told, help)


def _error(code: str, file: Path | str, place: tuple[int, int], message: str, help: str, width: int = 0) -> Diagnostic:
    return Diagnostic(code, "error", Mark(str(file), *place, width), message, help)
