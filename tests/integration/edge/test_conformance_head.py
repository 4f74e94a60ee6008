"""What an answer to HEAD does to a stored answer to GET (RFC 9111, section 4.3.5), and If-Range (RFC 9110, 13.1.5)."""

from __future__ import annotations

import pytest

from tests.fakes.origin import Origin, Seen
from tests.integration.edge.conftest import Edge
from tests.integration.edge.test_conformance import OLD, TAG, Headers, ask, date


async def test_a_head_updates_what_is_stored(edge: Edge, origin: Origin) -> None:
    async def handler(seen: Seen) -> None:
        kept = {"Cache-Control": "max-age=0", "ETag": '"v1"', "X-Old": "1"}
        new = {"Cache-Control": "max-age=60", "X-New": "1"}
        await seen.answer(200, b"body 1", **(kept if len(origin.seen) == 1 else new))

    origin.handler = handler
    await ask(edge)
    updated = await ask(edge, "/", "HEAD")
    assert (updated.headers["x-new"], updated.headers["x-old"], updated.headers["content-length"]) == ("1", "1", "6")
    assert updated.cache == "locci; fwd=stale; stored"
    answer = await ask(edge)
    assert (answer.body, answer.headers["x-new"], answer.headers["etag"]) == (b"body 1", "1", '"v1"')
    assert "hit" in answer.cache
    assert [seen.method for seen in origin.seen] == ["GET", "HEAD"]


@pytest.mark.parametrize("other", [{"ETag": '"v2"'}, {"Last-Modified": date(-5)}, {"Content-Length": "99"}])
async def test_a_head_that_speaks_of_another_response(edge: Edge, origin: Origin, other: Headers) -> None:
    async def handler(seen: Seen) -> None:
        more = {"Cache-Control": "max-age=60"} | TAG | (other if seen.method == "HEAD" else {})
        lines = "".join(f"{name}: {value}\r\n" for name, value in more.items())
        if seen.method == "HEAD":
            await seen.send(f"HTTP/1.1 200 X\r\n{lines}\r\n".encode())
        else:
            await seen.answer(200, b"body %d" % len(origin.seen), **more)

    origin.handler = handler
    await ask(edge)
    assert "hit" in (await ask(edge, "/", "HEAD")).cache
    await ask(edge, "/", "HEAD", Cache_Control="no-cache")
    assert [seen.method for seen in origin.seen] == ["GET", "HEAD"]
    assert "fwd=stale" in (await ask(edge)).cache, "what is stored is stale then"


async def test_a_head_that_fails_leaves_what_is_stored(edge: Edge, origin: Origin) -> None:
    async def handler(seen: Seen) -> None:
        if seen.method == "HEAD":
            await seen.answer(503 if seen.target == "/kept" else 404, b"")
        else:
            await seen.answer(200, b"body", Cache_Control="max-age=10, stale-if-error=999", Age="100")

    origin.handler = handler
    for target, status in (("/kept", 200), ("/other", 404)):
        await ask(edge, target)
        assert (await ask(edge, target, "HEAD")).status == status
    assert "stale-if-error" in (await ask(edge, "/kept", "HEAD")).cache
    await origin.stop()
    assert "stale-if-error" in (await ask(edge, "/kept", "HEAD")).cache


async def test_if_range(edge: Edge, origin: Origin) -> None:
    async def handler(seen: Seen) -> None:
        await seen.answer(200, b"0123456789", Cache_Control="max-age=60", Date=date(), **OLD, ETag='"v1"')

    origin.handler = handler
    await ask(edge)
    for condition, status in (
        ('"v1"', 206),
        ('W/"v1"', 200),
        ('"v2"', 200),
        (OLD["Last-Modified"], 206),
        (date(), 200),
    ):
        answer = await ask(edge, "/", Range="bytes=2-3", If_Range=condition)
        assert (answer.status, len(answer.body)) == (status, 2 if status == 206 else 10), condition
        assert "age" in answer.headers
    assert len(origin.seen) == 1
