"""All rules together cost less than reading the specs, and grow with the plane, not with its square."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from time import process_time

import pytest

from provision import registry
from provision.checks.registry import run
from provision.spec import document, reading
from tests.checks.specs import load


def _tables(count: int) -> Iterator[str]:
    yield "plane: large\nschemas:\n  shop:\n    tables:\n"
    for t in range(count):
        columns = ", ".join(f"c{c}: {{type: varchar(40), nullable: false, default: \"''\"}}" for c in range(9))
        yield (
            f"      t{t}:\n        columns: {{id: {{type: bigint, identity: always}}, ref: {{type: bigint}},\n"
            f"          at: {{type: timestamptz, default: now()}}, {columns}}}\n"
            f"        primary_key: [id]\n"
            f"        foreign_keys: {{t{t}_fk: {{columns: [ref], references: shop.t{max(t - 1, 0)}}}}}\n"
            f"        checks: {{t{t}_ck: length(c0) > {t} AND c1 <> ''}}\n"
            f"        indexes: {{t{t}_a: {{columns: [c0, at]}}, t{t}_b: {{columns: [ref]}}}}\n"
        )


def _streams(count: int) -> str:
    consumers = "{{c: {{ack_policy: explicit, filter_subject: s{0}.a}}}}"
    stream = f"  S{{0}}: {{{{subjects: [s{{0}}.>], max_age: 1d, consumers: {consumers}}}}}\n"
    streams = "".join(stream.format(i) for i in range(count))
    buckets = "".join(f"  B{i}: {{ttl: 30m}}\n" for i in range(count))
    return f"plane: large\nstreams:\n{streams}buckets:\n{buckets}"


def test_checking_costs_less_than_reading(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text("".join(_tables(400)), encoding="utf-8")
    started = process_time()
    loaded = document.load(tmp_path)
    read = reading.read(loaded, registry.sections())
    reading_s = process_time() - started
    assert read.diagnostics == ()
    started = process_time()
    assert run(read.plane, loaded, {}) == []
    assert process_time() - started < reading_s


@pytest.mark.parametrize("text", [_streams, lambda n: "".join(_tables(n // 2))], ids=["streams", "tables"])
def test_the_cost_grows_with_the_size_of_the_plane(text: Callable[[int], str], tmp_path: Path) -> None:
    def seconds(count: int) -> float:
        folder = tmp_path / str(count)
        folder.mkdir()
        loaded = load(folder, text(count))
        best = 1e9
        for _ in range(3):
            gc.collect()
            started = process_time()
            assert loaded.check() == []
            best = min(best, process_time() - started)
        return best

    seconds(50)
    # Four times the plane: a quadratic rule would make it sixteen times the time.
    assert seconds(1200) < 9 * seconds(300)
