"""Hysteresis of probes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.core.health import after_failure, after_success, presumed_good, unknown
from agent.core.model import Probe

PROBE = Probe("http", 80, start_period_s=5.0, healthy_after=2, unhealthy_after=3)


def test_it_takes_successes_in_a_row_to_be_ready() -> None:
    health = after_success(unknown(0.0), PROBE, 1.0)
    health = after_failure(health, PROBE, 2.0, "refused")
    health = after_success(health, PROBE, 3.0)
    assert not health.good
    assert health.reason == "refused"
    health = after_success(health, PROBE, 4.0)
    assert (health.good, health.since, health.reason) == (True, 4.0, "")


def test_failures_in_the_start_period_do_not_count() -> None:
    health = presumed_good(0.0)
    for _ in range(10):
        health = after_failure(health, PROBE, 4.9, "refused")
    assert health.good
    for now in (5.0, 6.0):
        health = after_failure(health, PROBE, now, "refused")
    assert health.good
    assert not after_failure(health, PROBE, 7.0, "refused").good


@given(st.lists(st.booleans(), max_size=60))
def test_a_verdict_changes_only_after_enough_answers_in_a_row(answers: list[bool]) -> None:
    health = unknown(0.0)
    for number, answer in enumerate(answers):
        before = health
        now = 10.0 + number
        health = after_success(health, PROBE, now) if answer else after_failure(health, PROBE, now, "bad")
        if health.good != before.good:
            needed = PROBE.healthy_after if health.good else PROBE.unhealthy_after
            assert answers[number - needed + 1 : number + 1] == [health.good] * needed
            assert health.since == now
