"""One plain sentence for each thing a JSON Schema refuses, and the exact place of it. Pure.

The forms of an option (a nullable, a short and a long form) are ``anyOf`` to JSON Schema. Here the form that
the writer meant is picked, and only what is wrong with that one is told.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from provision.spec import units
from provision.spec.nearest import closest
from provision.spec.record import Pointer

Json = Mapping[str, Any]
_MANY = 14
_TYPES = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "null",
}
_UNITS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    units.DURATION_PATTERN: ("a duration such as 30s or 1h", units.duration_ns),
    units.SIZE_PATTERN: ("a size such as 512MiB", units.size_bytes),
    units.INTERVAL_PATTERN: ("a calendar interval such as 1 day", units.interval),
}
#: YAML 1.1 took these for booleans, and so do people.
_BOOLEANS = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}


class Finding(NamedTuple):
    """A refusal: where, and in which words. ``remove`` is the node to leave out so that the rest is read."""

    code: str
    pointer: Pointer
    message: str
    help: str
    remove: Pointer
    at_key: bool = False


def explain(error: Any, schema: Json) -> Iterator[Finding]:
    """Put one jsonschema-rs error into words: at least one finding, several for several wrong keys."""
    pointer: Pointer = tuple(error.instance_path)
    found = False
    for finding in _explain(error, pointer, schema):
        found = True
        yield finding
    if not found:
        yield Finding("HF0209", pointer, f"{_label(pointer)}: {error.message[:200]}", "", pointer)


def _explain(error: Any, pointer: Pointer, schema: Json) -> Iterator[Finding]:
    node = _subschema(schema, error.schema_path[:-1])
    kind = error.kind
    if _is_choice(error):
        yield from _explain_forms(error, pointer, schema)
    elif kind.name == "oneOf":
        yield _one_form_only(pointer, node)
    elif kind.name == "additionalProperties":
        for key in kind.unexpected:
            yield _unknown_key(pointer, key, node)
    elif kind.name == "propertyNames":
        yield _bad_name(pointer, kind.error, node)
    elif kind.name == "required":
        yield _missing_key(pointer, kind.property, node)
    else:
        yield _wrong_value(pointer, kind.name, error.instance, node, error.message)


def _subschema(schema: Any, path: Any) -> Json:
    for step in path:
        schema = schema[step]
    return schema if isinstance(schema, Mapping) else {}


def _is_choice(error: Any) -> bool:
    """Whether no form of a choice fits. (That more than one of oneOf fits is another mistake.)"""
    return error.kind.name in ("anyOf", "oneOf") and type(error.kind).__name__ != "OneOfMultipleValid"


class _Form(NamedTuple):
    schema: Json
    errors: list[Any]


def _forms(error: Any, schema: Json) -> Iterator[_Form]:
    """The forms an option may take, nested choices laid flat, with what speaks against each."""
    branches = _subschema(schema, error.schema_path[:-1])[error.kind.name]
    for branch, errors in zip(branches, error.kind.context, strict=True):
        if len(errors) == 1 and _is_choice(errors[0]) and errors[0].instance_path == error.instance_path:
            yield from _forms(errors[0], schema)
        elif branch != {"type": "null"}:
            yield _Form(branch, errors)


def _explain_forms(error: Any, pointer: Pointer, schema: Json) -> Iterator[Finding]:
    forms = list(_forms(error, schema))
    if all(_is_secret(form.schema) for form in forms) and not isinstance(error.instance, dict):
        yield _plain_secret(pointer)
        return
    if all(form.schema.keys() == {"required"} for form in forms):
        yield _missing_choice(pointer, [key for form in forms for key in form.schema["required"]])
        return
    fitting = [f for f in forms if not any(_rejects_type(e, error) for e in f.errors)]
    if len(forms) > 1 and not fitting:
        yield _wrong_forms(pointer, error.instance, [f.schema for f in forms])
        return
    if len(fitting) > 1 and not isinstance(error.instance, (dict, list)):
        yield _wrong_forms(pointer, error.instance, [f.schema for f in fitting])
        return
    chosen = min(fitting or forms, key=_distance)
    for inner in chosen.errors:
        yield from explain(inner, schema)


def _distance(form: _Form) -> tuple[int, int]:
    """How far a form is from what was written: the one with the fewest foreign keys was meant."""
    foreign = sum(len(e.kind.unexpected) for e in form.errors if e.kind.name == "additionalProperties")
    return foreign, len(form.errors)


def _rejects_type(error: Any, outer: Any) -> bool:
    if error.instance_path != outer.instance_path:
        return False
    if error.kind.name == "const":
        return not isinstance(error.instance, str)
    if error.kind.name == "enum":
        return not isinstance(error.instance, str)
    return bool(error.kind.name == "type")


def _label(pointer: Pointer) -> str:
    """Name a place in a message: ``max_age``, ``subjects[2]``."""
    label = ""
    for step in reversed(pointer):
        label = f"[{step}]{label}" if isinstance(step, int) else f"{step}{label}"
        if isinstance(step, str):
            break
    return label or "the document"


#: Sections whose objects keep their names for life.
_NEVER_RENAMED = (("streams",), ("buckets",), ("object_stores",))


def _unknown_key(pointer: Pointer, key: str, node: Json) -> Finding:
    known = list(node.get("properties", {}))
    near = closest(key, known)
    if near is not None:
        help = f"Did you mean {near}?"
    elif key == "renamed_from" and pointer[:1] in _NEVER_RENAMED:
        help = "NATS cannot rename: declare the new one, copy what the old one holds, then take the old one out."
    elif len(known) <= _MANY:
        help = f"Known here: {', '.join(known)}." if known else "Take it out."
    else:
        help = "Take it out, or look the option up in the reference."
    place = (*pointer, key)
    message = f"unknown key {key}: {_label(pointer)} has no such option" if pointer else f"unknown section {key}"
    return Finding("HF0201", place, message, help, place, True)


def _missing_key(pointer: Pointer, key: str, node: Json) -> Finding:
    wanted = node.get("properties", {}).get(key)
    help = f"Add {key}: {expectation(wanted)}." if wanted else f"Add {key}."
    return Finding("HF0206", pointer, f"{_label(pointer)} lacks {key}", help, pointer, True)


def _missing_choice(pointer: Pointer, keys: list[str]) -> Finding:
    listed = " or ".join(dict.fromkeys(keys))
    return Finding("HF0206", pointer, f"{_label(pointer)} lacks {listed}", f"Add {listed}.", pointer, True)


def _is_secret(schema: Json) -> bool:
    return set(schema.get("properties", ())) == {"env", "file"}


def _plain_secret(pointer: Pointer) -> Finding:
    """The value is not shown: it may be the secret."""
    message = f"{_label(pointer)} takes a reference, never the secret itself"
    return Finding("HF0133", pointer, message, "Write {env: NAME} or {file: path}.", pointer)


def _bad_name(pointer: Pointer, inner: Any, node: Json) -> Finding:
    name = inner.instance
    names = node.get("propertyNames", node)
    place = (*pointer, name)
    help = names.get("description") or f"A name here matches {names.get('pattern', 'another form')}."
    return Finding("HF0207", place, f"{name} cannot be a name in {_label(pointer)}", help, place, True)


def _one_form_only(pointer: Pointer, node: Json) -> Finding:
    keys = [key for branch in node.get("oneOf", ()) for key in branch.get("required", ())]
    listed = " or ".join(keys) or "its forms"
    return Finding("HF0209", pointer, f"{_label(pointer)} takes either {listed}, not both", "Keep one.", pointer)


def _wrong_forms(pointer: Pointer, value: Any, forms: list[Json]) -> Finding:
    """None of several forms: name them all in one sentence."""
    for form in forms:
        if form.get("pattern") in _UNITS:
            return _wrong_unit(pointer, value, form["pattern"])
    words = list(dict.fromkeys(expectation(form) for form in forms))
    enums = [option for form in forms for option in form.get("enum", ())]
    code = "HF0204" if enums and isinstance(value, str) else "HF0202"
    help = _near(value, enums) or next((h for form in forms if (h := _quote_help(form, value))), "")
    return Finding(code, pointer, _takes(pointer, " or ".join(words), value), help, pointer)


def _wrong_unit(pointer: Pointer, value: Any, pattern: str) -> Finding:
    words, parse = _UNITS[pattern]
    help = ""
    try:
        parse(value)
    except (units.UnitError, TypeError) as error:
        help = getattr(error, "help", "")
    if pattern == units.DURATION_PATTERN and isinstance(value, int) and not isinstance(value, bool) and value > 0:
        help = f"{help} {value} seconds are {units.format_duration(value * 10**9)}."
    if isinstance(value, str) and (fixed := _respelled(value, pattern)) is not None:
        help = f"Write {fixed}."
    return Finding("HF0203", pointer, _takes(pointer, words, value), help, pointer)


_SPELLINGS = {
    units.DURATION_PATTERN: {
        **dict.fromkeys(("sec", "secs", "second", "seconds"), "s"),
        **dict.fromkeys(("min", "mins", "minute", "minutes"), "m"),
        **dict.fromkeys(("hr", "hrs", "hour", "hours"), "h"),
        **dict.fromkeys(("day", "days"), "d"),
        **dict.fromkeys(("week", "weeks"), "w"),
        **dict.fromkeys(("millisecond", "milliseconds", "msec"), "ms"),
    },
    units.SIZE_PATTERN: {
        **dict.fromkeys(("k", "kb", "ki"), "KiB"),
        **dict.fromkeys(("m", "mb", "mi"), "MiB"),
        **dict.fromkeys(("g", "gb", "gi"), "GiB"),
        **dict.fromkeys(("t", "tb", "ti"), "TiB"),
        **dict.fromkeys(("kib",), "KiB"),
        **dict.fromkeys(("mib",), "MiB"),
        **dict.fromkeys(("gib",), "GiB"),
        **dict.fromkeys(("tib",), "TiB"),
    },
    units.INTERVAL_PATTERN: {"h": "hour", "d": "day", "w": "week", "y": "year"},
}


def _respelled(value: str, pattern: str) -> str | None:
    """The same quantity as this language writes it, where that is plain."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", value)
    if match is None:
        return None
    number, unit = match.groups()
    for spelling in (unit, _SPELLINGS[pattern].get(unit.lower(), unit), unit.lower()):
        for candidate in (f"{number}{spelling}", f"{number} {spelling}"):
            if candidate != value and re.match(pattern, candidate):
                return candidate
    return None


