"""How many connections a load needs, by Little's law. Pure; called where a pool declares ``sizing``."""

from __future__ import annotations

from fractions import Fraction
from math import ceil
from typing import NamedTuple

#: Agents up to this number share as much of a pool as this factor says (they do not all work at once).
_FACTORS = ((5, Fraction(1)), (20, Fraction(4, 5)))
_MANY = Fraction(3, 5)
#: No pool is smaller or larger than this, whatever the load.
_SMALLEST, _LARGEST = 2, 50
_KEPT_OPEN = Fraction(1, 5)
_NS = 1_000_000_000


class Recommendation(NamedTuple):
    """Sizes in connections. ``recommended`` equals ``maximum``; ``warnings`` say what was bent."""

    recommended: int
    minimum: int
    maximum: int
    reasoning: str
    warnings: tuple[str, ...] = ()


def agent_factor(agents: int) -> Fraction:
    """The part of the plain size that this many agents need: 1 to five, 0.8 to twenty, then 0.6."""
    return next((factor for limit, factor in _FACTORS if agents <= limit), _MANY)


def bounds(agents: int) -> tuple[Fraction, Fraction]:
    """The least and the most for this many agents: a connection for four of them, two for each.

    Above 200 agents the least would exceed the most; the most wins.
    """
    most = Fraction(min(_LARGEST, agents * 2))
    return min(max(Fraction(_SMALLEST), Fraction(agents, 4)), most), most


def recommend(agents: int, ops_per_s: float, avg_duration_ns: int, target_utilization: float = 0.8) -> Recommendation:
    """Size a pool: operations in flight (rate x duration) ÷ utilisation, x agent factor, within bounds.

    Raises ValueError for negative loads and a utilisation outside (0, 1].
    """
    if agents < 0 or ops_per_s < 0 or avg_duration_ns < 0:
        raise ValueError("a load cannot be negative")
    if not 0 < target_utilization <= 1:
        raise ValueError(f"target utilisation must lie above 0 and at most at 1, not at {target_utilization}")
    counted = max(agents, 1)
    base = Fraction(str(ops_per_s)) * Fraction(avg_duration_ns, _NS) / Fraction(str(target_utilization))
    least, most = bounds(counted)
    size = min(max(base * agent_factor(counted), least), most)
    reasoning = f"Based on {agents} agents, {ops_per_s:g} ops/s of {avg_duration_ns / _NS:g} s each"
    return Recommendation(
        recommended=ceil(size),
        minimum=ceil(size * _KEPT_OPEN),
        maximum=ceil(size),
        reasoning=f"{reasoning}, at {target_utilization:.0%} utilisation",
        warnings=_warnings(agents, base * agent_factor(counted), most),
    )


def _warnings(agents: int, wanted: Fraction, most: Fraction) -> tuple[str, ...]:
    found = []
    if agents < 1:
        found.append("no agents: sized for one")
    if (least := ceil(Fraction(agents, 4))) > most:
        found.append(f"{agents} agents ask for {least} connections or more: kept at {most}")
    if wanted > most:
        found.append(f"the load asks for {ceil(wanted)} connections: kept at {most}")
    return tuple(found)
