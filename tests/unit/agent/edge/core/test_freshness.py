"""Tables after RFC 9111: each row names the section that it is about."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.edge.core import freshness, http_date
from agent.edge.core.cache_rules import CacheRules
from agent.edge.core.freshness import SECONDS_MAX, Demands, demands, directives, judge

NOW = 1_750_000_000.0
DATE = http_date.render(NOW)


def response(**fields: str) -> dict[bytes, bytes]:
    return {name.replace("_", "-").encode(): value.encode() for name, value in fields.items()}


@pytest.mark.parametrize(
    ("fields", "status", "reason"),
    [
        ({"cache_control": "max-age=60"}, 200, ""),
        ({"cache_control": "s-maxage=60"}, 404, ""),
        ({"cache_control": "max-age=60"}, 500, ""),
        ({"cache_control": "max-age=60"}, 206, "status"),  # 3.3
        ({"cache_control": "max-age=60"}, 304, "status"),  # 4.3.4
        ({"cache_control": "max-age=60"}, 103, "status"),
        ({"cache_control": "max-age=60, no-store"}, 200, "no-store"),  # 5.2.2.5
        ({"cache_control": "max-age=60, NO-STORE"}, 200, "no-store"),
        ({"cache_control": "max-age=60, private"}, 200, "private"),  # 5.2.2.7
        ({"cache_control": 'max-age=60, private=""'}, 200, "private"),
        ({"cache_control": 'max-age=60, private="x", private'}, 200, "private"),
        ({"cache_control": 'max-age=60, private="x", private="b d"'}, 200, "private"),
        ({"cache_control": 'max-age=60, private="vary"'}, 200, "private"),  # the stored response depends on it
        ({"cache_control": 'max-age=60, private="x"'}, 200, ""),
        ({"cache_control": "max-age=60, private=x"}, 200, ""),
        ({"cache_control": "max-age=60", "vary": "X-Forwarded-For"}, 200, "vary per client"),
        ({"cache_control": "max-age=60, must-understand, no-store"}, 200, ""),  # 5.2.2.3
        ({"cache_control": "max-age=60, must-understand"}, 599, "must-understand"),
        ({"cache_control": "max-age=60", "set_cookie": "a=b"}, 200, "set-cookie"),
        ({"cache_control": "public, max-age=60", "set_cookie": "a=b"}, 200, ""),
        ({"cache_control": "max-age=60", "vary": "*"}, 200, "vary *"),  # 4.1
        ({"cache_control": "max-age=60", "vary": "a, *"}, 200, "vary *"),
        ({}, 200, "no explicit freshness"),  # 4.2.2 is off
        ({"cache_control": "public"}, 200, "no explicit freshness"),
        ({"last_modified": "Sun, 06 Nov 1994 08:49:37 GMT"}, 200, "no explicit freshness"),
        ({"cache_control": "no-cache"}, 200, "no explicit freshness"),
        ({"cache_control": "no-cache", "etag": '"a"'}, 200, ""),  # 5.2.2.4
        ({"cache_control": "max-age=0"}, 200, "stale at once"),
        ({"cache_control": "max-age=0", "etag": '"a"'}, 200, ""),
        ({"cache_control": "max-age=0, stale-if-error=5"}, 200, ""),  # RFC 5861
        ({"expires": "0"}, 200, "stale at once"),  # 5.3
        ({"pragma": "no-cache", "cache_control": "max-age=60"}, 200, ""),  # 5.4: nothing in responses
    ],
)
def test_storing(fields: dict[str, str], status: int, reason: str) -> None:
    verdict = judge(b"GET", status, {}, response(**fields), NOW)
    assert (verdict.storable, verdict.reason) == (not reason, reason)


@pytest.mark.parametrize("method", [b"HEAD", b"POST", b"PUT", b"OPTIONS"])
def test_only_get_is_stored(method: bytes) -> None:
    assert judge(method, 200, {}, response(cache_control="max-age=60"), NOW).reason == "method"


@pytest.mark.parametrize(
    ("control", "storable"),
    [
        ("max-age=60", False),
        ("public, max-age=60", True),
        ("s-maxage=60", True),
        ("max-age=60, must-revalidate", True),
    ],
)
def test_authorization(control: str, storable: bool) -> None:  # 3.5
    request = {b"authorization": b"Basic eDp5"}
    assert judge(b"GET", 200, request, response(cache_control=control), NOW).storable == storable


def test_a_request_may_forbid_storing() -> None:  # 5.2.1.5
    request = {b"cache-control": b"no-store"}
    assert judge(b"GET", 200, request, response(cache_control="max-age=60"), NOW).reason == "request no-store"


@pytest.mark.parametrize(
    ("fields", "lifetime"),
    [
        ({"cache_control": "max-age=60"}, 60),  # 4.2.1
        ({"cache_control": "max-age=60, s-maxage=10"}, 10),
        ({"cache_control": "max-age=60", "expires": "Thu, 01 Jan 1970 00:00:00 GMT"}, 60),
        ({"cache_control": "max-age=60, max-age=1"}, 60),  # the first of several
        ({"cache_control": 'max-age="60"'}, 60),  # 5.2: both forms
        ({"cache_control": "MAX-AGE=60"}, 60),
        ({"cache_control": " ,, max-age=60 , "}, 60),
        ({"cache_control": "max-age = 60"}, 0),  # 4.2.1: what is invalid is stale
        ({"cache_control": "max-age=1.5"}, 0),  # invalid is stale
        ({"cache_control": "max-age=-1"}, 0),
        ({"cache_control": "max-age"}, 0),
        ({"cache_control": "max-age=99999999999999999999"}, SECONDS_MAX),  # 1.2.2
        ({"cache_control": 'x="a, max-age=5", max-age=60'}, 60),
        ({"expires": http_date.render(NOW + 30).decode(), "date": DATE.decode()}, 30),
        ({"expires": http_date.render(NOW + 30).decode()}, 30),
        ({"expires": http_date.render(NOW - 30).decode(), "date": DATE.decode()}, 0),
        ({"expires": "-1"}, 0),
        ({"expires": "tomorrow"}, 0),
    ],
)
def test_lifetime(fields: dict[str, str], lifetime: int) -> None:
    found = response(**fields)
    assert freshness.explicit_lifetime_s(found, directives(found.get(b"cache-control")), NOW) == lifetime


@pytest.mark.parametrize(
    ("fields", "delay", "age"),
    [
        ({}, 0.0, 0.0),
        ({"age": "10"}, 0.0, 10.0),  # 5.1
        ({"age": "10"}, 2.0, 12.0),  # corrected_age_value
        ({"date": http_date.render(NOW - 30).decode()}, 0.0, 30.0),  # apparent_age
        ({"date": http_date.render(NOW - 30).decode(), "age": "50"}, 0.0, 50.0),
        ({"date": http_date.render(NOW + 900).decode()}, 0.0, 0.0),  # a clock that is ahead
        ({"age": "-5"}, 0.0, 0.0),
        ({"age": "abc"}, 0.0, 0.0),
        ({"age": "7, 100"}, 0.0, 7.0),
        ({"date": "yesterday"}, 1.0, 1.0),
    ],
)
def test_initial_age(fields: dict[str, str], delay: float, age: float) -> None:  # 4.2.3
    assert freshness.initial_age_s(response(**fields), NOW - delay, NOW) == age


@pytest.mark.parametrize(
    ("control", "age", "usable"),
    [
        ("", 59, True),
        ("", 60, False),
        ("no-cache", 1, False),
        ("max-age=10", 11, False),
        ("max-age=10", 10, True),
        ("min-fresh=30", 31, False),
        ("min-fresh=30", 30, True),  # no less than its age plus the time
        ("min-fresh=30", 29, True),
        ("max-stale", 600, True),
        ("max-stale=10", 65, True),
        ("max-stale=10", 70, True),
        ("max-stale=10", 71, False),
        ("max-stale=0", 60, False),
        ("max-stale=10, min-fresh=1", 61, False),
    ],
)
def test_demands_of_requests(control: str, age: float, usable: bool) -> None:  # 5.2.1
    wanted = demands({b"cache-control": control.encode()} if control else {})
    assert freshness.satisfied(wanted, age, 60, must_revalidate=False) == usable


def test_must_revalidate_beats_max_stale() -> None:  # 5.2.2.2
    assert not freshness.satisfied(Demands(stale_max_s=100), 70, 60, must_revalidate=True)


def test_strict_responses_are_never_served_stale() -> None:  # 5.2.2.2, 5.2.2.8, 5.2.2.10
    for strict in ("must-revalidate", "proxy-revalidate", "s-maxage=5"):
        fields = response(cache_control=f"max-age=5, stale-while-revalidate=9, stale-if-error=9, {strict}")
        verdict = judge(b"GET", 200, {}, fields, NOW)
        assert (verdict.stale_while_revalidate_s, verdict.stale_if_error_s) == (0, 0)


@pytest.mark.parametrize(
    ("control", "omitted", "validate"),
    [
        ('max-age=9, private="X-A, x-b"', {b"x-a", b"x-b"}, False),  # 5.2.2.7
        ('max-age=9, no-cache="Set-Cookie"', {b"set-cookie"}, False),  # 5.2.2.4
        ('max-age=9, no-cache="a", private="b"', {b"a", b"b"}, False),
        ('max-age=9, no-cache="a", no-cache="b"', {b"a", b"b"}, False),
        ('max-age=9, no-cache="a", no-cache', set(), True),
        ('max-age=9, no-cache="cache-control"', set(), True),
        ("max-age=9, no-cache=a", {b"a"}, False),
    ],
)
def test_qualified_directives(control: str, omitted: set[bytes], validate: bool) -> None:
    verdict = judge(b"GET", 200, {}, response(cache_control=control, set_cookie="a=b") | {b"etag": b'"x"'}, NOW)
    if b"set-cookie" not in omitted:
        verdict = judge(b"GET", 200, {}, response(cache_control=control, etag='"x"'), NOW)
    assert (verdict.storable, verdict.omitted, verdict.validate_always) == (True, frozenset(omitted), validate)


@pytest.mark.parametrize(
    ("fields", "lifetime"),  # None: it is not stored
    [
        ({"cdn_cache_control": "max-age=5", "cache_control": "max-age=60"}, 5),  # RFC 9213 section 2.1
        ({"locci_cdn_cache_control": "max-age=7", "cdn_cache_control": "max-age=5"}, 7),  # 2.2: our own first
        ({"locci_cdn_cache_control": "max-age=7,", "cdn_cache_control": "max-age=5"}, 5),  # no dictionary
        ({"cdn_cache_control": "", "cache_control": "max-age=60"}, 60),
        ({"cdn_cache_control": "max-age=5 &&", "cache_control": "max-age=60"}, 60),
        ({"cdn_cache_control": "Max-Age=5", "cache_control": "max-age=60"}, 60),
        ({"cdn_cache_control": "max-age=5, no-store=?0", "cache_control": "no-store"}, 5),
        ({"cdn_cache_control": "max-age=5;x=1, y;z", "cache_control": "no-store"}, 5),
        ({"cdn_cache_control": "no-store", "cache_control": "max-age=60"}, None),
        ({"cdn_cache_control": "private", "cache_control": "max-age=60"}, None),
        ({"cdn_cache_control": "x", "expires": http_date.render(NOW + 50).decode()}, None),  # Expires is ignored too
        ({"cdn_cache_control": 'max-age="5", stale-if-error=1'}, 0),  # of another type: invalid
        ({"cdn_cache_control": "max-age=5.0, stale-if-error=1"}, 0),
        ({"cdn_cache_control": "max-age=1, max-age=9"}, 9),  # the last one counts in a dictionary
    ],
)
def test_targeted_fields(fields: dict[str, str], lifetime: int | None) -> None:
    verdict = judge(b"GET", 200, {}, response(**fields), NOW)
    assert (verdict.lifetime_s if verdict.storable else None) == lifetime


@pytest.mark.parametrize(
    ("fields", "status", "rules", "lifetime"),
    [
        ({}, 404, CacheRules(negative_s=9), 9),
        ({}, 200, CacheRules(negative_s=9), None),
        ({}, 500, CacheRules(negative_s=9), None),
        ({"cache_control": "no-store"}, 404, CacheRules(negative_s=9), None),
        ({"cache_control": "private"}, 404, CacheRules(negative_s=9), None),
        ({"cache_control": "no-cache"}, 404, CacheRules(negative_s=9), None),
        ({"cache_control": "max-age=2"}, 404, CacheRules(negative_s=9), 2),
        ({"set_cookie": "a=b"}, 404, CacheRules(negative_s=9), None),
        ({"last_modified": http_date.render(NOW - 500).decode()}, 200, CacheRules(heuristic_max_s=100), 50),  # 4.2.2
        ({"last_modified": http_date.render(NOW - 9999).decode()}, 200, CacheRules(heuristic_max_s=100), 100),
        ({"last_modified": http_date.render(NOW - 500).decode()}, 302, CacheRules(heuristic_max_s=100), None),
        (
            {"last_modified": http_date.render(NOW - 500).decode(), "cache_control": "public"},
            302,
            CacheRules(heuristic_max_s=100),
            50,
        ),
        ({}, 200, CacheRules(heuristic_max_s=100), None),
    ],
)
def test_lifetimes_on_request(fields: dict[str, str], status: int, rules: CacheRules, lifetime: int | None) -> None:
    verdict = judge(b"GET", status, {}, response(**fields), NOW, rules)
    assert (verdict.lifetime_s if verdict.storable else None) == lifetime


@given(st.binary(max_size=200))
def test_no_value_breaks_the_parser(value: bytes) -> None:
    for name, argument in directives(value).items():
        assert name == name.lower()
        assert argument is None or isinstance(argument, str)
    judge(b"GET", 200, {}, {b"cache-control": value, b"expires": value, b"date": value, b"age": value}, NOW)
    freshness.initial_age_s({b"date": value, b"age": value}, NOW, NOW)


@given(st.integers(0, 2**40), st.floats(0, 1e9), st.floats(0, 100))
def test_age_never_shrinks_below_what_was_said(age: int, skew: float, delay: float) -> None:
    fields = {b"age": b"%d" % age, b"date": http_date.render(NOW - skew)}
    found = freshness.initial_age_s(fields, NOW - delay, NOW)
    assert found >= min(age, SECONDS_MAX)
    assert found >= delay - 1e-6
