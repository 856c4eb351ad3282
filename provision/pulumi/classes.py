"""Writes the typed Python of the package, ``resources.py`` and ``inputs/``, from the package schema.

Objects are TypedDicts, enumerations Literals; a resource takes the keys of its TypedDict as keyword arguments.
"""

from __future__ import annotations

import keyword
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from provision.pulumi import schema
from provision.pulumi.naming import PACKAGE
from provision.spec.fields import Json

FOLDER = Path(__file__).parent
_WIDTH = 120
_NOTE = "# Made by `make generate` from the package schema.\n"
_PRIMITIVES = {"string": "str", "integer": "int", "number": "float", "boolean": "bool"}


class _Module(NamedTuple):
    """A module of ``inputs``: it holds the types from which others are made, and those that no earlier one has."""

    name: str
    doc: str
    roots: tuple[str, ...]


_MODULES = (
    _Module("streams", "Streams, and what buckets and object stores share with them.", ("StreamArgs",)),
    _Module("buckets", "Key-value buckets and object stores.", ("KeyValueBucketArgs", "ObjectStoreArgs")),
    _Module("consumers", "Consumers, and templates of them.", ("ConsumerArgs", "Template")),
    _Module("tables", "Tables with all that belongs to them.", ("Table", "PartitionSetArgs")),
    _Module("databases", "What else a database holds, and its roles.", ("PostgresDatabaseArgs", "RoleArgs")),
    _Module("plane", "What concerns a whole plane.", ("PoolArgs", "ContractArgs")),
    _Module("targets", "The provider and its targets.", ("ProviderArgs",)),
)


class _Types:
    """The types of the package under their Python names, with those of the arguments of each resource."""

    def __init__(self, package: Json) -> None:
        self.specs: dict[str, Json] = {token.rpartition(":")[2]: spec for token, spec in package["types"].items()}
        named = {token.rpartition(":")[2]: spec for token, spec in package["resources"].items()}
        for name, spec in {**named, "Provider": package["provider"]}.items():
            about = spec["description"].partition("\n")[0]
            self.specs[f"{name}Args"] = {
                "description": f"{'The' if name == 'Provider' else 'What makes a'} {name}: {about}",
                "properties": spec["inputProperties"],
                "required": spec["requiredInputs"],
                "arguments": True,
            }

    def needed(self, name: str) -> Iterator[str]:
        """The types that one is made of, those first that others need, itself last."""
        found: dict[str, None] = {}

        def visit(name: str) -> None:
            if name not in found:
                for spec in self.specs[name].get("properties", {}).values():
                    for inner in _referred(spec):
                        visit(inner)
                found[name] = None

        visit(name)
        yield from found


def _referred(spec: Json) -> Iterator[str]:
    if "$ref" in spec and spec["$ref"].startswith("#"):
        yield spec["$ref"].rpartition(":")[2]
    for inner in (*spec.get("oneOf", ()), spec.get("items"), spec.get("additionalProperties")):
        if isinstance(inner, dict):
            yield from _referred(inner)


def _input(spec: Json) -> str:
    """The Python type of what a program gives; what is inside may be an output of another resource."""
    if "oneOf" in spec:
        return " | ".join(dict.fromkeys(_input(form) for form in spec["oneOf"]))
    if "$ref" in spec:
        return next(_referred(spec), "Any")
    if spec["type"] == "array":
        return f"Sequence[Input[{_input(spec['items'])}]]"
    if spec["type"] == "object":
        return f"Mapping[str, Input[{_input(spec['additionalProperties'])}]]"
    return _PRIMITIVES[spec["type"]]


