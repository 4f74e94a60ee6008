"""Samples of clients over a run stay few, in order, and complete in their sums."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from control_plane.core.drill_samples import SAMPLES_MAX, Sample, sampled


def test_nothing_is_kept_before_the_fault() -> None:
    assert sampled([], None, 5, 1) == []
    assert sampled([], 0.5, 5, 1) == [Sample(0.5, 5, 1)]


@given(st.lists(st.floats(0.1, 3.0), max_size=1_200))
def test_there_are_never_too_many_and_the_newest_is_there(steps: list[float]) -> None:
    kept: list[Sample] = []
    at_s, requests, failed = 0.0, 0, 0
    for index, step_s in enumerate(steps):
        at_s, requests, failed = at_s + step_s, requests + 1, failed + (index % 7 == 0)
        kept = sampled(kept, at_s, requests, failed)
        assert len(kept) <= SAMPLES_MAX
        assert (kept[-1].requests, kept[-1].failed) == (requests, failed)
    assert kept == sorted(kept, key=lambda sample: sample.after_s)


def test_a_long_run_is_thinned_out_evenly() -> None:
    kept: list[Sample] = []
    for second in range(900):
        kept = sampled(kept, float(second), second, 0)
    gaps = [b.after_s - a.after_s for a, b in pairwise(kept)]
    assert SAMPLES_MAX / 3 < len(kept) <= SAMPLES_MAX
    assert max(gaps[:-1]) <= 3 * min(gaps[:-1])
