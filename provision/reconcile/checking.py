"""Load and check specs: the offline half of every command."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from provision.reconcile.targets import Note
from provision.reconcile.workspace import Workspace
from provision.spec.diagnostic import Diagnostic, Mark
from provision.spec.files import environments
from provision.spec.ident import Address
from provision.spec.record import Facts, Plane


class Checked(NamedTuple):
    """All diagnostics of a check. ``line`` gives the source line of a mark, ``checked`` says what was looked at."""

    diagnostics: tuple[Diagnostic, ...]
    line: Callable[[Mark], str]
    checked: str


def check(
    specs: Path, env: str | None, *, cache: Path, root: Path, compiled: bool = False,
    paths: Sequence[Path] = (), note: Note = lambda text: None,
) -> Checked:  # fmt: skip
    """Check one environment, or the base and every environment. ``paths`` keep what lies in these files only."""
    names = [env] if env is not None else [None, *environments(specs)]
    found: dict[Diagnostic, None] = {}
    documents = []
    for name in names:
        workspace = Workspace(specs, name, cache)
        documents.append(workspace.document)
        found |= dict.fromkeys(workspace.diagnostics)
        if compiled and name is not None and not _has_errors(workspace.diagnostics):
            found |= dict.fromkeys(_compile(workspace, cache, note))
    kept = [d for d in found if not paths or _lies_in(d.mark, paths)]
    kept.sort(key=lambda d: (d.mark.file, d.mark.line, d.mark.column, d.code, d.message))

    def line(mark: Mark) -> str:
        return next((text for d in documents if (text := d.line(mark))), "")

    shown = ", ".join(name or "base" for name in names)
    return Checked(tuple(kept), line, f"checked {shown}")


def _compile(workspace: Workspace, cache: Path, note: Note) -> Iterator[Diagnostic]:
    """What a real server refuses, at the line that caused it."""
    from provision.reconcile.canonical import validate

    document, facts = workspace.document, workspace.facts
    for system, target in workspace.used:
        if system == "nats":
            yield from _try_streams(workspace, target)
            continue
        result = validate(workspace.plane, target, facts.get((system, target), Facts("pg", target, (), {})), cache)
        for skipped in result.skipped:
            note(f"not compiled here: {skipped.address} needs {skipped.needs}")
        for problem in result.problems:
            where = _origin(workspace.plane, problem.address)
            fields = tuple(problem.field.split(".")) if problem.field else ()
            words = " ".join(problem.message.split())
            message = f"PostgreSQL refuses {problem.address}: {words} ({problem.sqlstate})"
            help = problem.help or "Correct the SQL; the server's words say what it takes."
            if problem.position is not None and fields:
                mark = document.locate_text((*where, *fields), problem.position - 1)
            else:
                mark = document.locate((*where, *fields))
            yield Diagnostic("HF0801", "error", mark, message, help)


def _try_streams(workspace: Workspace, target: str) -> Iterator[Diagnostic]:
    from provision.reconcile.trying import refusals

    for refusal in refusals(workspace.plane, target):
        mark = workspace.document.locate(_origin(workspace.plane, refusal.address), key=True)
        message = f"NATS refuses {refusal.address}: {refusal.message}"
        yield Diagnostic("HF0802", "error", mark, message, refusal.help or "Change the options that it names.")


def _origin(plane: Plane, address: Address) -> tuple[str | int, ...]:
    record = plane.get(address)
    return record.origin or () if record is not None else ()


def _has_errors(diagnostics: Sequence[Diagnostic]) -> bool:
    return any(d.severity == "error" for d in diagnostics)


def _lies_in(mark: Mark, paths: Sequence[Path]) -> bool:
    place = Path(mark.file).resolve()
    return any(place == p.resolve() or p.resolve() in place.parents for p in paths)
