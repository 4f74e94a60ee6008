"""Rates and concurrency of callers, in virtual time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.core import quota
from control_plane.core.quota import Quota, Quotas
from fleet.errors import Code, LocciError


def ask(quotas: Quotas, now: float, principal: str = "operators/a") -> bool:
    try:
        quotas.enter(principal, now)
    except LocciError as error:
        assert error.code is Code.RESOURCE_EXHAUSTED  # noqa: PT017
        return False
    quotas.leave(principal)
    return True


def test_a_burst_and_then_the_rate() -> None:
    quotas = Quotas(Quota(rate_per_s=2, burst=3))
    assert [ask(quotas, 0.0) for _ in range(4)] == [True, True, True, False]
    assert [ask(quotas, 0.5) for _ in range(2)] == [True, False]
    assert [ask(quotas, 1e9) for _ in range(4)] == [True, True, True, False]


def test_callers_do_not_share() -> None:
    quotas = Quotas(Quota(rate_per_s=1, burst=1))
    assert ask(quotas, 0, "operators/a")
    assert ask(quotas, 0, "operators/b")
    assert not ask(quotas, 0, "operators/a")


def test_what_remains_is_told() -> None:
    quotas = Quotas(Quota(rate_per_s=2, burst=10))
    left = quotas.enter("a", 0)
    assert left is not None
    assert (left.limit, left.remaining, left.reset_s) == (10, 9, 1)
    assert Quotas(Quota(rate_per_s=0)).enter("a", 0) is None


def test_an_error_says_when_to_come_back() -> None:
    quotas = Quotas(Quota(rate_per_s=0.1, burst=1))
    quotas.enter("a", 0)
    with pytest.raises(LocciError, match="try again in 10 s") as caught:
        quotas.enter("a", 0)
    assert caught.value.metadata == {"retry_after_s": "10"}


def test_requests_and_watches_at_once_are_counted_apart() -> None:
    quotas = Quotas(Quota(requests=1, watches=1))
    quotas.enter("a", 0)
    quotas.enter("a", 0, watch=True)
    for watch in (False, True):
        with pytest.raises(LocciError) as caught:
            quotas.enter("a", 0, watch=watch)
        assert caught.value.reason == "TOO_MANY_AT_ONCE"
    quotas.leave("a", watch=True)
    quotas.enter("a", 0, watch=True)


def test_callers_that_are_remembered_are_bounded_but_for_those_at_work() -> None:
    quotas = Quotas(Quota(burst=1, rate_per_s=0.001))
    quotas.enter("busy", 0)
    for number in range(quota.CALLERS_MAX + 10):
        ask(quotas, 0, f"caller-{number}")
    assert len(quotas._callers) == quota.CALLERS_MAX
    quotas.leave("busy")
    assert ask(quotas, 0, "caller-0")


@given(st.lists(st.floats(0, 0.2), max_size=200), st.floats(1, 50), st.integers(1, 20))
def test_never_more_than_burst_and_rate(pauses: list[float], rate: float, burst: int) -> None:
    quotas = Quotas(Quota(rate_per_s=rate, burst=burst))
    now, allowed = 0.0, 0
    for pause in pauses:
        now += pause
        allowed += ask(quotas, now)
    assert allowed <= burst + rate * now + 1e-6
