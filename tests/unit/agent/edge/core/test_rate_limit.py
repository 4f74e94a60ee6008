from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.edge.core import rate_limit
from agent.edge.core.rate_limit import RateLimit, client_key


def test_a_burst_uses_up_the_window_and_no_more() -> None:
    limit = RateLimit(2, 10)
    assert [limit.take(b"a", 100.0) for _ in range(20)] == [0.0] * 20
    assert limit.take(b"a", 100.0) == 10.0
    assert limit.take(b"b", 100.0) == 0.0, "others are not concerned"


@given(st.lists(st.floats(0, 3), max_size=300), st.integers(1, 9))
def test_no_window_lets_through_twice_the_limit_and_waits_are_kept(gaps: list[float], per_s: int) -> None:
    limit, now, passed = RateLimit(per_s, 2.0), 1000.0, []
    for gap in gaps:
        now += gap / 10
        wait = limit.take(b"a", now)
        if not wait:
            passed.append(now)
        else:
            assert 0 < wait <= 2.0
    for start in passed:
        assert sum(1 for at in passed if start <= at < start + 2.0) <= 2 * per_s * 2


def test_an_even_stream_passes_at_the_rate() -> None:
    limit = RateLimit(10, 2.0)
    passed = sum(not limit.take(b"a", 1000 + n / 100) for n in range(10_000))
    assert 950 <= passed <= 1050


def test_after_the_wait_the_next_one_passes() -> None:
    limit = RateLimit(3, 10)
    for now in (100.0, 111.0, 118.5, 133.0):
        while not (wait := limit.take(b"a", now)):
            pass
        assert limit.take(b"a", now + wait + 0.01) == 0.0


def test_edges_add_up() -> None:
    here, there = RateLimit(1, 10), RateLimit(1, 10)
    for _ in range(6):
        assert not here.take(b"a", 100.0)
        assert not there.take(b"a", 100.0)
    (mine,) = here.additions(10)
    assert (mine.key, mine.count) == (b"a", 6)
    assert here.additions(10) == []
    there.learn(b"a", mine.window, 6 + 6)
    here.learn(b"a", mine.window, 6 + 6)
    assert here.take(b"a", 101.0) > 0
    assert there.take(b"a", 101.0) > 0
    here.learn(b"nobody", mine.window, 5)


def test_a_total_of_another_window_is_too_late() -> None:
    limit = RateLimit(1, 10)
    limit.take(b"a", 100.0)
    (addition,) = limit.additions(10)
    limit.take(b"a", 110.0)
    limit.learn(b"a", addition.window, 1000)
    assert limit.take(b"a", 110.0) == 0.0


def test_keys_are_bounded_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "KEYS_MAX", 100)
    limit = RateLimit(0.1, 10)
    assert all(limit.take(b"%d" % number, 100.0) == 0.0 for number in range(300))
    assert len(limit) == 100
    limit.sweep(115.0)
    assert len(limit) == 100
    limit.sweep(125.0)
    assert len(limit) == 0


def test_who_asks_most_stays_counted_among_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "KEYS_MAX", 100)
    limit = RateLimit(1.0, 10)
    assert not any(limit.take(b"greedy", 100.0) for _ in range(10))
    for number in range(1000):
        assert limit.take(b"%d" % number, 101.0) == 0.0
        if number % 20 == 0:
            assert limit.take(b"greedy", 101.0) > 0.0
    assert len(limit) == 100


def test_room_is_made_even_when_all_have_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "KEYS_MAX", 20)
    limit = RateLimit(1.0, 10)
    for _ in range(2):
        for number in range(20):
            limit.take(b"%d" % number, 100.0)
    assert limit.take(b"new", 100.0) == 0.0
    assert len(limit) == 20


@pytest.mark.parametrize(
    ("address", "key"),
    [
        (b"192.0.2.1", b"192.0.2.1"),
        (b"2001:db8:1:2:3:4:5:6", b"2001:db8:1:2::/64"),
        (b"2001:db8::1", b"2001:db8:0:0::/64"),
        (b"2001:db8:1:2::", b"2001:db8:1:2::/64"),
        (b"::1", b"0:0:0:0::/64"),
        (b"unix", b"unix"),
    ],
)
def test_what_is_one_client(address: bytes, key: bytes) -> None:
    assert client_key(address) == key
