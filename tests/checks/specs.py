"""One spec text through the real loader, the real reader and the rules."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from provision import registry
from provision.checks.registry import RULES, run
from provision.checks.rule import Rule
from provision.spec import document, reading
from provision.spec.diagnostic import Diagnostic
from provision.spec.document import Document
from provision.spec.record import Facts, Plane

DIAGNOSTICS = Path(__file__).parents[1] / "diagnostics"


class Loaded(NamedTuple):
    """A spec that was read; ``said`` is what loading and reading had to say."""

    plane: Plane
    document: Document
    facts: dict[tuple[str, str], Facts]
    said: tuple[Diagnostic, ...]

    def check(self, rules: Iterable[Rule] = RULES) -> list[Diagnostic]:
        return run(self.plane, self.document, self.facts, rules)


def load(folder: Path, text: str) -> Loaded:
    """Read a spec of one file, without an environment."""
    (folder / "spec.yaml").write_text(text, encoding="utf-8")
    loaded = document.load(folder)
    read = reading.read(loaded, registry.sections())
    facts = {key: target.facts for key, target in loaded.targets.items()}
    return Loaded(read.plane, loaded, facts, read.diagnostics)


def everything(folder: Path, text: str) -> list[Diagnostic]:
    """All that check says of a spec."""
    loaded = load(folder, text)
    return [*loaded.said, *loaded.check()]


def fixtures() -> list[Path]:
    """The folders of failing and passing specs, named CODE-slug."""
    return sorted(DIAGNOSTICS.glob("HF*"))


def places(diagnostics: Iterable[Diagnostic]) -> list[str]:
    """``line:column CODE``, in order of place."""
    found = sorted(diagnostics, key=lambda d: (d.mark.line, d.mark.column, d.code))
    return [f"{d.mark.line}:{d.mark.column} {d.code}" for d in found]
