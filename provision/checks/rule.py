"""What a rule is: a code, a default level, one generator, and a docstring that is its page."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from provision.checks.scene import Scene
    from provision.spec.diagnostic import Severity
    from provision.spec.record import Pointer

#: ``semantics`` looks at one object and what it names; ``cross-resource`` at several objects or a target.
Level = Literal["semantics", "cross-resource"]


class Finding(NamedTuple):
    """One mistake at one place. ``where`` may name a field that the document lacks: its object is shown then.

    ``offset`` is a character position inside the SQL text at ``where``.
    """

    where: Pointer
    message: str
    help: str
    related: tuple[tuple[Pointer, str], ...] = ()
    at_key: bool = False
    offset: int | None = None


class Documented:
    """Anything that a generator's docstring documents."""

    __slots__ = ()
    code: str
    slug: str
    find: Callable[..., Any]

    @property
    def page(self) -> str:
        """The docstring with its indentation taken off."""
        lines = (self.find.__doc__ or "").strip().split("\n")
        return "\n".join([lines[0], *(line[4:] for line in lines[1:])])

    @property
    def title(self) -> str:
        return self.page.split("\n", 1)[0].rstrip(".")

    @property
    def mistakes(self) -> tuple[str, ...]:
        """The classes of mistakes that the page names, as ``SB-01``."""
        return tuple(dict.fromkeys(re.findall(r"SB-\d\d", self.page)))

    def example(self, heading: Literal["Bad", "Good"]) -> str:
        """The YAML below ``Bad:`` or ``Good:``."""
        lines = self.page.split("\n")
        first = lines.index(f"{heading}:") + 1
        block: list[str] = []
        for line in lines[first:]:
            if line and not line.startswith("    "):
                break
            block.append(line[4:])
        return "\n".join(block).strip("\n") + "\n"


@dataclass(frozen=True, slots=True)
class Rule(Documented):
    """A rule and its page. ``opening`` words begin each of its messages, so readers learn to know them."""

    code: str
    slug: str
    severity: Severity
    level: Level
    opening: str
    find: Callable[[Scene], Iterator[Finding]]


def rule(
    code: str, slug: str, opening: str, *, severity: Severity = "error", level: Level = "semantics"
) -> Callable[[Callable[[Scene], Iterator[Finding]]], Rule]:
    """Make a rule of a generator. It registers nothing: ``registry.RULES`` lists the rules."""

    def made(find: Callable[[Scene], Iterator[Finding]]) -> Rule:
        return Rule(code, slug, severity, level, opening, find)

    return made


def listed(items: Iterable[str], conjunction: str = "and") -> str:
    """Write ``a, b and c``."""
    *rest, last = list(items)
    return f"{', '.join(rest)} {conjunction} {last}" if rest else last


def counted(number: int, noun: str) -> str:
    """Write ``1 server``, ``3 servers``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
