"""Start a migration: two files with their headers, numbered and versioned after the last; empty, or from a plan."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from provision.migrate.files import VERSION, Migration, order_of
from provision.plan.plan import Step
from provision.postgres.kinds.index_build import is_valid
from provision.spec.change import Sql
from provision.spec.errors import InputError

#: Kind of a migration -> the kinds of object that it changes and nothing else.
_KINDS = {
    "index": frozenset({"index"}),
    "partition": frozenset({"partitions"}),
    "function": frozenset({"function", "trigger"}),
}
#: A proof must not wait under the lock of its promise, and nothing may use a new value in its own transaction.
_ALONE = re.compile(r"\b(VALIDATE CONSTRAINT|ADD VALUE)\b")
_ATTACHED = re.compile(r"ALTER INDEX .+ ATTACH PARTITION ")


class Draft(NamedTuple):
    """What to write. Without steps, both files wait for their statements.

    ``covered`` says that apply makes the same: a plane that it made needs the migration no more.
    """

    name: str
    version: str | None = None
    kind: str | None = None
    up: tuple[Step, ...] = ()
    down: tuple[Step, ...] = ()
    covered: bool = False


def write(folder: Path, draft: Draft, migrations: Sequence[Migration]) -> tuple[Path, ...]:
    """Write the files of a new migration. Raises InputError for a version not later than the last."""
    numbers = [int(path.name[:4]) for path in folder.glob("[0-9][0-9][0-9][0-9]_*.sql")] if folder.is_dir() else []
    last = max((m.version for m in migrations), key=order_of, default=None)
    given = draft.version or following(last)
    if not VERSION.fullmatch(given):
        raise InputError(f"{given} is no version", "Write three numbers: 1.2.0.")
    if last is not None and order_of(given) <= order_of(last):
        raise InputError(f"version {given} is not later than {last}", f"The next one is {following(last)}.")
    stem = f"{max(numbers, default=0) + 1:04}_{draft.name}"
    kind = draft.kind or kind_of(draft.up)
    opening = [
        f"-- version: {given}",
        f"-- description: {draft.name.replace('_', ' ').capitalize()}",
        f"-- kind: {kind}",
    ]
    if draft.covered:
        opening.append("-- covered-by: specs")
    texts = {f"{stem}.up.sql": _script(opening, draft.up)}
    if draft.down or not draft.up:
        texts[f"{stem}.down.sql"] = _script([f"-- version: {given}"], draft.down)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        with (folder / name).open("x") as file:
            file.write(text)
    return tuple(folder / name for name in texts)


def kind_of(steps: Sequence[Step]) -> str:
    """The kind of migration that these steps make."""
    touched = {step.object.split("/")[-2] for step in steps}
    return next((kind for kind, own in _KINDS.items() if touched and touched <= own), "schema")


def following(version: str | None) -> str:
    """The next minor version; the first is 1.0.0."""
    if version is None:
        return "1.0.0"
    major, minor, _ = version.partition("-")[0].split(".")
    return f"{major}.{int(minor) + 1}.0"


def _script(opening: Sequence[str], steps: Sequence[Step]) -> str:
    transaction = ["-- transaction: none"] if any(_stands_alone(step) for step in steps) else []
    return "\n".join([*opening, *transaction, *_assertions(steps), "", *_statements(steps)]) + "\n"


def _assertions(steps: Sequence[Step]) -> Iterator[str]:
    """An index that gets its parts by name stays invalid where a partition lives that no statement names."""
    attached = (s for s in steps if isinstance(s.request, Sql) and _ATTACHED.match(s.request.text))
    for number, text in enumerate(dict.fromkeys(step.object for step in attached), 1):
        _, schema, *_, name = map(unquote, text.split("/"))
        label = "index_is_valid" if number == 1 else f"index_{number}_is_valid"
        yield f"-- assert-after {label}: {is_valid(schema, name)}"


def _stands_alone(step: Step) -> bool:
    """Whether a step cannot share a transaction, or must not."""
    assert isinstance(step.request, Sql)
    return not step.transactional or _ALONE.search(step.request.text) is not None


def _statements(steps: Sequence[Step]) -> Iterator[str]:
    """One paragraph for each table, function and so on; what a statement costs stands before it."""
    before = None
    for step in steps:
        assert isinstance(step.request, Sql)
        about = tuple(step.object.split("/")[:3])
        if before not in (None, about):
            yield ""
        before = about
        for hazard in step.hazards:
            yield f"-- ! {hazard.kind}: {' '.join(hazard.detail.split())}"
        text = step.request.text.rstrip().rstrip(";")
        ends_in_comment = "--" in text.rpartition("\n")[2]
        yield f"{text}\n;" if ends_in_comment else f"{text};"
