from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.edge.core.cache_rules import NO_RULES, CacheRules
from agent.edge.core.purges import NO_PURGES, Effect, Mark, compiled, tags_of

KEY = b"https://www.x.test/images/a?b=1"
TAGGED = {b"cache-tag": b"news, sport", b"surrogate-key": b"front page"}


@pytest.mark.parametrize(
    ("mark", "effect"),
    [
        (Mark(5), Effect.GONE),
        (Mark(5, soft=True), Effect.STALE),
        (Mark(5, url=b"www.x.test/images/a?b=1"), Effect.GONE),
        (Mark(5, url=b"www.x.test/images/a"), Effect.NONE),
        (Mark(5, url=b"x.test/images/a?b=1"), Effect.NONE),
        (Mark(5, prefix=b"www.x.test/images/"), Effect.GONE),
        (Mark(5, prefix=b"www.x.test/images/", soft=True), Effect.STALE),
        (Mark(5, prefix=b"www.x.test/imagesx"), Effect.NONE),
        (Mark(5, tag=b"sport"), Effect.GONE),
        (Mark(5, tag=b"page"), Effect.GONE),
        (Mark(5, tag=b"Sport"), Effect.NONE),
        (Mark(5, tag=b"news, sport"), Effect.NONE),
    ],
)
def test_what_an_order_is_about(mark: Mark, effect: Effect) -> None:
    purges = compiled(0, [mark], NO_RULES)
    assert purges.effect(KEY, TAGGED, 4) == effect
    assert purges.effect(KEY, TAGGED, 5) == Effect.NONE, "fetched after the order was known"


def test_a_hard_order_beats_a_later_soft_one() -> None:
    purges = compiled(0, [Mark(5, tag=b"news"), Mark(6, soft=True)], NO_RULES)
    assert [purges.effect(KEY, TAGGED, n) for n in (4, 5, 6)] == [Effect.GONE, Effect.STALE, Effect.NONE]


def test_the_floor_stands_for_orders_that_are_forgotten() -> None:
    purges = compiled(9, [Mark(12, tag=b"other")], NO_RULES)
    assert [purges.effect(KEY, {}, n) for n in (8, 9)] == [Effect.GONE, Effect.NONE]
    assert NO_PURGES.effect(KEY, TAGGED, 0) == Effect.NONE


def test_a_url_means_what_the_key_rules_let_count() -> None:
    purges = compiled(0, [Mark(5, url=b"www.x.test/images/a?utm_x=9&b=1")], CacheRules(query_ignore=(b"utm_*",)))
    assert purges.effect(KEY, {}, 1) == Effect.GONE


def test_tags() -> None:
    assert tags_of({}) == set()
    assert tags_of({b"cache-tag": b" a ,,b c"}) == {b"a", b"b c"}
    assert tags_of({b"surrogate-key": b"a  b, c"}) == {b"a", b"b", b"c"}


@given(
    st.lists(st.tuples(st.integers(1, 30), st.sampled_from([b"", b"news", b"other"]), st.booleans()), max_size=8),
    st.integers(0, 30),
    st.integers(0, 30),
)
def test_more_recent_is_never_worse(orders: list[tuple[int, bytes, bool]], one: int, other: int) -> None:
    purges = compiled(0, [Mark(n, tag=tag, soft=soft) for n, tag, soft in orders], NO_RULES)
    older, newer = (purges.effect(KEY, TAGGED, n).value for n in sorted((one, other)))
    assert older >= newer
