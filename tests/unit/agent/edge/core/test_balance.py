from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.edge.core.balance import LATENCY_DECAY_S, SLOW_START_S, SLOW_START_SHARE, Endpoint, order

STEPS = 1000


def wins(endpoints: list[Endpoint], now: float) -> dict[str, float]:
    """The part of requests that each gets, over evenly spread randomness."""
    found = dict.fromkeys((endpoint.address for endpoint in endpoints), 0)
    for step in range(STEPS):
        found[order(endpoints, now, step / STEPS)[0][0].address] += 1
    return {address: count / STEPS for address, count in found.items()}


def test_the_one_that_answers_sooner_wins_until_it_has_much_more_to_do() -> None:
    fast, slow = Endpoint("fast"), Endpoint("slow")
    fast.answered(200, 10.0, 0.05)
    slow.answered(200, 10.0, 0.5)
    assert wins([fast, slow], 10.0) == {"fast": 1.0, "slow": 0.0}
    fast.outstanding = 10
    assert wins([fast, slow], 10.0) == {"fast": 0.0, "slow": 1.0}


def test_an_average_rises_at_once_and_falls_slowly() -> None:
    endpoint = Endpoint("a")
    endpoint.answered(200, 0.0, 0.1)
    endpoint.answered(200, 1.0, 2.0)
    assert endpoint.latency_s == 2.0
    endpoint.answered(200, 1.0 + LATENCY_DECAY_S, 0.1)
    assert 0.7 < endpoint.latency_s < 0.9


def test_one_that_was_slow_is_tried_again() -> None:
    fast, slow = Endpoint("fast"), Endpoint("slow")
    slow.answered(200, 0.0, 2.0)
    assert wins([fast, slow], 1.0)["slow"] == 0.0
    assert wins([fast, slow], 60.0)["slow"] == 0.5


def test_small_differences_quick_errors_and_uploads_do_not_count() -> None:
    first, second = Endpoint("first"), Endpoint("second")
    first.answered(200, 0.0, 0.0001)
    second.answered(200, 0.0, 0.009)
    assert wins([first, second], 0.0) == {"first": 0.5, "second": 0.5}
    first.answered(200, 0.0, 0.5)
    first.answered(500, 1.0, 0.001)
    first.answered(200, 1.0)
    assert (first.latency_s, first.measured) == (0.5, 0.0)


def test_one_that_enters_gets_its_share_slowly() -> None:
    old, new = Endpoint("old"), Endpoint("new", entered=100.0)
    parts = [wins([old, new], 100.0 + second)["new"] for second in range(int(SLOW_START_S) + 1)]
    assert abs(parts[0] - SLOW_START_SHARE / 2) < 0.01
    assert parts == sorted(parts)
    assert parts[-1] == 0.5


def test_one_that_comes_back_after_failures_enters_anew() -> None:
    endpoint = Endpoint("a")
    endpoint.failed(0.0)
    assert endpoint.share(5.0) == 1.0
    endpoint.answered(200, 5.0)
    assert endpoint.share(5.0) == SLOW_START_SHARE
    endpoint.answered(200, 9.0)
    assert endpoint.share(10.0) == 0.5


def test_all_that_enter_together_share_evenly() -> None:
    group = [Endpoint(name, entered=0.0) for name in "abc"]
    assert all(abs(part - 1 / 3) < 0.01 for part in wins(group, 0.0).values())


@given(
    st.lists(st.tuples(st.integers(0, 50), st.floats(0, 10), st.floats(0, 30), st.booleans()), max_size=8),
    st.floats(0, 1, exclude_max=True),
)
def test_every_endpoint_is_named_once(states: list[tuple[int, float, float, bool]], randomness: float) -> None:
    group = []
    for number, (outstanding, took_s, entered, failed) in enumerate(states):
        endpoint = Endpoint(str(number), outstanding=outstanding, entered=entered)
        endpoint.answered(200, 0.0, took_s)
        if failed:
            endpoint.failed(29.5)
        group.append(endpoint)
    available, ejected = order(group, 30.0, randomness)
    assert sorted(e.address for e in available + ejected) == sorted(e.address for e in group)
    assert all(endpoint.available(30.0) for endpoint in available)
