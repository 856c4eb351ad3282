"""A cache hit gives the same answer as reading anew, and nothing else ever gives a hit."""

# ruff: noqa: E501  (a table reads best with one case on a line)

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from provision.spec import cache, layers
from provision.spec.cache import read_specs
from provision.spec.document import Document
from provision.spec.files import File
from provision.spec.reading import Reading
from provision.spec.source import Source
from tests.spec.sections import SECTIONS, Schemas, Streams, write

FILES = {
    "plane.yaml": "plane: agents\ntargets: {nats: {main: {kind: external, max_payload: 8MiB}}}\n",
    "streams.yaml": "streams:\n  A: &a {subjects: [a.>], max_age: 1d, consumers: {c: {ack_wait: 5s}}}\n  B: *a\n",
    "schemas/s.yaml": "schemas: {s: {functions: {f: {body: {file: f.sql}}}}}\n",
    "schemas/f.sql": "SELECT 1\n",
    "environments/dev.yaml": "override: {streams: {A: {max_age: 2d}}}\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "specs", FILES)


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were really parsed."""
    parsed: list[str] = []

    def counting(file: File) -> Source:
        parsed.append(Path(file.name).name)
        return layers.parse_file(file)

    monkeypatch.setattr(cache, "parse_file", counting)
    return parsed


def answer(found: tuple[Document, Reading]) -> object:
    document, reading = found
    return (
        document.plane, dict(document.targets), document.diagnostics, document.is_complete, document.files, document.root,
        list(reading.plane), reading.plane.name, reading.plane.env, reading.diagnostics, set(reading.dropped),
        [document.locate(r.origin or ()) for r in reading.plane],
    )  # fmt: skip


def test_a_hit_is_equal_to_reading_anew_and_parses_nothing(folder: Path, tmp_path: Path, parses: list[str]) -> None:
    read_specs(folder, "dev", SECTIONS, tmp_path / "cache")
    parses.clear()
    _, reading = hit = read_specs(folder, "dev", SECTIONS, tmp_path / "cache")
    assert (parses, len(reading.plane)) == ([], 6)
    assert answer(hit) == answer(read_specs(folder, "dev", SECTIONS))


def test_mistakes_are_remembered_too(folder: Path, tmp_path: Path) -> None:
    write(folder, {"bad.yaml": "streams: {C: {max_agee: 1d}}\nplane: other\n", "worse.yaml": "a: ["})
    read_specs(folder, None, SECTIONS, tmp_path / "cache")
    hit = read_specs(folder, None, SECTIONS, tmp_path / "cache")
    assert len(hit[1].diagnostics) == 4
    assert answer(hit) == answer(read_specs(folder, None, SECTIONS))


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("streams.yaml", "1d", "3d"), ("environments/dev.yaml", "2d", "4d"), ("plane.yaml", "8MiB", "9MiB"),
        ("schemas/f.sql", "1", "2"), ("schemas/s.yaml", "f.sql", "g.sql"),
    ],
)  # fmt: skip
def test_a_change_of_any_input_is_seen(folder: Path, tmp_path: Path, name: str, old: str, new: str) -> None:
    before = read_specs(folder, "dev", SECTIONS, tmp_path / "cache")
    place = folder / name
    status = place.stat()
    place.write_text(place.read_text().replace(old, new))
    os.utime(place, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = read_specs(folder, "dev", SECTIONS, tmp_path / "cache")
    assert answer(after) != answer(before)
    assert answer(after) == answer(read_specs(folder, "dev", SECTIONS))


def test_only_the_changed_file_is_parsed_again(folder: Path, tmp_path: Path, parses: list[str]) -> None:
    read_specs(folder, "dev", SECTIONS, tmp_path / "cache")
    assert sorted(parses) == ["dev.yaml", "plane.yaml", "s.yaml", "streams.yaml"]
    parses.clear()
    write(folder, {"streams.yaml": FILES["streams.yaml"].replace("a.>", "z.>")})
    changed = read_specs(folder, "dev", SECTIONS, tmp_path / "cache")
    assert parses == ["streams.yaml"]
    assert answer(changed) == answer(read_specs(folder, "dev", SECTIONS))


def test_new_removed_and_renamed_files_are_seen(folder: Path, tmp_path: Path) -> None:
    steps: list[Callable[[], object]] = [
        partial(write, folder, {"more.yaml": "streams: {C: {subjects: [c]}}"}),
        partial((folder / "more.yaml").rename, folder / "other.yaml"),
        (folder / "other.yaml").unlink,
        partial(write, folder, {"x.yml": ""}),
        (folder / "schemas/f.sql").unlink,
    ]
    read_specs(folder, None, SECTIONS, tmp_path / "cache")
    for step in steps:
        step()
        found = read_specs(folder, None, SECTIONS, tmp_path / "cache")
        assert answer(found) == answer(read_specs(folder, None, SECTIONS))


def test_environments_sections_and_code_do_not_share_an_entry(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parses: list[str]
) -> None:
    def streams(env: str | None, *sections: Streams | Schemas) -> int:
        return len(read_specs(folder, env, sections, tmp_path / "cache")[1].plane)

    assert (streams("dev", *SECTIONS), streams("dev", SECTIONS[0]), streams(None, SECTIONS[1])) == (6, 4, 2)
    parses.clear()
    monkeypatch.setattr(cache, "code_stamps", lambda: (("spec/units.py", 1, 2),))
    assert (streams("dev", *SECTIONS), len(parses)) == (6, 4)


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "foreign", "folder", "link"])
def test_a_damaged_cache_is_ignored_and_replaced(folder: Path, tmp_path: Path, damage: str) -> None:
    place = tmp_path / "cache"
    expected = answer(read_specs(folder, "dev", SECTIONS, place))
    for file in list(place.iterdir()):
        data = file.read_bytes()
        if damage == "folder":
            file.unlink()
            file.mkdir()
        elif damage == "link":
            file.rename(tmp_path / file.name)
            file.symlink_to(tmp_path / file.name)
        else:
            flipped = data[:60] + bytes([data[60] ^ 1]) + data[61:]
            file.write_bytes({"truncate": data[:-9], "flip": flipped, "empty": b"", "foreign": b"x" * 99}[damage])
    assert answer(read_specs(folder, "dev", SECTIONS, place)) == expected
    assert answer(read_specs(folder, "dev", SECTIONS, place)) == expected


def test_a_cache_that_others_could_have_written_is_not_trusted(folder: Path, tmp_path: Path, parses: list[str]) -> None:
    read_specs(folder, "dev", SECTIONS, tmp_path / "cache")
    for file in (tmp_path / "cache").iterdir():
        file.chmod(0o666)
    parses.clear()
    read_specs(folder, "dev", SECTIONS, tmp_path / "cache")
    assert len(parses) == 4


def test_cache_files_are_private_and_leave_nothing_half_written(folder: Path, tmp_path: Path) -> None:
    read_specs(folder, "dev", SECTIONS, tmp_path / "cache")
    files = list((tmp_path / "cache").iterdir())
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert {file.suffix for file in files} == {".cache"}
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o700


def test_a_cache_that_cannot_be_written_is_no_error(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = read_specs(folder, "dev", SECTIONS, tmp_path / "file" / "cache")
    assert answer(found) == answer(read_specs(folder, "dev", SECTIONS))


def test_the_cache_does_not_grow_with_changes(folder: Path, tmp_path: Path) -> None:
    for age in range(1, 6):
        write(folder, {"streams.yaml": FILES["streams.yaml"].replace("1d", f"{age}h")})
        read_specs(folder, "dev", SECTIONS, tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 2
