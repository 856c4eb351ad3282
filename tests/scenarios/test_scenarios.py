"""Each folder beside this file is a case: declared before, living data, declared after, and back again.

Played on real servers. A plan must have the shape that was written down, ask for just the consents that were
written down and do nothing without them; it must leave nothing to do, no drift, and every row and message where
it was. Then the same way back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from provision import registry
from provision.plan import consents
from provision.spec.errors import ConsentError
from tests.scenarios.bed import Bed
from tests.scenarios.case import Case, Expect, cases, shape

_CASES = cases()
#: Sections of a document that live on NATS.
_ON_NATS = ("streams:", "buckets:", "object_stores:")
#: How long a server may take to delete what a lowered limit no longer allows.
_PATIENCE_S = 5.0


def _param(case: Case) -> Any:
    marks: list[Any] = [pytest.mark.req(*case.expect.req)] if case.expect.req else []
    if case.expect.known_gap is not None:
        marks.append(pytest.mark.xfail(strict=True, reason=case.expect.known_gap))
    return pytest.param(case, id=case.name, marks=marks)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What servers made of expressions is remembered between cases, as it is between a user's commands."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def make_bed(
    tmp_path: Path, cache: Path, pg_database: dict[str, Any], request: pytest.FixtureRequest
) -> Callable[[Case], Bed]:
    """A bed for a case; the NATS server is only emptied for cases that use it."""

    def made(case: Case) -> Bed:
        on_nats = any(line.startswith(_ON_NATS) for line in (case.before + case.after).splitlines())
        url: str | None = request.getfixturevalue("nats_url") if on_nats else None
        return Bed(tmp_path, cache, pg_database, url, case.clock)

    return made


@pytest.mark.req("B2.1")
@pytest.mark.parametrize("case", [_param(case) for case in _CASES])
def test_the_plan_leads_there_and_back_as_expected(case: Case, make_bed: Callable[[Case], Bed]) -> None:
    bed = make_bed(case)
    bed.bring(case.before)
    _nothing_is_left(bed)
    bed.fill(case.rows, case.messages)
    for stream, number in case.expect.held.items():
        _holds(bed, stream, number)
    bed.declare(case.after)
    _go(bed, case.expect)
    if case.expect_back is None:
        bed.bring(case.back)
        _nothing_is_left(bed)
    else:
        bed.declare(case.back)
        _go(bed, case.expect_back)


def _go(bed: Bed, expect: Expect) -> None:
    """Plan, be refused, apply, and ask again."""
    with bed.open() as plane:
        before = plane.observe().digest
        plan = plane.plan(clock=bed.clock)
        assert shape(plan) == expect.steps
        assert not any(step.system == "plane" for step in plan.steps[:-1]), "the contract is written last"
        assert sorted(consents.required(plan)) == sorted(expect.consents)
        for consent in expect.consents:
            with pytest.raises(ConsentError):
                plane.apply(plan, allowed=[c for c in expect.consents if c != consent])
        assert plane.observe().digest == before, "a plan and a refused apply touch nothing"
        plane.apply(plan, allowed=expect.consents)
    _nothing_is_left(bed)
    _is_there(bed, expect)


def _nothing_is_left(bed: Bed) -> None:
    with bed.open() as plane:
        plan = plane.plan(clock=bed.clock)
    assert [(s.id, s.request) for s in plan.steps] == []
    assert (plan.drift, plan.adopt) == ((), ())


def _is_there(bed: Bed, expect: Expect) -> None:
    """What lives on the servers, asked of them directly."""
    assert {table: bed.ask(f"SELECT count(*) FROM {table}") for table in expect.rows} == expect.rows
    assert {query: bed.ask(query) for query in expect.answers} == expect.answers
    for stream, number in expect.messages.items():
        _holds(bed, stream, number)
    for name, options in expect.config.items():
        found = bed.config(name)
        assert {option: found.get(option) for option in options} == options


def _holds(bed: Bed, stream: str, number: int) -> None:
    """A lowered limit is enforced soon after the update is answered, not before."""
    deadline = time.monotonic() + _PATIENCE_S
    while (found := bed.stream(stream)["state"]["messages"]) != number and time.monotonic() < deadline:
        time.sleep(0.02)
    assert found == number


def test_every_live_kind_has_a_scenario() -> None:
    kinds = registry.kinds()
    covered = {case.kind for case in _CASES}
    assert covered <= kinds.keys(), "a folder is named KIND-WHAT"
    on_servers = {name for name, kind in kinds.items() if kind.nature == "live" and kind.system != "plane"}
    assert on_servers - covered == set()


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in _CASES])
def test_a_scenario_is_about_the_kind_in_its_name(case: Case) -> None:
    objects = [next(iter(step.values())) for step in case.expect.steps]
    section = f"/{case.kind}/" if case.kind not in ("schema", "table") else "/"
    assert case.expect.known_gap or any(section in o.replace(":main", "") for o in objects)
