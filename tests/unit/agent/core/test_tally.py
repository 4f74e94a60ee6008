"""The tally of synthetic clients, in virtual time."""

from __future__ import annotations

from agent.core.tally import Tally


def test_the_gap_is_from_good_to_good_over_what_failed() -> None:
    tally = Tally()
    for began_at, ended_at, failure in (
        (0.0, 0.1, ""),
        (1.0, 1.1, ""),
        (2.0, 4.0, "no answer"),
        (4.0, 5.5, ""),
        (9.0, 9.1, ""),
    ):
        tally = tally.with_answer(began_at, ended_at, failure)
    assert (tally.requests, tally.failed, tally.slow) == (5, 1, 2)
    assert round(tally.gap_s, 3) == 4.4
    assert tally.last_failure == "no answer"


def test_a_gap_that_does_not_end_counts_as_far_as_it_was_seen() -> None:
    tally = Tally().with_answer(0.0, 0.5, "no answer").with_answer(1.0, 1.1, "").with_answer(2.0, 5.1, "refused")
    assert (round(tally.gap_s, 3), tally.failed) == (4.0, 2)
