from __future__ import annotations

from agent.edge.core.flood import BURST, REFILL_PER_S, FloodGuard


def test_a_burst_is_borne_and_no_more() -> None:
    guard = FloodGuard()
    assert all(guard.spend(5.0) for _ in range(int(BURST)))
    assert not guard.spend(5.0)


def test_credit_comes_back_with_time_up_to_the_burst() -> None:
    guard = FloodGuard()
    while guard.spend(1.0):
        pass
    assert guard.spend(2.0)
    assert guard.credit == REFILL_PER_S - 2
    guard.spend(1e6)
    assert guard.credit == BURST - 1


def test_useful_work_earns_credit_and_a_clock_that_jumps_back_takes_none() -> None:
    guard = FloodGuard()
    for _ in range(10_000):
        assert guard.spend(7.0)
        guard.earn()
    assert guard.spend(3.0)