def _wrong_value(pointer: Pointer, keyword: str, value: Any, node: Json, fallback: str) -> Finding:
    if keyword == "pattern" and node["pattern"] in _UNITS:
        return _wrong_unit(pointer, value, node["pattern"])
    if keyword == "type":
        help = _type_help(node, value)
        return Finding("HF0202", pointer, _takes(pointer, expectation(node), value), help, pointer)
    if keyword in ("enum", "const"):
        options = node.get("enum", [node.get("const")])
        return Finding("HF0204", pointer, _takes(pointer, expectation(node), value), _near(value, options), pointer)
    if keyword in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"):
        return Finding("HF0205", pointer, _takes(pointer, expectation(node), value), "", pointer)
    if keyword == "pattern":
        message = f"{_label(pointer)} cannot be {shown(value)}"
        help = node.get("description") or f"It must match {node['pattern']}."
        return Finding("HF0207", pointer, message, help, pointer)
    if keyword in _COUNTS:
        message = f"{_label(pointer)} {_COUNTS[keyword].format(node.get(keyword))}"
        return Finding("HF0208", pointer, message, "", pointer)
    return Finding("HF0209", pointer, f"{_label(pointer)}: {fallback[:200]}", "", pointer)


_COUNTS = {
    "minLength": "must not be shorter than {} characters",
    "maxLength": "must not be longer than {} characters",
    "minItems": "needs at least {} items",
    "maxItems": "takes at most {} items",
    "minProperties": "needs at least {} entries",
    "maxProperties": "takes at most {} entries",
    "uniqueItems": "holds an item twice",
}


