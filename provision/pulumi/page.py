"""The reference page of the Pulumi package, made of its schema. ``make generate`` writes it to ``FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

from provision import registry
from provision.pulumi import schema
from provision.pulumi.schema import RESOURCES, Resource
from provision.reconcile.parts import CONTRACT, TYPES
from provision.reference import PLACES
from provision.spec.fields import Json

FOLDER = Path("docs/reference/pulumi")
_HEAD = """\
<!-- Made by `make generate` from the package schema. -->
# Pulumi package holdfast

The objects of a plane as resources. Options have the names and the forms that they have in specs; an option that is
left out has its default. A text that specs take from a file (`file:`) is read by the program.

- In Python: the classes of `provision.pulumi.resources`, and the types of `provision.pulumi.inputs` for what they take.
- In other languages: the SDK that `pulumi package gen-sdk` makes of `pulumi-resource-holdfast`.
- To import an object, or to read one with `get`: its id is its address.

## Resources

| resource | | id | options |
|---|---|---|---|
"""
_CONFIGURED = "A stack's default provider takes them from its configuration: `holdfast:plane` and so on."


def text() -> str:
    """Give the page."""
    package = schema.package()
    rows = [f"| `{r.name}` | {r.what} | `{r.id}` | {_options(r, package['resources'][r.token])} |" for r in RESOURCES]
    contract = package["resources"][RESOURCES[-1].token]
    outputs: Json = {}
    for resource in package["resources"].values():
        outputs |= {name: p for name, p in resource["properties"].items() if name not in resource["inputProperties"]}
    provider = package["provider"]
    parts = [
        _HEAD + "\n".join(rows),
        "Every resource has these outputs, besides what it takes (`part` all but the contract, `content` it alone):",
        _table(outputs, (), "output"),
        "## Contract",
        _table(contract["inputProperties"], contract["requiredInputs"], "input"),
        "## Provider",
        f"{provider['description']} {_CONFIGURED}",
        _table(provider["inputProperties"], provider["requiredInputs"], "input"),
    ]
    return "\n\n".join(parts) + "\n"


def _options(resource: Resource, spec: Json) -> str:
    """Where the options of a resource are described, and the names that place it."""
    if resource.name == CONTRACT.name:
        return "[below](#contract)"
    placing = ", ".join(f"`{name}`" for name in TYPES[resource.name].identity)
    kind = next((kind for kind, place in PLACES.items() if place.paths[:1] == (resource.path,)), None)
    if kind is None:
        sections = [name for name in spec["inputProperties"] if name != "target"]
        return f"{placing}; " + ", ".join(f"`{name}` of [{name[:-1]}](../{name[:-1]}.md)" for name in sections)
    table = registry.kinds()[kind].fields
    left = [f"`{name}`" for name in (*table.fields, *table.extra) if name not in spec["inputProperties"]]
    return f"{placing}; those of [{kind}](../{kind}.md){' but ' + ', '.join(left) if left else ''}"


def _table(properties: Json, required: tuple[str, ...] | list[str], title: str) -> str:
    lines = [f"| {title} | |", "|---|---|"]
    for name, spec in properties.items():
        lines.append(f"| `{name}` | {spec['description']}{' Required.' if name in required else ''} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Write the page into the folder that the argument names."""
    given = sys.argv[1:] if arguments is None else arguments
    folder = Path(given[0]) if given else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
