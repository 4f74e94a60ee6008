"""Parts of responses: stored, combined, completed and served (RFC 9111 sections 3.3 and 3.4, RFC 9110 section 14)."""

from __future__ import annotations

import asyncio
import email
import re
from dataclasses import dataclass, field

import pytest

from tests.fakes.edge_agent import route
from tests.fakes.origin import Origin, Seen
from tests.integration.edge.client import Client, Response, fetch, until
from tests.integration.edge.conftest import Edge, MakeEdge
from tests.integration.edge.test_conformance import date

WHOLE = bytes(range(33, 123)) * 10  # 900 bytes, no two neighbours alike


@dataclass
class Files:
    """An origin with one file, which serves ranges of it; each answer is counted by its number of bytes."""

    body: bytes = WHOLE
    fields: dict[str, str] = field(default_factory=lambda: {"ETag": '"v1"', "Cache-Control": "max-age=60"})
    sent: list[int] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    async def __call__(self, seen: Seen) -> None:
        asked = seen.headers.get("range", "")
        self.asked.append(asked)
        tag = self.fields.get("ETag", "")
        if tag and seen.headers.get("if-none-match") == tag:
            await seen.send(f"HTTP/1.1 304 X\r\nETag: {tag}\r\nCache-Control: max-age=60\r\n\r\n".encode())
            return
        condition = seen.headers.get("if-range")
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", asked)
        if match is None or (condition is not None and condition not in self.fields.values()):
            self.sent.append(len(self.body))
            await seen.answer(200, self.body, **self.fields)
            return
        first, last = match[1], match[2]
        size = len(self.body)
        low = int(first) if first else size - int(last)
        high = min(size - 1, int(last)) if first and last else size - 1
        if low >= size:
            await seen.answer(416, b"", Content_Range=f"bytes */{size}")
            return
        part = self.body[low : high + 1]
        self.sent.append(len(part))
        await seen.answer(206, part, Content_Range=f"bytes {low}-{high}/{size}", **self.fields)


@pytest.fixture
def files(origin: Origin) -> Files:
    made = Files()
    origin.handler = made
    return made


async def ask(edge: Edge, wanted: str = "", method: str = "GET", **headers: str) -> Response:
    more = {"Range": f"bytes={wanted}"} if wanted else {}
    return await fetch(edge.port, "/file", method, None, **more, **headers)


async def test_a_part_is_stored_and_serves_what_lies_within_it(edge: Edge, files: Files) -> None:
    first = await ask(edge, "100-299")
    assert (first.status, first.body) == (206, WHOLE[100:300])
    assert first.headers["content-range"] == "bytes 100-299/900"
    assert first.cache == "locci; fwd=uri-miss; stored"
    for wanted, low, high in (("100-299", 100, 299), ("150-160", 150, 160), ("299-299", 299, 299)):
        answer = await ask(edge, wanted)
        assert (answer.status, answer.body) == (206, WHOLE[low : high + 1])
        assert answer.headers["content-range"] == f"bytes {low}-{high}/900"
        assert answer.headers["etag"] == '"v1"'
        assert "age" in answer.headers
        assert "hit" in answer.cache
    assert files.sent == [200]


async def test_a_suffix_and_an_open_end(edge: Edge, files: Files) -> None:
    assert (await ask(edge, "-50")).body == WHOLE[-50:]
    for wanted, low in (("-50", 850), ("-1", 899), ("860-", 860), ("890-9999", 890)):
        answer = await ask(edge, wanted)
        assert (answer.status, answer.body, "hit" in answer.cache) == (206, WHOLE[low:], True)
    assert files.sent == [50]


async def test_parts_are_combined(edge: Edge, files: Files) -> None:
    await ask(edge, "0-99")
    assert (await ask(edge, "50-199")).cache == "locci; fwd=partial; stored"
    answer = await ask(edge, "20-180")
    assert (answer.body, "hit" in answer.cache) == (WHOLE[20:181], True)
    several = await ask(edge, "0-9,100-109")
    assert (several.status, "hit" in several.cache) == (206, True)
    message = email.message_from_bytes(
        b"Content-Type: " + several.headers["content-type"].encode() + b"\r\n\r\n" + several.body
    )
    parts = [(part["Content-Range"], part.get_payload(decode=True)) for part in message.get_payload()]  # type: ignore
    assert [place for place, _ in parts] == ["bytes 0-9/900", "bytes 100-109/900"]
    await ask(edge, "200-899")
    whole = await ask(edge)
    assert (whole.status, whole.body, whole.headers["content-length"]) == (200, WHOLE, "900")
    assert "content-range" not in whole.headers
    assert "hit" in whole.cache, "nothing is missing any more"
    assert "hit" in (await ask(edge, "", "HEAD")).cache
    assert files.sent == [100, 150, 700]


