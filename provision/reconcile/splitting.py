"""Take a document apart into the parts that live on their own. Pure; the inverse is each part type's ``root``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from provision.reconcile.parts import (
    COLUMN_ORDER,
    CONTRACT,
    LAYOUT,
    TYPES,
    Consumer,
    Database,
    Inputs,
    Named,
    Part,
    PartitionSet,
    placed,
    rolls,
    target_of,
)

_NAMED = {t.section: t for t in TYPES.values() if isinstance(t, Named)}


def split(root: Mapping[str, Any], plane: str) -> list[Part]:
    """Give the parts of a faultless document; each stands for its records, together for the whole plane."""
    found: list[Part] = []
    templates: dict[str, Any] = {}
    for section, type_ in _NAMED.items():
        for name, node in (root.get(section) or {}).items():
            inputs = {"name": name, **_said(node)}
            if section == "streams":
                consumers, own = (_named(node, inside) for inside in ("consumers", "templates"))
                inputs = {k: v for k, v in inputs.items() if k not in ("consumers", "templates")}
                target = {"target": inputs["target"]} if "target" in inputs else {}
                if own:
                    templates[name] = {"templates": own, **target}
                for consumer, options in consumers.items():
                    whole = {"name": consumer, "stream": name, **target, **options}
                    found.append(Part(Consumer.name, f"{name}.{consumer}", whole))
            found.append(Part(type_.name, among_kin(name, inputs), inputs))
    found += _databases(root)
    # A section that says nothing gives all defaults.
    declared = {s: node for s in ("publishers", "runtime") if (node := root.get(s)) is not None}
    declared = {s: _named(root, s) if s == "publishers" else _said(node) for s, node in declared.items()}
    if templates:
        declared["templates"] = templates
    return [*found, Part(CONTRACT.name, plane, declared)]


def _databases(root: Mapping[str, Any]) -> Iterator[Part]:
    inputs: dict[str, dict[str, Any]] = {}
    for section in Database.sections:
        nodes = root.get(section)
        listed = isinstance(nodes, list)
        for name, node in enumerate(nodes or ()) if listed else (nodes or {}).items():
            node = _said(node)
            target = node.pop("target", "main") if isinstance(node, dict) else "main"
            part = inputs.setdefault(target, placed({}, target))
            if listed:
                part.setdefault(section, []).append(node)
            else:
                part.setdefault(section, {})[name] = node
    for target, part in inputs.items():
        yield from _partition_sets(part, target)
        yield Part(Database.name, target, part)


def _partition_sets(database: Mapping[str, Any], target: str) -> Iterator[Part]:
    """Take the policies out of a database's tables, and note the order of columns; its nodes are ours to change."""
    for schema, node in (database.get("schemas") or {}).items():
        for table, inside in (node.get("tables") or {}).items():
            if len(inside.get("columns") or ()) > 1:
                inside[COLUMN_ORDER] = list(inside["columns"])
            policy = inside.get("partitions")
            if rolls(policy):
                names = placed({"schema": schema, "table": table}, target)
                owner = {"managed": node["managed"]} if "managed" in node else {}
                inside["partitions"] = {k: policy[k] for k in LAYOUT if k in policy}
                # The layout is told here too: a table that is laid out anew has lost its partitions.
                yield Part(PartitionSet.name, among_kin(f"{schema}.{table}", names), {**names, **owner, **policy})


def among_kin(name: str, inputs: Inputs) -> str:
    """The name of a part among those of its type: of targets other than main, with the target."""
    target = target_of(inputs)
    return name if target == "main" else f"{target}/{name}"


def _said(node: Any) -> Any:
    """A deep copy of a node without what says nothing: null is the default everywhere in the language."""
    return {} if node is None else _copied(node)


def _named(node: Any, section: str) -> dict[str, Any]:
    """The named objects inside a node. One that says nothing is there all the same."""
    return {name: _said(inner) for name, inner in ((node or {}).get(section) or {}).items()}


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _copied(v) for k, v in value.items() if v is not None}
    return [_copied(v) for v in value] if isinstance(value, list) else value
