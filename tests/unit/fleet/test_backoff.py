from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fleet.backoff import Backoff


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_delays_stay_between_nothing_and_the_cap(attempt: int, randomness: float) -> None:
    backoff = Backoff(base_s=0.5, cap_s=20)
    assert 0 <= backoff.delay_s(attempt, randomness) <= 20
    assert backoff.ceiling_s(attempt) <= backoff.ceiling_s(attempt + 1)