async def test_what_is_missing_is_asked_for(edge: Edge, files: Files, origin: Origin) -> None:
    await ask(edge, "100-299")
    await ask(edge, "0-99")
    answer = await ask(edge)
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, WHOLE, "900")
    assert "content-range" not in answer.headers
    assert answer.cache == "locci; fwd=partial; stored"
    assert origin.seen[-1].headers["range"] == "bytes=300-"
    assert origin.seen[-1].headers["if-range"] == '"v1"'
    assert (await ask(edge)).body == WHOLE
    assert files.sent == [200, 100, 600]


async def test_the_rest_of_the_middle(edge: Edge, files: Files) -> None:
    await ask(edge, "0-99")
    await ask(edge, "800-899")
    assert (await ask(edge)).body == WHOLE
    assert files.asked[-1] == "bytes=100-799"
    assert (await ask(edge)).body == WHOLE
    assert files.sent == [100, 100, 700]


async def test_a_body_with_two_gaps_is_fetched_whole(edge: Edge, files: Files) -> None:
    await ask(edge, "100-199")
    assert (await ask(edge)).body == WHOLE
    assert files.asked[-1] == ""


async def test_a_body_that_has_changed_is_never_mixed(edge: Edge, files: Files) -> None:
    await ask(edge, "0-99")
    files.body, files.fields = WHOLE[::-1], {"ETag": '"v2"', "Cache-Control": "max-age=60"}
    answer = await ask(edge)
    assert (answer.status, answer.body) == (200, WHOLE[::-1]), "If-Range failed, and so everything came"
    assert (await ask(edge, "0-99")).body == WHOLE[::-1][:100]
    assert len(files.sent) == 2


async def test_a_part_of_another_body_replaces_what_was_stored(edge: Edge, files: Files) -> None:
    await ask(edge, "0-99")
    files.body, files.fields = WHOLE[::-1], {"ETag": '"v2"', "Cache-Control": "max-age=60"}
    await ask(edge, "100-199")
    assert "fwd=partial" in (await ask(edge, "0-99")).cache
    assert (await ask(edge, "50-150")).body == WHOLE[::-1][50:151]


async def test_an_answer_to_the_request_for_the_rest_that_does_not_fit(
    edge: Edge, files: Files, origin: Origin
) -> None:
    await ask(edge, "0-99")

    async def wrong(seen: Seen) -> None:
        if "range" in seen.headers:
            await seen.answer(206, b"x" * 800, Content_Range="bytes 100-899/900", ETag='"v9"')
        else:
            await files(seen)

    origin.handler = wrong
    answer = await ask(edge)
    assert (answer.status, answer.body) == (200, WHOLE)
    assert len(origin.seen) == 3, "asked again, for everything"


@pytest.mark.parametrize("fields", [{"ETag": 'W/"v1"'}, {}, {"Last-Modified": date(), "Date": date()}])
async def test_without_a_strong_validator_nothing_is_combined(edge: Edge, files: Files, fields: dict[str, str]) -> None:
    files.fields = {"Cache-Control": "max-age=3600"} | fields
    await ask(edge, "0-99")
    assert "hit" in (await ask(edge, "0-99")).cache
    await ask(edge, "100-199")
    assert "hit" not in (await ask(edge, "0-150")).cache
    assert (await ask(edge)).body == WHOLE
    assert files.asked[-1] == ""


async def test_a_date_may_be_a_strong_validator(edge: Edge, files: Files) -> None:
    files.fields = {"Cache-Control": "max-age=60", "Last-Modified": date(-100), "Date": date()}
    await ask(edge, "0-99")
    assert (await ask(edge)).body == WHOLE
    assert files.sent == [100, 800]


async def test_a_stale_part_is_validated(edge: Edge, files: Files, origin: Origin) -> None:
    files.fields = {"Cache-Control": "max-age=0", "ETag": '"v1"'}
    await ask(edge, "0-99")
    answer = await ask(edge, "10-19")
    assert (answer.status, answer.body, answer.cache) == (206, WHOLE[10:20], "locci; fwd=stale; fwd-status=304; stored")
    assert origin.seen[-1].headers["if-none-match"] == '"v1"'
    assert "hit" in (await ask(edge, "0-99")).cache
    assert files.sent == [100]


