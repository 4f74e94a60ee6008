from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.edge.core.headers import Origin, encode_head, to_upstream
from agent.edge.core.http2_request import read
from agent.edge.core.request_head import Refused

START = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"hello.test"), (b":path", b"/a?b")]


def test_a_request() -> None:
    head = read([*START, (b"accept", b"*/*"), (b"te", b"trailers")], b"https", 100, ended=True)
    assert (head.method, head.target, head.host, head.minor) == (b"GET", b"/a?b", b"hello.test", 2)
    assert head.plain
    assert not head.has_body


def test_a_body_with_and_without_a_length() -> None:
    post = [(b":method", b"POST"), *START[1:]]
    assert read(post, b"https", 100, ended=False).chunked
    assert read([*post, (b"content-length", b"5")], b"https", 100, ended=False).content_length == 5
    for length in (b"5, 5", b"-1", b"+5", b"5 ", b"0x5"):
        with pytest.raises(Refused):
            read([*post, (b"content-length", length)], b"https", 100, ended=False)
    with pytest.raises(Refused):
        read([*post, (b"content-length", b"5")], b"https", 100, ended=True)


def test_host_serves_when_there_is_no_authority() -> None:
    block = [pair for pair in START if pair[0] != b":authority"]
    assert read([*block, (b"host", b"Hello.Test.")], b"https", 100, ended=True).host == b"hello.test"
    with pytest.raises(Refused):
        read(block, b"https", 100, ended=True)
    with pytest.raises(Refused):
        read([*block, (b"host", b"a"), (b"host", b"a")], b"https", 100, ended=True)


def test_the_number_of_fields_has_a_limit() -> None:
    with pytest.raises(Refused) as caught:
        read([*START, *((b"cookie", b"a=%d" % n) for n in range(101))], b"https", 100, ended=True)
    assert caught.value.status == 431


TEXT = st.one_of(st.binary(max_size=12), st.sampled_from([b"a\r\nb", b"a\nb", b"a:b", b"chunked", b"0", b" a", b"a\0"]))


@given(st.lists(st.tuples(st.one_of(TEXT, st.sampled_from([b"x", b"host", b":path", b"content-length"])), TEXT)))
@example([(b"x", b"a\r\nTransfer-Encoding: chunked")])
def test_what_goes_on_as_http_1_1_has_the_lines_that_it_should_have(more: list[tuple[bytes, bytes]]) -> None:
    with contextlib.suppress(Refused):
        head = read([*START, *more], b"https", 100, ended=True)
        origin = Origin(b"10.0.0.1", b"https", head.host, b"request-1", False)
        passed = to_upstream(head.headers, head.fields, origin, head.minor)
        data = encode_head(head.method + b" " + head.target + b" HTTP/1.1", passed)
        lines = re.split(rb"\r\n|\r|\n|\0", data)
        assert len(lines) == len(passed) + 3
        assert lines[-2:] == [b"", b""]
        assert all(re.match(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+: ", line) for line in lines[1:-2])