def _takes(pointer: Pointer, words: str, value: Any) -> str:
    return f"{_label(pointer)} takes {words}, not {shown(value)}"


def _type_help(node: Json, value: Any) -> str:
    if node.get("type") == "boolean" and (near := _BOOLEANS.get(str(value).lower())) is not None:
        return f"Write {near}: in YAML 1.2 {value} is a text."
    if node.get("type") in ("integer", "number") and isinstance(value, str) and re.fullmatch(r"-?[0-9]+", value):
        return f"Take the quotes away: {value}."
    return _quote_help(node, value)


def _quote_help(node: Json, value: Any) -> str:
    if node.get("type") == "string" and isinstance(value, (int, float)) and not isinstance(value, bool):
        return f'Quote it if it is meant as text: "{shown(value)}".'
    return ""


def _near(value: Any, options: list[Any]) -> str:
    found = closest(value, [o for o in options if isinstance(o, str)]) if isinstance(value, str) else None
    return f"Did you mean {found}?" if found is not None else ""


def shown(value: Any) -> str:
    """Show a value in a message, short and on one line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = str(value).replace("\n", "⏎")
    text = text if len(text) <= 40 else f"{text[:39]}…"
    return f'"{text}"' if isinstance(value, str) else text


def expectation(schema: Json) -> str:
    """Say in a few words what a schema takes: ``a duration such as 30s``, ``one of file, memory``."""
    if _is_secret(schema):
        return "a reference {env: NAME} or {file: path}"
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema and "type" not in schema:
            forms = [expectation(form) for form in schema[keyword] if form != {"type": "null"}]
            if any("duration" in f or "size" in f for f in forms):
                forms = [f for f in forms if "duration" in f or "size" in f]
            return " or ".join(dict.fromkeys(forms))
    if schema.get("pattern") in _UNITS:
        return _UNITS[schema["pattern"]][0]
    if "enum" in schema:
        options = [shown(o).strip('"') for o in schema["enum"]]
        return f"one of {', '.join(options)}"
    if "const" in schema:
        return shown(schema["const"]).strip('"')
    types = schema.get("type", "object")
    if isinstance(types, list):
        return " or ".join(_TYPES[t] for t in types if t != "null")
    if types in ("integer", "number") and ("minimum" in schema or "maximum" in schema):
        return _range(_TYPES[types], schema)
    if types == "array" and isinstance(items := schema.get("items"), Mapping) and "type" in items:
        noun = items["type"]
        return f"a list of {_PLURALS.get(noun, 'values') if isinstance(noun, str) else 'values'}"
    return _TYPES[types]


_PLURALS = {
    "string": "texts",
    "integer": "whole numbers",
    "number": "numbers",
    "object": "mappings",
    "array": "lists",
}


def _range(noun: str, schema: Json) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f"{noun} from {low} to {high}"
    return f"{noun}, at least {low}" if low is not None else f"{noun}, at most {high}"