async def test_a_stale_part_in_errors_and_while_it_is_refreshed(edge: Edge, files: Files, origin: Origin) -> None:
    files.fields = {"Cache-Control": "max-age=10, stale-if-error=900", "ETag": '"v1"', "Age": "100"}
    await ask(edge, "0-99")

    async def broken(seen: Seen) -> None:
        await seen.answer(503, b"")

    origin.handler = broken
    assert "stale-if-error" in (await ask(edge, "10-19")).cache
    assert (await ask(edge, "10-199")).status == 503, "not all of it is there"
    assert (await ask(edge, "10-19")).status == 206
    origin.handler = files
    files.fields = {"Cache-Control": "max-age=10, stale-while-revalidate=900", "ETag": '"v2"', "Age": "100"}
    await ask(edge, "0-99")
    assert "stale-while-revalidate" in (await ask(edge, "10-19")).cache
    await until(lambda: not edge.worker.state.part_fills)


async def test_a_range_that_cannot_be_satisfied(edge: Edge, files: Files) -> None:
    await ask(edge, "0-99")
    answer = await ask(edge, "900-")
    assert (answer.status, answer.headers["content-range"]) == (416, "bytes */900")
    assert "hit" in answer.cache
    assert "416" not in str((await fetch(edge.port, "/other", Range="bytes=5000-")).headers.get("age")), "passed on"
    assert (await fetch(edge.port, "/other", Range="bytes=5000-")).status == 416
    assert len(files.sent) == 1


async def test_if_range_of_a_client(edge: Edge, files: Files) -> None:
    await ask(edge, "0-99")
    assert (await ask(edge, "0-9", If_Range='"v1"')).status == 206
    assert files.sent == [100]
    whole = await ask(edge, "0-9", If_Range='"v0"')
    assert (whole.status, whole.body) == (200, WHOLE)
    assert "hit" in (await ask(edge)).cache, "a 200 to a request for a range is a whole response"
    assert (await ask(edge, "0-9", If_Range='"v0"')).status == 200
    assert files.sent == [100, 900]


async def test_conditions_with_a_range(edge: Edge, files: Files) -> None:
    await ask(edge, "0-99")
    assert (await ask(edge, "0-9", If_None_Match='"v1"')).status == 304
    assert (await ask(edge, "0-9", If_None_Match='"v0"')).status == 206
    assert (await ask(edge, "", If_None_Match='"v1"')).status == 304
    assert files.sent == [100, 800]


async def test_what_is_no_request_for_one_part_is_passed_on(edge: Edge, files: Files) -> None:
    for wanted in ("0-1,5-6", "abc", "-", "5-1"):
        await ask(edge, wanted)
    await fetch(edge.port, "/file", Range="lines=1-2")
    assert not len(edge.worker.state.store) or "hit" in (await ask(edge)).cache
    assert (await ask(edge, "0-99", Cache_Control="no-store")).status == 206
    assert (await ask(edge, "0-99", Authorization="x")).status == 206
    assert "fwd=uri-miss" in (await fetch(edge.port, "/new", Range="bytes=0-1")).cache


async def test_many_clients_share_the_fetch_of_a_part(edge: Edge, files: Files, origin: Origin) -> None:
    async def slowly(seen: Seen) -> None:
        await until(lambda: edge.counters.fills_joined_total == 9)
        await files(seen)

    origin.handler = slowly
    answers = await asyncio.gather(*(ask(edge, "5-104") for _ in range(10)))
    assert {answer.body for answer in answers} == {WHOLE[5:105]}
    assert sum("collapsed" in answer.cache for answer in answers) == 9
    assert files.sent == [100]


async def test_monsters_are_neither_fetched_nor_kept(make_edge: MakeEdge, files: Files, origin: Origin) -> None:
    edge = await make_edge()
    await edge.serve(route("hello", ["hello.test"], [origin.address], object_bytes_max=300))
    assert (await ask(edge, "0-499")).body == WHOLE[:500]
    assert (await ask(edge, "0-")).body == WHOLE
    assert len(edge.worker.state.store) == 0, "parts that are too large are passed on"
    await ask(edge, "0-199")
    assert "hit" in (await ask(edge, "0-199")).cache, "small parts of a large body are kept"
    await ask(edge, "200-399")
    assert "fwd=partial" in (await ask(edge, "0-99")).cache, "together they would be too large: the newest stays"
    assert (await ask(edge)).body == WHOLE
    assert files.asked[-1] == "", "nothing is put together that is not stored"


async def test_a_response_that_breaks_off_is_completed(edge: Edge, files: Files, origin: Origin) -> None:
    async def breaks(seen: Seen) -> None:
        head = 'HTTP/1.1 200 X\r\nETag: "v1"\r\nCache-Control: max-age=60\r\nContent-Length: 900\r\n\r\n'
        await seen.send(head.encode() + WHOLE[:400])
        seen.writer.close()

    origin.handler = breaks
    assert not (await ask(edge)).whole
    origin.handler = files
    assert "hit" in (await ask(edge, "0-99")).cache
    assert (await ask(edge)).body == WHOLE
    assert files.asked == ["bytes=400-"]


