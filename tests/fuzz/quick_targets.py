"""What of the compiled parts reads bytes of others, beside the Python that does the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from agent.edge import quick, quick_path
from agent.edge.access_log import PythonLines
from agent.edge.core import entry_codec
from agent.edge.core.entry import StoredResponse

quick_path.install()


def heads(data: bytes) -> None:
    """What is taken of a response has one length, and its body is what came behind the head."""
    if quick.rewritten is None:
        return
    for response in (data, b"HTTP/1.1 200 OK\r\n" + data):
        made = quick.rewritten(response, b"locci; fwd=miss", b"id", b"DATE")
        if made is None:
            continue
        out, status, length, size = made
        head, end, body = out.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        assert end
        assert response.endswith(body)
        assert len(body) == size <= length
        assert 200 <= status <= 599
        assert [line for line in lines if line.startswith(b"content-length")] == [b"content-length: %d" % length]
        assert not any(line.startswith((b"transfer-encoding", b"connection", b"upgrade")) for line in lines)


def stored(data: bytes) -> None:
    """A stored form with a sum that fits is read as Python reads it, or left to it."""
    if quick.decode is None:
        return
    for content in (data, data.ljust(80, b"\0")):
        form = entry_codec.MAGIC + entry_codec.sum_of(b"key", content) + content
        found, usual = quick.decode(b"key", form), entry_codec.decode(b"key", form)
        if found is not None:
            assert isinstance(usual, StoredResponse)
            usual.fix()
            found.fix()
            assert repr(found) == repr(usual)
        assert quick.decode(b"other", form) is None
    quick.decode(b"key", data)


def lines(data: bytes) -> None:
    """Lines of the access log are the same."""
    if quick.compiled is None:
        return
    one, other = PythonLines(3), quick.compiled.Lines(3)
    number = int.from_bytes(data[:6], "big") / 7e4
    for each in (one, other):
        for at in (number, -number, number * 1e-6):
            each.add(at, data, data[3:], "app", 200, len(data), at, data[:9], data[9:])
    assert one.take() == other.take()


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "quick-heads": heads,
    "quick-stored": stored,
    "quick-lines": lines,
}
SEEDS: Final[dict[str, tuple[bytes, ...]]] = {
    "quick-heads": (
        b"Content-Length: 3\r\nVia: 1.1 a\r\nConnection: keep-alive\r\nCache-Status: a; hit\r\n\r\nabc",
        b"HTTP/1.1 503 No\r\nDate: x\r\nETag: \r\nContent-Length: 0\r\n\r\n",
    ),
    "quick-stored": (
        bytes((0, 200)) + bytes(49) + b"\0\0\0\1" + b"\0\0\0\2\0\0\0\0\0\0\0\4\0\0\0\3OKetag\"v\"body",
        bytes((0, 204)) + bytes(49) + b"\0\0\0\2" + b"\0\0\0\1" * 6 + b"abVaryxy",
    ),
    "quick-lines": (b"10.0.0.1", b"\xff" * 30, bytes(6)),
}  # fmt: skip
