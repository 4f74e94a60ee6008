from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.edge.core.cache_key import primary, same_origin_target
from agent.edge.core.headers import HeaderList, Origin, end_to_end, fields_of, loops, to_upstream
from agent.edge.core.request_head import Refused, RequestHead, check, normal_host, switches
from agent.edge.core.vary import accept_encoding, names, secondary


def parsed(target: bytes = b"/", method: bytes = b"GET", minor: int = 1, **headers: str) -> RequestHead:
    values = {"host": "a.test"} | headers
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in values.items()]
    return check(method, target, pairs, fields_of(pairs), minor, True)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        (b"A.Test", b"a.test"),
        (b"a.test.", b"a.test"),
        (b"a.test:80", b"a.test"),
        (b"a.test:443", b"a.test"),
        (b"a.test.:8080", b"a.test:8080"),
        (b"[::1]:80", b"[::1]"),
        (b"[::1]", b"[::1]"),
        (b"10.0.0.1:8080", b"10.0.0.1:8080"),
    ],
)
def test_normal_hosts(host: bytes, expected: bytes) -> None:
    assert normal_host(host) == expected


@given(st.binary(max_size=30))
def test_a_host_is_normal_or_refused(host: bytes) -> None:
    try:
        normal = normal_host(host)
    except Refused:
        return
    assert normal == normal.lower()
    assert not set(normal) & set(b" /@,?#\r\n\t\\")


@pytest.mark.parametrize(
    ("target", "host", "origin_form"),
    [
        (b"/a?b", b"a.test", b"/a?b"),
        (b"http://B.test/a", b"b.test", b"/a"),
        (b"http://b.test", b"b.test", b"/"),
        (b"https://b.test?x", b"b.test", b"/?x"),
    ],
)
def test_targets(target: bytes, host: bytes, origin_form: bytes) -> None:
    head = parsed(target)
    assert (head.host, head.target) == (host, origin_form)


def test_plain_requests() -> None:
    assert parsed().plain
    assert not parsed(range="bytes=0-1").plain
    assert not parsed(cache_control="no-cache").plain
    assert not parsed(minor=0).plain
    assert not parsed(method=b"HEAD").plain


def test_the_key_has_scheme_host_path_and_query() -> None:
    keys = {
        primary(b"http", b"a", b"/b"),
        primary(b"https", b"a", b"/b"),
        primary(b"http", b"a", b"/b?"),
        primary(b"http", b"a", b"/B"),
    }
    assert len(keys) == 4


@pytest.mark.parametrize(
    ("reference", "target"),
    [
        (b"/b", b"/b"),
        (b"c", b"/a/c"),
        (b"http://a.test/x?y#z", b"/x?y"),
        (b"http://a.test", b"/"),
        (b"http://a.test.evil/x", None),
        (b"https://a.test/x", None),
        (b"//a.test/x", b"/x"),
        (b"", None),
    ],
)
def test_invalidation_stays_at_its_origin(reference: bytes, target: bytes | None) -> None:  # RFC 9111 section 4.4
    assert same_origin_target(b"http", b"a.test", b"/a/b?q", reference) == target


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"gzip, br", b"br,gzip"),
        (b"BR;q=0.5,GZIP", b"br,gzip"),
        (b"gzip;q=0, br", b"br"),
        (b"gzip;q=0.000", b""),
        (b"gzip;q=0.001", b"gzip"),
        (b"gzip, sdch", b"gzip"),
        (b"gzip, *;q=0", b"gzip,*;q=0"),
        (b"", b""),
    ],
)
def test_accept_encoding(value: bytes, expected: bytes) -> None:
    assert accept_encoding(value) == expected


def test_secondary_keys() -> None:  # RFC 9111 section 4.1
    assert names(b"Accept, ACCEPT , cookie") == (b"accept", b"cookie")
    assert names(b"*") is None
    assert names(None) == ()
    vary = (b"accept", b"x")
    assert secondary(vary, {b"accept": b"a,b"}) == secondary(vary, {b"accept": b"a , b"})
    assert secondary(vary, {b"accept": b"", b"x": b"1"}) != secondary(vary, {b"x": b"1"})


def test_hop_by_hop_fields_stay_behind() -> None:
    headers: HeaderList = [
        (b"Connection", b"close, X-Mine, Host, Authorization"),
        (b"X-Mine", b"1"),
        (b"Host", b"a"),
        (b"Authorization", b"b"),
        (b"Keep-Alive", b"5"),
        (b"X-Other", b"2"),
    ]
    kept = [name for name, _ in end_to_end(headers, fields_of(headers))]
    assert kept == [b"Host", b"Authorization", b"X-Other"]


@pytest.mark.parametrize(("value", "count"), [(b"", 0), (b"locci", 1), (b"a, Locci; v=1, locci", 2), (b"locci2", 0)])
def test_loops(value: bytes, count: int) -> None:
    assert loops({b"cdn-loop": value}) == count


def test_only_peers_are_believed_about_the_client() -> None:
    headers: HeaderList = [(b"X-Forwarded-For", b"1.2.3.4"), (b"Forwarded", b"for=1.2.3.4"), (b"Via", b"1.1 x")]
    fields = fields_of(headers)
    for trusted, expected in ((True, b"1.2.3.4"), (False, b"::1")):
        passed = fields_of(to_upstream(headers, fields, Origin(b"::1", b"http", b"a.test", b"id", trusted), 1))
        assert passed[b"x-forwarded-for"] == expected
        assert passed[b"via"] == b"1.1 x, 1.1 locci"
        assert passed[b"host"] == b"a.test"
    assert passed[b"forwarded"] == b'for="[::1]";host="a.test";proto=http'


@pytest.mark.parametrize(
    ("upgrade", "passed"),
    [
        (b"websocket", True),
        (b"example/1.0", True),
        (b"h2c", False),
        (b"h2", False),
        (b"http/2.0", False),
        (b"tls/1.3", False),
        (b"websocket, h2c", False),
        (b"web socket", False),
        (b"", False),
        (b"a/b/c", False),
        (b"x" * 65, False),
    ],
)
def test_which_upgrades_are_passed_on(upgrade: bytes, passed: bool) -> None:
    assert switches(upgrade) is passed
