"""Pool sizes by Little's law."""

from __future__ import annotations

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.pools.sizing import agent_factor, recommend

SECOND = 1_000_000_000


@pytest.mark.req("A4.10")
def test_size_is_operations_in_flight_over_utilisation() -> None:
    # 100 operations a second of 80 ms each are 8 in flight; at 80 % that is 10 connections.
    found = recommend(agents=5, ops_per_s=100, avg_duration_ns=SECOND * 8 // 100)
    assert found.recommended == 10
    assert recommend(5, 100, SECOND * 8 // 100, target_utilization=1).recommended == 8


@pytest.mark.req("A4.11")
@pytest.mark.parametrize(("agents", "factor"), [(1, 1.0), (5, 1.0), (6, 0.8), (20, 0.8), (21, 0.6), (1000, 0.6)])
def test_many_agents_share_connections(agents: int, factor: float) -> None:
    assert float(agent_factor(agents)) == factor


@pytest.mark.req("A4.11")
def test_the_factor_multiplies_the_size() -> None:
    # In flight 16, at 80 % 20; twenty agents need 0.8 of it.
    assert recommend(20, 160, SECOND // 10).recommended == 16


@pytest.mark.req("A4.12")
@pytest.mark.parametrize(
    ("agents", "ops_per_s", "size"),
    [
        (1, 1_000_000, 2),  # two for each agent
        (10, 1_000_000, 20),
        (200, 1_000_000, 50),  # fifty at most
        (4, 0, 2),  # two at least
        (100, 0, 25),  # one for four agents
    ],
)
def test_a_size_keeps_within_its_bounds(agents: int, ops_per_s: float, size: int) -> None:
    assert recommend(agents, ops_per_s, SECOND).recommended == size


@pytest.mark.req("A4.12")
@pytest.mark.parametrize("agents", [201, 400])
def test_the_upper_bound_wins_where_bounds_cross(agents: int) -> None:
    found = recommend(agents, 1, SECOND)
    assert found.recommended == 50
    assert any(str(agents) in warning for warning in found.warnings)


@pytest.mark.req("A4.12")
def test_no_agents_are_sized_as_one_with_a_warning() -> None:
    found = recommend(0, 100, SECOND)
    assert (found.recommended, found.minimum) == (2, 1)
    assert found.warnings


@pytest.mark.req("A4.13")
def test_a_recommendation_rounds_up_and_says_why() -> None:
    # In flight 6, at 80 % 7.5: eight connections, a fifth of 7.5 is 1.5.
    found = recommend(5, 60, SECOND // 10)
    assert (found.recommended, found.minimum, found.maximum) == (8, 2, 8)
    assert "5 agents" in found.reasoning
    assert "60 ops/s" in found.reasoning


@pytest.mark.req("A4.13")
def test_exact_sizes_are_not_rounded_up_by_floating_point() -> None:
    # 0.2 x 35 is 7.000000000000001 in floating point.
    assert recommend(100, 350 * 2, SECOND // 15).minimum == ceil(35 / 5)


@given(st.integers(0, 10_000), st.floats(0, 1e6), st.integers(0, 100 * SECOND), st.floats(0.01, 1))
def test_every_load_gets_a_usable_pool(agents: int, ops: float, duration: int, utilisation: float) -> None:
    found = recommend(agents, ops, duration, utilisation)
    assert 1 <= found.minimum <= found.maximum == found.recommended
    assert 2 <= found.maximum <= 50


@pytest.mark.parametrize("load", [(-1, 1, 1, 0.8), (1, -1, 1, 0.8), (1, 1, -1, 0.8), (1, 1, 1, 0), (1, 1, 1, 1.5)])
def test_an_impossible_load_is_refused(load: tuple[int, float, int, float]) -> None:
    with pytest.raises(ValueError, match=r"negative|utilisation"):
        recommend(*load)