def _output(spec: Json, types: _Types) -> str:
    """The Python type of what the engine gives. Objects are anything, so that they can be given to other resources.

    Pulumi's SDK reads these annotations. It makes whole numbers integers only where they are nothing else, takes no
    union with anything but primitive types, and in its older versions none that is written with a bar.
    """
    if "oneOf" in spec:
        forms = [form.get("type") for form in spec["oneOf"]]
        if not set(forms) <= _PRIMITIVES.keys():
            return "Any"
        return f"Union[{', '.join('float' if form == 'integer' else _PRIMITIVES[form] for form in forms)}]"
    if "$ref" in spec:
        name = next(_referred(spec), "")
        return f"inputs.{name}" if "enum" in types.specs.get(name, {}) else "Any"
    if spec["type"] == "array":
        return f"list[{_output(spec['items'], types)}]"
    if spec["type"] == "object":
        return f"dict[str, {_output(spec['additionalProperties'], types)}]"
    return _PRIMITIVES[spec["type"]]


# Text ----------------------------------------------------------------------------------------------------


def _doc(text: str, indent: str = "    ") -> str:
    """A docstring; a long one is wrapped."""
    line = f'{indent}"""{text}"""'
    if len(line) <= _WIDTH and "\n" not in text:
        return line + "\n"
    paragraphs = [textwrap.wrap(part, _WIDTH - len(indent) - 6) for part in text.split("\n\n")]
    body = "\n\n".join("\n".join(f"{indent}{line}" for line in part) for part in paragraphs)
    ends = "\n" + indent if "\n" in text else ""
    return f'{indent}"""{body.removeprefix(indent)}{ends}"""\n'


def _enum(name: str, spec: Json) -> str:
    values = ", ".join(f'"{entry["value"]}"' for entry in spec["enum"])
    line = f"{name} = Literal[{values}]\n"
    return line if len(line) <= _WIDTH + 1 else f"{name} = Literal[\n    {values}\n]\n"


def _object(name: str, spec: Json) -> str:
    is_argument = spec.get("arguments", False)
    rows = {}
    for option, property in spec["properties"].items():
        type_ = f"Input[{_input(property)}]"
        if option in spec.get("required", ()):
            type_ = f"Required[{type_}]"
        elif is_argument:
            type_ += " | None"
        rows[option] = type_, property["description"]
    if any(keyword.iskeyword(option) for option in rows):
        return _by_call(name, spec["description"], rows)
    fields = "".join(f"    {option}: {type_}\n{_doc(doc)}" for option, (type_, doc) in rows.items())
    return f"class {name}(TypedDict, total=False):\n{_doc(spec['description'])}\n{fields}"


def _by_call(name: str, doc: str, rows: Mapping[str, tuple[str, str]]) -> str:
    """A TypedDict with a key that no attribute can have."""
    fields = "".join(f'        # {doc}\n        "{option}": {type_},\n' for option, (type_, doc) in rows.items())
    return f'#: {doc}\n{name} = TypedDict(\n    "{name}",\n    {{\n{fields}    }},\n    total=False,\n)\n'


def _module(doc: str, names: Iterable[str], types: _Types, homes: Mapping[str, str], home: str) -> str:
    blocks = [_enum(n, types.specs[n]) if "enum" in types.specs[n] else _object(n, types.specs[n]) for n in names]
    body = "".join(_spaced(blocks))
    elsewhere: dict[str, set[str]] = {}
    for name in names:
        for spec in types.specs[name].get("properties", {}).values():
            for inner in _referred(spec):
                if homes[inner] != home:
                    elsewhere.setdefault(homes[inner], set()).add(inner)
    collections = _used(body, "Mapping", "Sequence")
    typing = _used(body, "Any", "Literal", "Required", "TypedDict")
    head = [f"from collections.abc import {collections}\n"] if collections else []
    head += [f"from typing import {typing}\n", "\nfrom pulumi import Input\n"]
    if elsewhere:
        head += ["\n", *(_import(module, elsewhere[module]) for module in sorted(elsewhere))]
    return f'"""{doc}"""\n\n{_NOTE}\n{"".join(head)}\n{body}'


