from __future__ import annotations

import pytest

from agent.edge.core import trailers


@pytest.mark.parametrize(
    ("te", "wanted"),
    [(b"trailers", True), (b"gzip, Trailers", True), (b"trailers;q=1", True), (b"gzip", False), (b"", False)],
)
def test_who_wants_them(te: bytes, wanted: bool) -> None:
    assert trailers.wanted({b"te": te}) == wanted
    assert not trailers.wanted({})


def test_what_is_no_trailer_stays_behind() -> None:
    fine = [(b"Grpc-Status", b"0"), (b"X-Checksum", b"abc"), (b"ETag", b'"1"'), (b"Server-Timing", b"a")]
    names = "Content-Length transfer-encoding Host Set-Cookie If-Match Connection X-Forwarded-For Cache-Control Trailer"
    for name in (*names.split(), "Locci-Hop", "Content-Encoding", "Authorization", "X-Request-Id"):
        assert trailers.passed_on([*fine, (name.encode(), b"1")]) == fine
    assert trailers.passed_on([(b"X", b"1")] * 33) == []
    assert trailers.passed_on([(b"X", b"1" * 9000)]) == []
    assert trailers.announced(b"X-Checksum, content-length,  Grpc-Status") == b"x-checksum, grpc-status"
    assert trailers.announced(b"content-length") == b""
