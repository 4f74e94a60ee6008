"""What is fuzzed: each target takes bytes, and raises when a rule is broken. No sockets, no clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import httptools

from agent.edge.core import (
    cache_key,
    conditional,
    entry_codec,
    freshness,
    http_date,
    partial,
    proxy_header,
    resp,
    targeted,
    vary,
)
from agent.edge.core.cache_rules import CacheRules
from agent.edge.core.entry import StoredResponse, combined, freshened, make, part
from agent.edge.core.entry_codec import Striped
from agent.edge.core.headers import HeaderList, Origin, encode_head, fields_of, to_upstream
from agent.edge.core.partial import Parts, Place
from agent.edge.core.request_head import Refused, check
from tests.fuzz import agent_targets, http2_targets, quick_targets

NOW: Final = 1_750_000_000.0
RULES: Final = CacheRules(query_ignore=(b"utm_*",), query_sort=True, negative_s=10, heuristic_max_s=60)
ORIGIN: Final = Origin(b"192.0.2.1", b"https", b"hello.test", b"id-12345", False)


class _Heads:
    """Collects what a parser sees; both directions."""

    def __init__(self) -> None:
        self.headers: HeaderList = []
        self.url = b""
        self.body = b""
        self.messages = 0

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_body(self, chunk: bytes) -> None:
        self.body += chunk

    def on_message_complete(self) -> None:
        self.messages += 1


def request(data: bytes) -> None:
    """Whatever is taken for a request goes on as one request that says what the first said, once."""
    seen = _Heads()
    parser = httptools.HttpRequestParser(seen)
    try:
        parser.feed_data(data)
        if not seen.messages or seen.messages > 1:
            return
        fields = fields_of(seen.headers)
        head = check(parser.get_method(), seen.url, seen.headers, fields, 1, parser.should_keep_alive())
    except (httptools.HttpParserError, httptools.HttpParserUpgrade, httptools.HttpParserCallbackError, Refused):
        return
    sent = to_upstream(head.headers, head.fields, ORIGIN, head.minor)
    again = _Heads()
    framing = [(b"Content-Length", b"%d" % len(seen.body))] if head.has_body else []
    raw = encode_head(head.method + b" " + head.target + b" HTTP/1.1", [*sent, *framing]) + seen.body
    httptools.HttpRequestParser(again).feed_data(raw)
    assert again.messages == 1, raw
    assert (again.url, again.body) == (head.target, seen.body), raw
    names = [name.lower() for name, _ in again.headers]
    assert names.count(b"host") == 1
    assert b"transfer-encoding" not in names
    assert names.count(b"content-length") == len(framing)
    cache_key.primary(b"http", head.host, head.target, RULES)


def _message(data: bytes) -> tuple[HeaderList, bytes]:
    """Fields and a body: lines of `name: value`, an empty line, the rest."""
    head, _, body = data.partition(b"\n\n")
    pairs = (line.partition(b":") for line in head.split(b"\n"))
    return [
        (name.strip(b" \t\r"), value.strip(b" \t\r")) for name, colon, value in pairs if colon and name.strip()
    ], body


def cache(data: bytes) -> None:
    """Rules of storing and freshness hold for whatever origins and clients say."""
    first, _, second = data.partition(b"\0")
    headers, body = _message(first)
    asked, _ = _message(second)
    fields, wanted = fields_of(headers), fields_of(asked)
    verdict = freshness.judge(b"GET", 200, wanted, fields, NOW, RULES)
    assert verdict.storable or verdict.reason
    assert 0 <= verdict.lifetime_s <= freshness.SECONDS_MAX
    age = freshness.initial_age_s(fields, NOW - 1, NOW)
    assert age >= 0
    control = freshness.directives(fields.get(b"cache-control"))
    if verdict.storable and b"cdn-cache-control" not in fields and b"locci-cdn-cache-control" not in fields:
        assert "no-store" not in control or "must-understand" in control
        assert "private" not in control or freshness.named_fields(control, "private")
    demands = freshness.demands(wanted)
    assert not (demands.validate and freshness.satisfied(demands, 0, 60, False))
    entry = make(200, b"OK", headers, body, verdict, NOW - 1, NOW)
    assert not {b"connection", b"transfer-encoding", b"set-cookie2\r"} & entry.fields.keys()
    vary.secondary(entry.vary, wanted)
    conditional.not_modified(wanted, entry, NOW)
    _ranges(wanted, entry)
    again = freshened(entry, asked, NOW, NOW + 1, wanted, RULES)
    assert again.body == body
    http_date.parse(fields.get(b"date", b""), NOW)
    targeted.parse(fields.get(b"cdn-cache-control", b""))


def _ranges(wanted: dict[bytes, bytes], entry: StoredResponse) -> None:
    ranges = conditional.byte_ranges(wanted, entry)
    if isinstance(ranges, bool):
        return
    for first, last in ranges:
        assert 0 <= first <= last < entry.size
        assert entry.take(first, last) == entry.body[first : last + 1]


def parts(data: bytes) -> None:
    """Parts never hold a byte that was not put in, and never lose one but to their bound."""
    total = 64
    whole = bytes(range(total))
    held, known = Parts(total, ()), set[int]()
    for at, size in zip(data[::2], data[1::2], strict=False):
        first = at % total
        piece = whole[first : first + 1 + size % total]
        held = held.joined(first, piece)
        known |= set(range(first, first + len(piece)))
    for at in range(total):
        assert held.take(at, at) == (whole[at : at + 1] if at in known else None)
    missing = {at for first, last in held.gaps() for at in range(first, last + 1)}
    assert missing == set(range(total)) - known
    place = partial.placed(206, {b"content-range": data})
    assert place is None or place.first <= place.last < place.total
    if place is not None and place.size <= len(whole):
        verdict = freshness.judge(b"GET", 200, {}, {b"cache-control": b"max-age=9"}, NOW)
        came = part(make(206, b"", [(b"ETag", b'"x"')], b"", verdict, NOW, NOW), place, whole[: place.size])
        one = part(came, Place(0, 0, place.total), b"\0")
        assert combined(one, came, 10**6).size == place.total


def codec(data: bytes) -> None:
    """What lies in the second tier is what was put there under this very key, or nothing; it never raises."""
    key, _, value = data.partition(b"\n")
    found = entry_codec.decode(key, value)
    if isinstance(found, StoredResponse):
        assert entry_codec.decode(key, entry_codec.encode(key, found)) is not None
    elif isinstance(found, Striped):
        assert len(found.keys(key)) == found.count
    verdict = freshness.judge(b"GET", 200, {}, {b"cache-control": b"max-age=9"}, NOW)
    stored = entry_codec.encode(key, make(200, b"OK", [(b"X", value.replace(b"\r", b""))], value, verdict, NOW, NOW))
    back = entry_codec.decode(key, stored)
    assert isinstance(back, StoredResponse)
    assert back.body == value
    assert entry_codec.decode(key + b"x", stored) is None
    for at in range(0, len(stored), 1 + len(stored) // 8):
        assert entry_codec.decode(key, stored[:at] + bytes([stored[at] ^ 1]) + stored[at + 1 :]) is None


def replies(data: bytes) -> None:
    """Whatever a server sends is cut into replies, however it arrives, or is found to be none."""

    def read(pieces: list[bytes]) -> list[object]:
        reader, found = resp.Replies(10_000), list[object]()
        try:
            for piece in pieces:
                found.extend(map(_comparable, reader.feed(piece)))
        except resp.NotRedis:
            found.append("not redis")
        return found

    assert read([data]) == read([data[at : at + 1] for at in range(len(data))])


def _comparable(reply: object) -> object:
    """Errors, in arrays too, by what they say."""
    if isinstance(reply, list):
        return [_comparable(each) for each in reply]
    return str(reply) if isinstance(reply, Exception) else reply


def proxy(data: bytes) -> None:
    """A PROXY header is read or refused."""
    try:
        proxy_header.parse(data)
    except ValueError:
        return


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "request": request,
    "cache": cache,
    "parts": parts,
    "codec": codec,
    "replies": replies,
    "proxy": proxy,
    "http2-frames": http2_targets.frames,
    "http2-blocks": http2_targets.blocks,
    **quick_targets.TARGETS,
    **agent_targets.TARGETS,
}
SEEDS: Final[dict[str, tuple[bytes, ...]]] = {
    "request": (
        b"GET /a?b=c HTTP/1.1\r\nHost: hello.test\r\nConnection: X\r\nX: y\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
        b"POST http://b/ HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
    ),
    "cache": (
        b'Cache-Control: max-age=60, private="X"\nVary: Accept\nETag: "x"\n\nbody\0Range: bytes=0-1,3-\nIf-Range: "x"',
        b"CDN-Cache-Control: max-age=5;a=b, (1 2)\nExpires: 0\nAge: 7\n\nbody\0Cache-Control: max-stale=5, no-cache\n",
        b"Date: Tue, 15 Nov 1994 12:45:26 GMT\nLast-Modified: Sunday, 06-Nov-94 08:49:37 GMT\nSet-Cookie: a\n\n\0",
    ),
    "parts": (b"bytes 0-4/10", bytes(range(40))),
    "codec": (b"key\nLCC3", b"k\n" + entry_codec.MAGIC + b"\0" * 40),
    "replies": (b"+OK\r\n$3\r\nabc\r\n*2\r\n:1\r\n$-1\r\n", b"-ERR x\r\n_\r\n", b"*2\r\n-:1\r\n$-1\r\n"),
    "proxy": (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12)),
    "http2-frames": http2_targets.SEEDS["frames"],
    "http2-blocks": http2_targets.SEEDS["blocks"],
    **quick_targets.SEEDS,
    **agent_targets.SEEDS,
}
