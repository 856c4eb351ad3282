"""Which files are run, by what history holds of them and by what they say of the specs."""

from __future__ import annotations

from types import MappingProxyType

import pytest

from provision.migrate import order
from provision.migrate.files import Migration, Script
from provision.migrate.history import Event, Standing, fold
from provision.migrate.statements import split
from provision.spec.errors import InputError


def migration(number: int, *, covered: bool = False, kind: str = "schema") -> Migration:
    statements, _ = split("SELECT 1", transactional=True)
    name = f"migrations/{number:04}_do_it.up.sql"
    script = Script(name, "", f"{number}", statements, True, 0, 0, (), (), MappingProxyType({}))
    return Migration(number, "do_it", f"1.{number}.0", kind, None, (), script, None, covered)


def history(**events: str) -> dict[str, Standing]:
    """What became of each number: ``_2="baselined"``."""
    rows = [
        Event("r", f"1.{number[1:]}.0", "up", event, None, None, number[1:], None, None, "me", "now")
        for number, event in events.items()
    ]
    return fold(rows)


SEED, STRUCTURE, ROWS = migration(2), migration(2, covered=True), migration(2, covered=True, kind="data")


@pytest.mark.req("C1.11")
@pytest.mark.parametrize("waiting", [SEED, STRUCTURE, ROWS], ids=["seed", "structure", "rows"])
def test_what_waits_runs_before_files_that_were_only_baselined(waiting: Migration) -> None:
    files = [migration(1, covered=True), waiting, migration(3, covered=True), migration(4)]
    standings = history(_1="baselined", _3="baselined")
    assert [m.number for m in order.ahead(files, standings)] == [2, 4]
    assert [m.number for m in order.ahead(files, standings, "1.2.0")] == [2]
    assert [m.number for m in order.ahead(files, standings, "1.3.0")] == [2]


@pytest.mark.parametrize("late", [SEED, STRUCTURE, ROWS], ids=["seed", "structure", "rows"])
def test_every_file_is_late_before_one_that_ran(late: Migration) -> None:
    files = [migration(1), late, migration(3, covered=True), migration(4), migration(5, covered=True)]
    with pytest.raises(InputError, match=r"\(1.2.0\) was never applied, and 1\.[45]\.0 after it was"):
        order.ahead(files, history(_1="applied", _3="baselined", _4="applied", _5="baselined"))


def test_a_seed_runs_after_a_later_baselined_file_was_rolled_back() -> None:
    files = [migration(1, covered=True), SEED, migration(3, covered=True)]
    standings = history(_1="baselined", _3="rolled_back")
    assert [m.number for m in order.ahead(files, standings)] == [2, 3]


def test_up_to_an_applied_version_with_nothing_before_it_points_to_down() -> None:
    files = [migration(1), migration(2), migration(3)]
    with pytest.raises(InputError, match=r"1.1.0 is applied, and so are later versions"):
        order.ahead(files, history(_1="applied", _2="applied"), "1.1.0")