async def test_a_part_shorter_than_its_place_is_not_stored(edge: Edge, origin: Origin) -> None:
    async def short(seen: Seen) -> None:
        if seen.target == "/chunked":
            head = "HTTP/1.1 206 X\r\nCache-Control: max-age=60\r\nContent-Range: bytes 4-9/10\r\n"
            await seen.send(f"{head}Transfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n0\r\n\r\n".encode())
        else:
            await seen.answer(206, b"01234", Cache_Control="max-age=60", Content_Range="bytes 4-9/10")

    origin.handler = short
    for target in ("/length", "/chunked"):
        await fetch(edge.port, target, Range="bytes=-5")
        assert "hit" not in (await fetch(edge.port, target, Range="bytes=-5")).cache


async def test_parts_vary_and_are_forgotten_with_their_key(edge: Edge, files: Files) -> None:
    files.fields |= {"Vary": "X-A"}
    await ask(edge, "0-99", X_A="1")
    assert "hit" in (await ask(edge, "0-99", X_A="1")).cache
    assert "fwd=vary-miss" in (await ask(edge, "0-99", X_A="2")).cache
    await fetch(edge.port, "/file", "POST", b"x")
    assert "fwd=uri-miss" in (await ask(edge, "0-99", X_A="1")).cache


async def test_an_unsafe_request_while_a_part_is_fetched(edge: Edge, files: Files, origin: Origin) -> None:
    arrived, go = asyncio.Event(), asyncio.Event()

    async def slowly(seen: Seen) -> None:
        if seen.method == "GET":
            arrived.set()
            await go.wait()
        await files(seen)

    origin.handler = slowly
    running = asyncio.create_task(ask(edge, "0-99"))
    await arrived.wait()
    await fetch(edge.port, "/file", "POST", b"x")
    go.set()
    assert (await running).status == 206
    assert "hit" not in (await ask(edge, "0-99")).cache
    assert not edge.worker.state.part_fills


async def test_ranges_of_text_that_is_stored_compressed(make_edge: MakeEdge, files: Files, origin: Origin) -> None:
    files.fields |= {"Content-Type": "text/plain"}
    edge = await make_edge()
    asked = route("hello", ["hello.test"], [origin.address])
    asked.cache.compress = True
    await edge.serve(asked)
    await ask(edge, "", Accept_Encoding="br")
    await until(lambda: not edge.worker.state.fills and len(edge.worker.state.store) == 2)
    part = await ask(edge, "0-99")
    assert (part.status, part.body) == (206, WHOLE[:100])
    await ask(edge, "100-899")
    assert (await ask(edge)).body == WHOLE
    coded = await ask(edge, "", Accept_Encoding="br")
    assert ("hit" in coded.cache, coded.headers["content-encoding"]) == (True, "br"), "parts took nobody's place"


async def test_a_client_that_breaks_off_spoils_nothing(edge: Edge, files: Files, origin: Origin) -> None:
    go = asyncio.Event()

    async def slowly(seen: Seen) -> None:
        await go.wait()
        await files(seen)

    origin.handler = slowly
    async with await Client.open(edge.port) as client:
        await client.send(b"GET /file HTTP/1.1\r\nHost: hello.test\r\nRange: bytes=0-99\r\n\r\n")
        await until(lambda: bool(origin.seen))
        client.reset()
    go.set()
    await until(lambda: not edge.worker.state.part_fills)
    assert "hit" in (await ask(edge, "0-99")).cache


@pytest.mark.parametrize("soft", [False, True])
async def test_parts_are_purged(make_edge: MakeEdge, files: Files, origin: Origin, soft: bool) -> None:
    edge = await make_edge()
    asked = route("hello", ["hello.test"], [origin.address])
    await edge.serve(asked)
    await ask(edge, "0-99")
    asked.purges.marks.add(sequence=1, url="hello.test/file", soft=soft)
    await edge.serve(asked)
    await ask(edge, "100-199")
    again = await ask(edge, "0-99")
    assert (again.status, again.body) == (206, WHOLE[:100])
    assert "fwd=partial" in again.cache if not soft else "hit" in again.cache, "a soft order is met by the newer part"
    files.fields["ETag"], files.body = '"v2"', WHOLE[::-1]
    asked.purges.marks.add(sequence=2, soft=soft)
    await edge.serve(asked)
    assert (await ask(edge, "0-99")).body == WHOLE[::-1][:100]
