"""Compressed once, stored so, and sent to those who accept it."""

from __future__ import annotations

import gzip

import zstandard

from tests.fakes.edge_agent import route
from tests.fakes.origin import Origin, Seen
from tests.integration.edge.client import fetch, until
from tests.integration.edge.conftest import MakeEdge

PAGE = b"<p>hello</p>" * 500


async def test_text_is_stored_compressed(make_edge: MakeEdge, origin: Origin) -> None:
    async def handler(seen: Seen) -> None:
        kind = "image/png" if seen.target == "/image" else "text/html"
        await seen.answer(200, PAGE, Cache_Control="max-age=60", ETag='"v1"', Content_Type=kind)

    origin.handler = handler
    edge = await make_edge()
    asked = route("hello", ["hello.test"], [origin.address])
    asked.cache.compress = True
    await edge.serve(asked)

    async def fill(target: str, accepted: str) -> None:
        assert (await fetch(edge.port, target, Accept_Encoding=accepted)).body == PAGE
        await until(lambda: not edge.worker.state.fills, 30)

    await fill("/", "gzip, zstd")
    found = await fetch(edge.port, "/", Accept_Encoding="zstd;q=1, gzip;q=1")
    assert (found.headers["content-encoding"], found.headers["vary"]) == ("zstd", "Accept-Encoding")
    assert zstandard.ZstdDecompressor().decompress(found.body) == PAGE
    assert ("hit" in found.cache, found.headers["etag"], len(found.body) < 200) == (True, 'W/"v1"', True)
    await fill("/", "gzip")
    assert gzip.decompress((await fetch(edge.port, "/", Accept_Encoding="gzip")).body) == PAGE
    await fill("/", "identity")
    plain = await fetch(edge.port, "/", Accept_Encoding="identity")
    assert (plain.body, "content-encoding" in plain.headers, "hit" in plain.cache) == (PAGE, False, True)
    assert (await fetch(edge.port, "/", Accept_Encoding="gzip", If_None_Match='"v1"')).status == 304
    await fill("/image", "gzip")
    image = await fetch(edge.port, "/image", Accept_Encoding="br")
    assert (image.body, "hit" in image.cache, "vary" in image.headers) == (PAGE, True, False)
    assert len(origin.seen) == 4