def _spaced(blocks: list[str]) -> Iterator[str]:
    """Classes stand two empty lines apart, aliases that follow each other none."""
    for position, block in enumerate(blocks):
        is_alias = not block.startswith("class ")
        follows_alias = position > 0 and not blocks[position - 1].startswith("class ")
        yield ("" if is_alias and (follows_alias or position == 0) else "\n\n" if position else "\n") + block


def _used(body: str, *names: str) -> str:
    """Those of the names that the code mentions, not its docstrings and comments."""
    code = re.sub(r'""".*?"""|#[^\n]*', "", body, flags=re.DOTALL)
    return ", ".join(name for name in names if re.search(rf"\b{name}\b", code))


def _import(module: str, names: Iterable[str]) -> str:
    ordered = sorted(names, key=str.casefold)
    start = f"from provision.pulumi.inputs.{module} import "
    line = f"{start}{', '.join(ordered)}\n"
    if len(line) <= _WIDTH + 1:
        return line
    lines = "".join(f"    {name},\n" for name in ordered)
    return f"{start}(\n{lines})\n"


# Files ---------------------------------------------------------------------------------------------------


def _inputs(types: _Types) -> dict[str, str]:
    homes: dict[str, str] = {}
    for module in _MODULES:
        for root in module.roots:
            for name in types.needed(root):
                homes.setdefault(name, module.name)
    held = {m.name: [name for name, home in homes.items() if home == m.name] for m in _MODULES}
    files = {f"inputs/{m.name}.py": _module(m.doc, held[m.name], types, homes, m.name) for m in _MODULES}
    imports = "".join(_import(module, held[module]) for module in sorted(held))
    names = "".join(f'    "{name}",\n' for name in sorted(homes))
    head = '"""What programs give to resources, as types."""\n'
    files["inputs/__init__.py"] = f"{head}\n{_NOTE}\n{imports}\n__all__ = [\n{names}]\n"
    return files


def _class(name: str, spec: Json, types: _Types, base: str) -> str:
    rows = ""
    for option, property in spec["properties"].items():
        type_ = _output(property, types)
        is_set = option in spec["required"] or type_ == "Any"
        rows += f"    {option}: Output[{type_ if is_set else f'Optional[{type_}]'}]\n"
    call = f"self, resource_name: str, opts: ResourceOptions | None = None, **arguments: Unpack[inputs.{name}Args]"
    return (
        f"class {name}({base}, arguments=inputs.{name}Args):\n{_doc(spec['description'])}\n{rows}\n"
        f"    def __init__(\n        {call}\n    ) -> None:\n"
        "        super().__init__(resource_name, opts, **arguments)\n"
    )


def _resources(package: Json, types: _Types) -> str:
    classes = [
        _class(token.rpartition(":")[2], spec, types, "Resource") for token, spec in package["resources"].items()
    ]
    classes.append(_class("Provider", package["provider"], types, "ProviderResource"))
    head = (
        f'"""The resources of package {PACKAGE} as Python classes. What they take stands in ``inputs``."""\n\n{_NOTE}'
        "# ruff: noqa: UP007, UP045 - what older SDKs of Pulumi read at run time\n\n"
        "from __future__ import annotations\n\nfrom typing import Any, Optional, Union, Unpack\n\n"
        "from pulumi import Output, ResourceOptions\n\nfrom provision.pulumi import inputs\n"
        "from provision.pulumi.custom import ProviderResource, Resource\n"
    )
    return "\n\n".join([head, *classes])


def files() -> dict[str, str]:
    """Every generated module by its path from this folder."""
    package: dict[str, Any] = schema.package()
    types = _Types(package)
    return {"resources.py": _resources(package, types), **_inputs(types)}


def main() -> int:
    """Write the modules."""
    for path, text in files().items():
        (FOLDER / path).parent.mkdir(exist_ok=True)
        (FOLDER / path).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
