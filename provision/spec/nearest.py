"""Near misses: the "did you mean" of every diagnostic about a name."""

from __future__ import annotations

from collections.abc import Iterable

#: Above this many candidates only prefixes and letter case are tried: difflib would take seconds.
_MANY = 5_000


def nearest(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Give ``Did you mean x?`` for the known name closest to ``name``, else ``otherwise``."""
    found = closest(name, known)
    return f"Did you mean {found}?" if found is not None else otherwise


def closest(name: str, known: Iterable[str]) -> str | None:
    """Give the known name that ``name`` most likely stands for, or None."""
    candidates = [k for k in known if k != name]
    folded = _fold(name)
    for candidate in candidates:
        if _fold(candidate) == folded:
            return candidate
    longer = [c for c in candidates if len(name) > 2 and _fold(c).startswith(folded)]
    if len(longer) == 1:
        return longer[0]
    if len(candidates) > _MANY:
        return None
    from difflib import get_close_matches

    found = get_close_matches(name, candidates, n=1, cutoff=0.6)
    return found[0] if found else None


def _fold(name: str) -> str:
    return name.replace("-", "").replace("_", "").lower()
