"""What a look at the live servers forbids before anything is planned: another plane's objects, options a server
lacks, facts that were declared otherwise, extensions that are not installed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from provision import registry
from provision.reconcile.world import World
from provision.spec.errors import OperationError
from provision.spec.record import Facts, Plane
from provision.spec.target import Target, version_tuple

#: Declared facts that the server itself can confirm. Sizes may be larger than declared, never smaller.
_AT_LEAST = ("max_payload", "max_connections", "servers", "max_file_store", "max_memory_store")
_EQUAL = ("cluster",)
_SHOWN = 5


class Refused(OperationError):
    """The servers cannot take this plane. Lists every reason found."""

    def __init__(self, reasons: list[str]) -> None:
        rest = f"; and {len(reasons) - _SHOWN} more" if len(reasons) > _SHOWN else ""
        super().__init__("; ".join(reasons[:_SHOWN]) + rest, "Change the specs or the servers, then plan again.")
        self.reasons = reasons


def refuse(plane: Plane, world: World, targets: Mapping[tuple[str, str], Target]) -> None:
    """Raise Refused when the live servers cannot take the plane."""
    reasons = [
        *_foreign(plane, world),
        *_unsupported(plane, world),
        *(r for key, target in targets.items() if key in world.facts for r in _facts(target, world.facts[key])),
        *_extensions(plane, world),
        *_unplaced(plane, world),
    ]
    if reasons:
        raise Refused(reasons)


def _foreign(plane: Plane, world: World) -> Iterator[str]:
    for address, owner in world.foreign.items():
        if address in plane:
            yield f"{address} belongs to plane {owner}"


def _unsupported(plane: Plane, world: World) -> Iterator[str]:
    kinds = registry.kinds()
    for record in plane:
        ask = getattr(kinds[record.address.kind], "unsupported", None)
        facts = world.facts.get((record.address.system, record.address.target))
        if ask is None or facts is None:
            continue
        for option, since in ask(record, facts):
            yield (
                f"{record.address} wants {option}, which came with {_dotted(since)}; "
                f"{facts.system} {facts.target} runs {_dotted(facts.version)}"
            )


def _unplaced(plane: Plane, world: World) -> Iterator[str]:
    """Streams that fewer live servers can hold than they have replicas. Known with a system account only."""
    kinds = registry.kinds()
    for record in plane:
        ask = getattr(kinds[record.address.kind], "unplaced", None)
        facts = world.facts.get((record.address.system, record.address.target))
        if ask is not None and facts is not None and (reason := ask(record, facts)) is not None:
            yield f"{record.address} {reason}"


def _facts(target: Target, live: Facts) -> Iterator[str]:
    """Where a server is less than its target declares."""
    name = f"{target.system} target {target.name}"
    declared = target.facts
    version = version_tuple(target.settings.get("version"))
    if version and live.version[: len(version)] != version:
        yield f"{name} is declared with version {_dotted(version)} and runs {_dotted(live.version)}"
    for fact in _AT_LEAST:
        wanted, found = declared.options.get(fact), live.options.get(fact)
        if wanted is not None and found is not None and found < wanted:
            yield f"{name} is declared with {fact} {wanted} and has {found}"
    for fact in _EQUAL:
        wanted, found = declared.options.get(fact), live.options.get(fact)
        if wanted is not None and found is not None and found != wanted:
            yield f"{name} is declared with {fact} {wanted} and has {found}"
    wanted_tags, found_tags = declared.options.get("tags"), live.options.get("tags")
    if wanted_tags and found_tags is not None:
        for tag in sorted(set(wanted_tags) - set(found_tags)):
            yield f"{name} is declared with tag {tag}, and no live server bears it"


def _extensions(plane: Plane, world: World) -> Iterator[str]:
    """Every object whose extension a target lacks, named by the extension."""
    for record in plane.of_kind("extension"):
        facts = world.facts.get(("pg", record.address.target))
        if facts is not None and record.address.name not in facts.options["extensions_available"]:
            yield f"{record.address}: the server does not have this extension; install its package there"


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
