"""No input makes the loader or the reader raise: what is wrong becomes diagnostics, in every form of output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from provision.spec import render
from provision.spec.diagnostic import Mark
from provision.spec.document import Document
from provision.spec.files import File, Inputs
from provision.spec.reading import Reading, read
from tests.spec.sections import SECTIONS

WORDS = st.sampled_from(
    "streams schemas functions consumers body file env subjects max_age max_bytes replicas placement tags metadata "
    "targets nats postgres main kind dsn urls endpoints plane override password keys A B".split()
)
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=5),
    st.sampled_from(["1d", "30 days", "1GiB", "external", "<<", "${X}", "a.>"]),
)  # fmt: skip
TREES = st.recursive(
    VALUES,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, max_size=4)),
    max_leaves=25,
)
SPECS = st.dictionaries(WORDS, TREES, max_size=4)


def outcome(*texts: bytes, environment: bytes | None = None) -> tuple[Document, Reading]:
    files = tuple(File(f"f{i}.yaml", Path(f"f{i}.yaml"), text) for i, text in enumerate(texts))
    over = None if environment is None else File("dev.yaml", Path("dev.yaml"), environment)
    document = Document(Inputs(Path(), None if over is None else "dev", files, over))
    return document, read(document, SECTIONS)


def shown(document: Document, reading: Reading) -> None:
    render.text(reading.diagnostics, document.line, color=True)
    render.github(reading.diagnostics)
    assert len(json.loads(render.as_json(reading.diagnostics))["diagnostics"]) == len(set(reading.diagnostics))
    json.loads(render.sarif(reading.diagnostics))
    for diagnostic in reading.diagnostics:
        line = document.line(diagnostic.mark)
        assert 0 <= diagnostic.mark.column - 1 <= len(line), diagnostic


def dump(tree: Any) -> bytes:
    return yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "replace")


@pytest.mark.req("B1.5")
@settings(max_examples=200, deadline=None)
@given(SPECS, SPECS, SPECS)
def test_any_values_are_read_or_refused(first: Any, second: Any, over: Any) -> None:
    shown(*outcome(dump(first), dump(second)))
    shown(*outcome(dump(first), environment=dump({"override": over, "targets": second})))


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=60), st.text("ab:-[]{}&*!|>'\"%@`#,? \n\t$<\\é\u2028\x85\ufeff", max_size=60)))
def test_any_bytes_are_read_or_refused(data: bytes | str) -> None:
    shown(*outcome(data if isinstance(data, bytes) else data.encode()))


@pytest.mark.parametrize("escape", ["\\ud800", "\\0", "\\x07", "\\uFFFE"])
def test_odd_escapes_are_read_or_refused(escape: str) -> None:
    text = f'plane: agents\nstreams: {{A: {{subjects: ["{escape}"], "{escape}": 1, max_age: "{escape}"}}}}\n'
    document, reading = outcome(text.encode())
    assert any(d.severity == "error" for d in reading.diagnostics)
    assert "\x07" not in render.text(reading.diagnostics, lambda mark: document.line(Mark(*mark)))
