"""How often nodes beat."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from control_plane.core.pace import Pace

BASES = st.floats(0.1, 60.0)
RATES = st.floats(1.0, 1e4)


@given(BASES, RATES, st.integers(0, 100_000))
def test_a_fleet_sends_no_more_than_it_may_and_beats_no_slower_than_it_has_to(
    base_s: float, per_s: float, nodes: int
) -> None:
    interval_s = Pace(base_s, per_s).of_fleet(nodes)
    assert nodes <= per_s * interval_s * 1.000001
    assert interval_s == base_s or nodes > per_s * interval_s / 1.25 * 0.999999


@given(BASES, RATES, st.integers(0, 100_000), st.integers(0, 1_000))
def test_a_larger_fleet_never_beats_faster(base_s: float, per_s: float, nodes: int, more: int) -> None:
    pace = Pace(base_s, per_s)
    assert pace.of_fleet(nodes) <= pace.of_fleet(nodes + more)


@given(BASES, st.floats(0.1, 1e4), st.floats(1.0, 1e4))
def test_what_runs_on_a_node_bounds_its_interval(base_s: float, of_fleet_s: float, patience_s: float) -> None:
    interval_s = Pace(base_s, 500.0).of_node(of_fleet_s, patience_s)
    assert interval_s >= base_s
    assert interval_s == base_s or 3 * interval_s <= patience_s * 1.000001


def test_the_figures_that_the_docs_state() -> None:
    pace = Pace(1.0, 500.0)
    assert pace.of_fleet(500) == 1.0
    assert 4.0 <= pace.of_fleet(2_000) < 5.0
    assert pace.of_node(pace.of_fleet(10_000), 30.0) == 10.0
    assert pace.of_node(pace.of_fleet(10_000), 3.0) == 1.0
    assert pace.stretch(10.0) == 10.0
    assert pace.stretch(0.0) == 1.0
