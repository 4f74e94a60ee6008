from __future__ import annotations

from agent.edge.redis_tier import FAILURES_MAX, Breaker


def test_the_breaker_opens_after_failures_in_a_row() -> None:
    breaker = Breaker()
    for _ in range(FAILURES_MAX - 1):
        breaker.failed(0.0, 0.5)
    breaker.succeeded()
    breaker.failed(0.0, 0.5)
    assert breaker.allows(0.0)
    for _ in range(FAILURES_MAX - 1):
        breaker.failed(0.0, 0.5)
    assert not breaker.allows(0.1)
    assert breaker.allows(0.5)


def test_many_that_fail_together_open_it_once() -> None:
    breaker = Breaker()
    for _ in range(500):
        breaker.failed(1.0, 1.0)
    assert breaker.allows(1.0 + 0.5), "its first time is the shortest"
    breaker.failed(2.0, 1.0)
    assert not breaker.allows(2.0 + 0.9), "the second is longer"
