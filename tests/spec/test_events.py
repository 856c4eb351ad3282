"""The loader reads YAML by the 1.2 core schema and knows where everything stands."""

from __future__ import annotations

import gc
import math
import re
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from provision.spec.events import parse
from provision.spec.record import Pointer
from provision.spec.source import Source

#: The tag resolution table of YAML 1.2.2, section 10.3.2, row by row.
CORE_SCHEMA: tuple[tuple[str, Any], ...] = (
    (r"null|Null|NULL|~|", lambda text: None),
    (r"true|True|TRUE|false|False|FALSE", lambda text: text.lower() == "true"),
    (r"[-+]?[0-9]+", int),
    (r"0o[0-7]+", lambda text: int(text, 0)),
    (r"0x[0-9a-fA-F]+", lambda text: int(text, 0)),
    (r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", float),
    (r"[-+]?(\.inf|\.Inf|\.INF)", lambda text: -math.inf if text[0] == "-" else math.inf),
    (r"\.nan|\.NaN|\.NAN", lambda text: math.nan),
)


def core(text: str) -> Any:
    return next((read(text) for pattern, read in CORE_SCHEMA if re.fullmatch(pattern, text)), text)


def compose(text: str) -> Any:
    return yaml.compose(text, Loader=yaml.SafeLoader)


def by_nodes(node: yaml.Node) -> Any:
    """What PyYAML's own node tree means under the core schema."""
    if isinstance(node, yaml.MappingNode):
        return {key.value: by_nodes(value) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [by_nodes(item) for item in node.value]
    assert isinstance(node, yaml.ScalarNode)
    return node.value if node.style else core(node.value)


def same(left: Any, right: Any) -> bool:
    if isinstance(left, dict) and isinstance(right, dict):
        return list(left) == list(right) and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float) and isinstance(right, float) and math.isnan(left):
        return math.isnan(right)
    return type(left) is type(right) and left == right


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=12)
KEYS = st.one_of(st.from_regex(r"[a-z][a-z_-]{0,8}", fullmatch=True), TEXT.map(lambda text: f"k{text}"))
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), TEXT)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=20,
)
DOCUMENTS = st.dictionaries(KEYS, TREES, max_size=5)


@pytest.mark.req("B1.1")
@settings(max_examples=150, deadline=None)
@given(DOCUMENTS, st.booleans(), st.booleans())
def test_any_document_is_read_by_the_core_schema(document: dict[str, Any], flow: bool, wide: bool) -> None:
    text = yaml.safe_dump(document, default_flow_style=flow, allow_unicode=True, width=9999 if wide else 20)
    source = parse(text, "f.yaml")
    if not any(d.code == "HF0106" for d in source.diagnostics):
        assert same(source.root, by_nodes(compose(text)))


@settings(max_examples=400, deadline=None)
@given(st.text("0123456789-+.eExobinfaNIFntrul~_:", max_size=8))
def test_any_plain_scalar_is_resolved_by_the_core_schema(scalar: str) -> None:
    text = f"k: {scalar}\n"
    try:
        node = compose(text)
    except yaml.YAMLError:
        return
    source = parse(text, "f.yaml")
    if isinstance(node.value[0][1], yaml.ScalarNode) and node.value[0][1].style is None and source.complete:
        assert same(source.root["k"], core(node.value[0][1].value))
        zero = re.fullmatch(r"[-+]?0[0-9].*", scalar.strip()) and not isinstance(source.root["k"], str)
        assert bool(zero) == any(d.code == "HF0107" for d in source.diagnostics)


def leaves(node: Any, pointer: Pointer = ()) -> Any:
    if isinstance(node, (dict, list)):
        for step, inner in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(inner, (*pointer, step))
    elif pointer:
        yield pointer, node


def text_at(source: Source, pointer: Pointer, *, key: bool = False) -> str:
    mark = source.locate(pointer, key=key)
    return source.line(mark.line)[mark.column - 1 : mark.column - 1 + mark.width]


@pytest.mark.req("B1.1")
@settings(max_examples=150, deadline=None)
@given(DOCUMENTS, st.booleans())
def test_the_place_of_every_value_and_key_holds_its_text(document: dict[str, Any], flow: bool) -> None:
    text = yaml.safe_dump(document, default_flow_style=flow, allow_unicode=True, width=99999)
    source = parse(text, "f.yaml")
    if source.diagnostics:
        return

    def alone(written: str) -> Any:
        node = compose(f"[{written}]" if flow else f"- {written}").value[0]
        return by_nodes(node)

    for pointer, value in leaves(source.root):
        written = text_at(source, pointer)
        if not written.startswith(("|", ">")):
            assert same(alone(written), value), (pointer, written)
        if isinstance(pointer[-1], str):
            assert alone(text_at(source, pointer, key=True)) == pointer[-1]


def test_booleans_of_yaml_1_1_are_texts() -> None:
    source = parse("on: [yes, no, off, On, y, n, 1_000, 0b1, 12:30:45, 2026-01-01]", "f")
    assert source.root == {"on": "yes no off On y n 1_000 0b1 12:30:45 2026-01-01".split()}


def test_an_alias_is_the_value_of_its_anchor_and_keeps_its_place() -> None:
    source = parse("a: &x {b: 1, c: [2]}\nd: *x\ne: 5\n", "f")
    assert source.root == {"a": {"b": 1, "c": [2]}, "d": {"b": 1, "c": [2]}, "e": 5}
    assert str(source.locate(("d",))) == "f:2:4"
    assert str(source.locate(("d", "c", 0))) == "f:1:18"
    assert str(source.locate(("e",))) == "f:3:4"


def test_places_stay_right_behind_a_refused_key() -> None:
    text = "a: 1\na: {x: [1, 2]}\n1: {y: 3}\n<<: {z: [4]}\n? {q: 1}\n: r\nb: {{ t }}\nc: last\n"
    source = parse(text, "f")
    assert source.root == {"a": 1, "b": None, "c": "last"}
    assert str(source.locate(("b",))) == "f:7:4"
    assert (str(source.locate(("c",))), text_at(source, ("c",))) == ("f:8:4", "last")
    assert [d.code for d in source.diagnostics] == ["HF0102", "HF0109", "HF0104", "HF0109", "HF0106"]


def test_windows_line_ends_and_a_byte_order_mark_do_not_move_places() -> None:
    source = parse("\ufeffa: 1\r\nb:\r\n  c: x\r\n", "f")
    assert str(source.locate(("b", "c"))) == "f:3:6"
    assert source.line(3) == "  c: x"


def test_a_null_that_is_not_written_is_placed_at_its_key() -> None:
    source = parse("a:\nb: {c: , d: 1}\n", "f")
    assert [str(source.locate(p)) for p in (("a",), ("b", "c"))] == ["f:1:1", "f:2:5"]


def test_a_character_inside_a_text_is_found_on_its_own_line() -> None:
    source = parse("f:\n  body: |\n    SELECT 1\n      FROM x\n  one: SELECT 2\n  two: 'SELECT 3'\n", "f")
    body = source.value(("f", "body"))
    assert str(source.locate_text(("f", "body"), body.index("FROM"))) == "f:4:7"
    assert str(source.locate_text(("f", "one"), 7)) == "f:5:15"
    assert str(source.locate_text(("f", "two"), 7)) == "f:6:16"


def test_the_collector_is_on_again_after_a_load_even_of_a_broken_file() -> None:
    assert gc.isenabled()
    for text in ("a: 1", "a: [", "- a"):
        parse(text, "f")
        assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        parse("a: 1", "f")
        assert not gc.isenabled()
    finally:
        gc.enable()
