"""Which releases are kept."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from control_plane.core.releases import expendable


@given(st.sets(st.integers(1, 40)), st.sets(st.integers(1, 40)), st.integers(1, 10))
def test_the_newest_and_those_that_are_needed_stay(numbers: set[int], needed: set[int], kept: int) -> None:
    left = numbers - set(expendable(numbers, needed, kept))
    assert left >= numbers & needed
    assert left >= set(sorted(numbers)[-kept:])
    assert len(left - needed) <= kept
