from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lab.restart import BACKOFF, STABLE_AFTER_S, RestartState


def test_delays_grow_from_half_a_second_to_their_cap() -> None:
    state, delays = RestartState(), []
    for _ in range(7):
        state, delay_s = state.ended(0.1)
        delays.append(delay_s)
    assert delays == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert state.restarts == 7


def test_a_program_that_ran_for_long_starts_again_at_once() -> None:
    state = RestartState(restarts=9, quick_ends=9)
    state, delay_s = state.ended(STABLE_AFTER_S)
    assert delay_s == BACKOFF.base_s
    assert state == RestartState(restarts=10, quick_ends=1)


@given(st.lists(st.floats(0, 100), max_size=30))
def test_no_delay_is_ever_out_of_bounds(runs: list[float]) -> None:
    state = RestartState()
    for ran_s in runs:
        state, delay_s = state.ended(ran_s)
        assert BACKOFF.base_s <= delay_s <= BACKOFF.cap_s
    assert state.restarts == len(runs)
