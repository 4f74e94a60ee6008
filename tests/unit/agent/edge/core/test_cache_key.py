"""Keys: RFC 9111 section 2, and what apps ask for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.edge.core import cache_key, vary
from agent.edge.core.cache_rules import CacheRules

ALLOW = CacheRules(query_allow=(b"page", b"id*"))
IGNORE = CacheRules(query_ignore=(b"utm_*", b"fbclid"))
SORT = CacheRules(query_sort=True)


@pytest.mark.parametrize(
    ("rules", "target", "expected"),
    [
        (CacheRules(), b"/a?b=1&a=2", b"/a?b=1&a=2"),
        (CacheRules(), b"/a?", b"/a?"),
        (CacheRules(query_ignored=True), b"/a?b=1", b"/a"),
        (CacheRules(query_ignored=True), b"/a", b"/a"),
        (ALLOW, b"/a?x=1&page=2&ids=3&", b"/a?page=2&ids=3"),
        (ALLOW, b"/a?p%61ge=2", b"/a?p%61ge=2"),  # an origin reads it as page
        (ALLOW, b"/a?x=1;page=2", b"/a?x=1;page=2"),  # so may it read this
        (ALLOW, b"/a?x", b"/a"),
        (IGNORE, b"/a?utm_source=x&q=1&fbclid=2", b"/a?q=1"),
        (IGNORE, b"/a?fbclid2=2", b"/a?fbclid2=2"),
        (SORT, b"/a?b=2&a=1&b=1", b"/a?a=1&b=2&b=1"),
    ],
)
def test_queries(rules: CacheRules, target: bytes, expected: bytes) -> None:
    assert cache_key.primary(b"http", b"x.test", target, rules) == b"http://x.test" + expected


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(0, 9)), max_size=6), st.randoms())
def test_sorting_takes_any_order_of_names(pairs: list[tuple[str, int]], rng: object) -> None:
    by_name = sorted(pairs, key=lambda pair: pair[0])
    query = "&".join(f"{name}={value}" for name, value in pairs)
    ordered = "&".join(f"{name}={value}" for name, value in by_name)
    assert cache_key.with_query(f"/?{query}".encode(), SORT) == (f"/?{ordered}" if pairs else "/").encode()


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        (b"/b", b"/b"),
        (b"b?q=1#f", b"/x/b?q=1"),
        (b"../b", b"/b"),
        (b"?q=2", b"/x/a?q=2"),
        (b"http://x.test/b", b"/b"),
        (b"HTTP://X.TEST:80/b", b"/b"),
        (b"http://x.test", b"/"),
        (b"//x.test/b", b"/b"),
        (b"https://x.test/b", None),
        (b"http://x.test:8080/b", None),
        (b"http://x.test.evil/b", None),
        (b"http://u@x.test/b", None),
        (b"//evil/b", None),
        (b"http://[", None),
        (b"http://x.test:99999999/", None),
        (b"", None),
    ],
)
def test_references_of_the_same_origin(reference: bytes, expected: bytes | None) -> None:  # RFC 9111 section 4.4
    assert cache_key.same_origin_target(b"http", b"x.test", b"/x/a", reference) == expected


@given(st.binary(max_size=60))
def test_no_reference_breaks_it(reference: bytes) -> None:
    found = cache_key.same_origin_target(b"http", b"x.test", b"/x/a", reference)
    assert found is None or found.startswith((b"/", b"?"))


def test_cookies_and_fields_in_the_key() -> None:
    rules = CacheRules(headers=(b"x-tier",), cookies=(b"lang",))
    assert rules.keyed == (b"x-tier", b"cookie:lang")

    def secondary(**fields: str) -> bytes:
        return vary.secondary(rules.keyed, {name.replace("_", "-").encode(): v.encode() for name, v in fields.items()})

    one = secondary(cookie="session=1; lang=de", x_tier="a")
    assert one == secondary(cookie="lang=de; session=2", x_tier="a")
    assert len({one, secondary(cookie="lang=fr", x_tier="a"), secondary(x_tier="a"), secondary()}) == 4
    assert secondary(cookie="xlang=de") == secondary()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("gzip, br", "br;q=0.5 ,gzip", True),  # RFC 9110 section 12.5.3: which are accepted
        ("gzip;q=0", "", True),
        ("gzip", "br", False),
        ("gzip, *;q=0", "gzip", False),
        ("identity;q=0, br", "br", False),
    ],
)
def test_normalised_accept_encoding(one: str, other: str, same: bool) -> None:
    keys = [vary.secondary((b"accept-encoding",), {b"accept-encoding": value.encode()}) for value in (one, other)]
    assert (keys[0] == keys[1]) == same


def test_a_missing_field_is_not_an_empty_one() -> None:  # RFC 9111 section 4.1
    assert vary.secondary((b"x",), {}) != vary.secondary((b"x",), {b"x": b""})
    assert vary.secondary((b"x",), {b"x": b"a,  b"}) == vary.secondary((b"x",), {b"x": b"a ,b"})


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (b"en, de", b"de, en", True),
        (b"en, de", b"eN,De", True),
        (b"en;q=0.5, de", b"de;q=1.0, en;q=0.50", True),
        (b"en;q=0.5, de", b"en, de", False),
        (b"en, de", b"en", False),
        (b"en;q=x, de", b"de, en;q=x", False),
        (b"en-GB", b"en", False),
    ],
)
def test_normalised_accept_language(one: bytes, other: bytes, same: bool) -> None:
    assert (vary.accept_language(one) == vary.accept_language(other)) is same
    names = (b"accept-language",)
    assert (
        vary.secondary(names, {b"accept-language": one}) == vary.secondary(names, {b"accept-language": other})
    ) is same
