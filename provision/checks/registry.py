"""The one list of rules, and the runner. Nothing registers itself: a rule counts once it stands here."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from provision.checks import (
    bodies,
    buckets,
    calls,
    capacity,
    changes,
    columns,
    conditions,
    consumers,
    delivery,
    dynamic_sql,
    extensions,
    indexes,
    keys,
    kubernetes,
    names,
    origins,
    partitions,
    pools,
    queries,
    reports,
    retries,
    roles,
    streams,
)
from provision.checks.scene import Scene
from provision.spec.diagnostic import Diagnostic, Related
from provision.spec.events import collector_off

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from provision.checks.rule import Finding, Rule
    from provision.checks.scene import Document
    from provision.spec.diagnostic import Mark
    from provision.spec.record import Facts, Plane, Pointer

_SUBJECTS = (
    partitions, keys, columns, indexes, names, extensions, conditions, bodies, dynamic_sql, queries, calls, reports,
    changes, streams, consumers, retries, delivery, origins, buckets, pools, roles, capacity, kubernetes,
)  # fmt: skip
#: Every rule, by code.
RULES: tuple[Rule, ...] = tuple(sorted((r for s in _SUBJECTS for r in s.RULES), key=lambda r: r.code))


#: What to underline in SQL: a string, a name with its parts, or what stands together.
_WORD = re.compile(r"'[^'\n]*'|[\w.$]+|[^\s\w]+")


def run(
    plane: Plane,
    document: Document,
    facts: Mapping[tuple[str, str], Facts],
    rules: Iterable[Rule] = RULES,
) -> list[Diagnostic]:
    """Run every rule over a desired plane; sorted by place, each diagnostic once.

    ``facts`` are the declared targets by (system, name). A rule that needs a fact nobody declared is silent.
    """
    with collector_off():
        scene = Scene(plane, document, facts)
        found = {_diagnostic(document, rule, finding) for rule in rules for finding in rule.find(scene)}
    return sorted(found, key=lambda d: (d.mark.file, d.mark.line, d.mark.column, d.code, d.message))


def _diagnostic(document: Document, rule: Rule, finding: Finding) -> Diagnostic:
    related = tuple(Related(place(document, where), message) for where, message in finding.related)
    mark = place(document, finding.where, at_key=finding.at_key, offset=finding.offset)
    return Diagnostic(rule.code, rule.severity, mark, finding.message, finding.help, related)


def place(document: Document, where: Pointer, *, at_key: bool = False, offset: int | None = None) -> Mark:
    """Find the place of a field that may be written in a short form, or not at all.

    ``primary_key: [id]`` has no ``columns``: steps that do not apply to a list or a scalar are left out. A field
    that is missing gives the key of its object.
    """
    pointer: list[str | int] = []
    node = document.root
    for step in where:
        if isinstance(node, dict):
            if step not in node:
                return document.locate(tuple(pointer), key=True)
            node = node[step]
        elif isinstance(node, list) and isinstance(step, int) and step < len(node):
            node = node[step]
        else:
            continue
        pointer.append(step)
    if offset is not None and isinstance(node, str):
        word = _WORD.match(node, offset)
        return document.locate_text(tuple(pointer), offset)._replace(width=len(word[0]) if word else 0)
    return document.locate(tuple(pointer), key=at_key)
