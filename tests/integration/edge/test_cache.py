from __future__ import annotations

import asyncio

from agent.edge.fetcher import Outgoing
from tests.fakes.edge_agent import route
from tests.fakes.origin import Origin, Seen
from tests.integration.edge.client import Client, Response, fetch, until
from tests.integration.edge.conftest import Edge, MakeEdge


async def keep(seen: Seen) -> None:
    number = seen.target.encode()
    await seen.answer(200, b"body of " + number, Cache_Control="max-age=60", ETag='"one"')


async def test_miss_then_hit(edge: Edge, origin: Origin) -> None:
    origin.handler = keep
    first = await fetch(edge.port, "/a")
    assert first.cache == "locci; fwd=uri-miss; stored"
    async with await Client.open(edge.port) as client:
        for _ in range(3):
            second = await client.get("/a")
            assert (second.status, second.body) == (200, first.body)
            assert second.cache.startswith("locci; hit; ttl=")
            assert int(second.headers["age"]) <= 30
            assert second.headers["etag"] == '"one"'
    assert len(origin.seen) == 1
    assert (await fetch(edge.port, "/a?")).cache.startswith("locci; fwd=uri-miss")


async def test_a_large_hit(edge: Edge, origin: Origin) -> None:
    async def large(seen: Seen) -> None:
        await seen.answer(200, b"x" * 1_000_000, Cache_Control="max-age=60")

    origin.handler = large
    async with await Client.open(edge.port) as client:
        for _ in range(3):
            assert (await client.get()).body == b"x" * 1_000_000
    assert len(origin.seen) == 1


async def test_conditions_ranges_and_head_from_a_stored_response(edge: Edge, origin: Origin) -> None:
    origin.handler = keep
    async with await Client.open(edge.port) as client:
        whole = await client.get("/a")
        assert (await client.get("/a", If_None_Match='W/"one", "two"')).status == 304
        assert (await client.get("/a", If_None_Match='"two"')).status == 200
        head = await client.get("/a", "HEAD")
        assert head.headers["content-length"] == str(len(whole.body))
        part = await client.get("/a", Range="bytes=2-4")
        assert (part.status, part.body, part.headers["content-range"]) == (206, whole.body[2:5], "bytes 2-4/10")
        beyond = await client.get("/a", Range="bytes=100-")
        assert (beyond.status, beyond.headers["content-range"]) == (416, "bytes */10")
        several = await client.get("/a", Range="bytes=0-1,3-4")
        assert several.status == 206
        kind, _, boundary = several.headers["content-type"].partition("; boundary=")
        assert kind == "multipart/byteranges"
        parts = several.body.decode().split(f"--{boundary}")
        assert [part.partition("\r\n\r\n")[2] for part in parts[1:-1]] == ["bo\r\n", "y \r\n"]
        assert ["Content-Range: bytes 0-1/10" in parts[1], parts[-1]] == [True, "--\r\n"]
    assert len(origin.seen) == 1


async def test_a_condition_on_a_miss_fills_the_cache(edge: Edge, origin: Origin) -> None:
    origin.handler = keep
    assert (await fetch(edge.port, "/a", If_None_Match='"one"')).status == 304
    assert "if-none-match" not in origin.seen[0].headers
    assert (await fetch(edge.port, "/a")).cache.startswith("locci; hit")


async def test_what_may_not_be_stored(edge: Edge, origin: Origin) -> None:
    cases = {
        "/no-store": {"Cache_Control": "no-store, max-age=60"},
        "/private": {"Cache_Control": "private, max-age=60"},
        "/nothing": {},
        "/cookie": {"Cache_Control": "max-age=60", "Set_Cookie": "a=b"},
        "/vary": {"Cache_Control": "max-age=60", "Vary": "*"},
        "/expired": {"Expires": "0"},
    }

    async def answer(seen: Seen) -> None:
        await seen.answer(200, b"x", **cases[seen.target])

    origin.handler = answer
    for target in cases:
        for _ in range(2):
            assert "hit" not in (await fetch(edge.port, target)).cache
    assert len(origin.seen) == 2 * len(cases)


async def test_a_policy_that_stores_nothing(make_edge: MakeEdge, origin: Origin) -> None:
    origin.handler = keep
    edge = await make_edge()
    await edge.serve(route("hello", ["hello.test"], [origin.address]))
    await fetch(edge.port)
    assert (await fetch(edge.port)).cache.startswith("locci; hit")
    await edge.serve(route("hello", ["hello.test"], [origin.address], cache=False))
    for _ in range(2):
        assert (await fetch(edge.port)).cache == "locci; fwd=bypass"


async def test_variants(edge: Edge, origin: Origin) -> None:
    async def vary(seen: Seen) -> None:
        coding = "br" if "br" in seen.headers.get("accept-encoding", "") else "none"
        await seen.answer(200, coding.encode(), Cache_Control="max-age=60", Vary="Accept-Encoding")

    origin.handler = vary
    assert (await fetch(edge.port, Accept_Encoding="gzip, br")).body == b"br"
    assert (await fetch(edge.port, Accept_Encoding="br;q=0.8,  gzip")).cache.startswith("locci; hit")
    plain = await fetch(edge.port)
    assert (plain.body, plain.cache) == (b"none", "locci; fwd=vary-miss; stored")
    assert (await fetch(edge.port)).cache.startswith("locci; hit")
    assert (await fetch(edge.port, Accept_Encoding="gzip, br")).cache.startswith("locci; hit")
    assert len(origin.seen) == 2


async def test_validation(edge: Edge, origin: Origin) -> None:
    async def validate(seen: Seen) -> None:
        if seen.headers.get("if-none-match") == '"one"':
            await seen.send(b'HTTP/1.1 304 X\r\nETag: "one"\r\nCache-Control: max-age=60\r\nX-New: 1\r\n\r\n')
        else:
            await seen.answer(200, b"body", Cache_Control="max-age=0", ETag='"one"', X_New="0")

    origin.handler = validate
    await fetch(edge.port)
    second = await fetch(edge.port)
    assert (second.status, second.body, second.headers["x-new"]) == (200, b"body", "1")
    assert second.cache == "locci; fwd=stale; fwd-status=304; stored"
    assert (await fetch(edge.port)).cache.startswith("locci; hit")
    assert edge.counters.revalidations_total == 1


async def test_a_reload_asks_the_origin(edge: Edge, origin: Origin) -> None:
    origin.handler = keep
    await fetch(edge.port)
    assert (await fetch(edge.port, Cache_Control="no-cache")).cache.startswith("locci; fwd=request")
    assert (await fetch(edge.port, "/other", Cache_Control="only-if-cached")).status == 504
    assert (await fetch(edge.port, Cache_Control="only-if-cached")).status == 200


async def test_unsafe_methods_invalidate(edge: Edge, origin: Origin) -> None:
    async def handler(seen: Seen) -> None:
        if seen.method == "POST":
            await seen.answer(201, b"", Location="/b", Content_Location="http://hello.test/c")
        elif seen.method == "DELETE":
            await seen.answer(500, b"")
        else:
            await keep(seen)

    origin.handler = handler
    for target in ("/a", "/b", "/c", "/d"):
        await fetch(edge.port, target)
    await fetch(edge.port, "/d", "DELETE")
    await fetch(edge.port, "/a", "POST", b"x")
    for target in ("/a", "/b", "/c"):
        assert (await fetch(edge.port, target)).cache.startswith("locci; fwd=uri-miss"), target
    assert (await fetch(edge.port, "/d")).cache.startswith("locci; hit"), "an error invalidates nothing"


async def test_stale_if_error_and_while_revalidate(edge: Edge, origin: Origin) -> None:
    failing = False

    async def handler(seen: Seen) -> None:
        if failing:
            await seen.answer(500, b"broken")
        elif seen.target == "/error":
            await seen.answer(200, b"good", Cache_Control="max-age=0, stale-if-error=60")
        else:
            await seen.answer(200, b"good", Cache_Control="max-age=0, stale-while-revalidate=60")

    origin.handler = handler
    await fetch(edge.port, "/error")
    await fetch(edge.port, "/while")
    before = len(origin.seen)
    answer = await fetch(edge.port, "/while")
    assert answer.body == b"good"
    assert "hit" in answer.cache
    assert "stale-while-revalidate" in answer.cache
    await until(lambda: len(origin.seen) == before + 1)
    failing = True
    answer = await fetch(edge.port, "/error")
    assert (answer.status, answer.body) == (200, b"good")
    assert "stale-if-error" in answer.cache
    await origin.stop()
    assert (await fetch(edge.port, "/error")).status == 200


async def gather(edge: Edge, count: int, target: str) -> list[Response]:
    return await asyncio.gather(*(fetch(edge.port, target) for _ in range(count)))


async def test_many_clients_share_one_fetch(edge: Edge, origin: Origin) -> None:
    async def slow(seen: Seen) -> None:
        await seen.send(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(10):
            await asyncio.sleep(0.02)
            await seen.send(b"4\r\nbody\r\n")
        await seen.send(b"0\r\n\r\n")

    origin.handler = slow
    responses = await gather(edge, 50, "/shared")
    assert {response.body for response in responses} == {b"body" * 10}
    assert len(origin.seen) == 1
    assert sum("collapsed" in response.cache for response in responses) == 49
    assert not edge.worker.state.fills
    assert edge.worker.state.fill_bytes == 0


async def test_what_may_not_be_shared_is_not(edge: Edge, origin: Origin) -> None:
    count = 0

    async def private(seen: Seen) -> None:
        nonlocal count
        count += 1
        mine = count
        await asyncio.sleep(0.05)
        await seen.answer(200, str(mine).encode(), Cache_Control="private")

    origin.handler = private
    responses = await gather(edge, 20, "/private")
    assert len({response.body for response in responses}) == 20


async def test_a_client_that_leaves_does_not_stop_the_fetch(edge: Edge, origin: Origin) -> None:
    go_on = asyncio.Event()

    async def slow(seen: Seen) -> None:
        await seen.send(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 8\r\n\r\nbody")
        await go_on.wait()
        await seen.send(b"body")

    origin.handler = slow
    client = await Client.open(edge.port)
    await client.send(b"GET /left HTTP/1.1\r\nHost: hello.test\r\n\r\n")
    await client.reader.readuntil(b"body")
    client.reset()
    other = asyncio.ensure_future(fetch(edge.port, "/left"))
    await until(lambda: edge.counters.fills_joined_total == 1)
    go_on.set()
    assert (await other).body == b"bodybody"
    assert (await fetch(edge.port, "/left")).cache.startswith("locci; hit")
    assert len(origin.seen) == 1


async def test_the_first_client_leaves_before_a_private_answer(edge: Edge, origin: Origin) -> None:
    async def slow(seen: Seen) -> None:
        await asyncio.sleep(0.2)
        await seen.answer(200, b"private", Cache_Control="private")

    origin.handler = slow
    client = await Client.open(edge.port)
    await client.send(b"GET /left HTTP/1.1\r\nHost: hello.test\r\n\r\n")
    await until(lambda: len(origin.seen) == 1)
    other = asyncio.ensure_future(fetch(edge.port, "/left"))
    await until(lambda: edge.counters.fills_joined_total == 1)
    client.reset()
    assert (await other).body == b"private"
    await until(lambda: edge.worker.state.endpoints[origin.address].outstanding == 0)


async def test_a_slow_client_does_not_slow_the_rest(edge: Edge, origin: Origin) -> None:
    body = b"x" * 6_000_000

    async def large(seen: Seen) -> None:
        await asyncio.sleep(0.05)
        await seen.answer(200, body, Cache_Control="max-age=60")

    origin.handler = large
    _, slow = await asyncio.open_connection("127.0.0.1", edge.port, limit=1024)
    slow.write(b"GET /large HTTP/1.1\r\nHost: hello.test\r\n\r\n")
    async with asyncio.timeout(30):
        assert (await fetch(edge.port, "/large")).body == body
    assert len(origin.seen) == 1
    slow.close()


async def test_a_body_of_unknown_length_that_grows_too_large(make_edge: MakeEdge, origin: Origin) -> None:
    total = 12_000_000

    async def grow(seen: Seen) -> None:
        await seen.send(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(total // 60_000):
            await seen.send(b"%x\r\n%b\r\n" % (60_000, b"y" * 60_000))
        await seen.send(b"0\r\n\r\n")

    origin.handler = grow
    edge = await make_edge()
    await edge.serve(route("hello", ["hello.test"], [origin.address], object_bytes_max=100_000))
    response = await fetch(edge.port)
    assert (len(response.body), response.whole) == (total, True)
    assert len(edge.worker.state.store) == 0
    assert edge.worker.state.fill_bytes == 0


async def test_memory_stays_within_its_budget(make_edge: MakeEdge, origin: Origin) -> None:
    async def some(seen: Seen) -> None:
        await seen.answer(200, b"z" * 5000, Cache_Control="max-age=60")

    origin.handler = some
    edge = await make_edge(ram_cache_bytes=200_000)
    await edge.serve(route("hello", ["hello.test"], [origin.address]))
    async with await Client.open(edge.port) as client:
        for number in range(200):
            assert (await client.get(f"/{number}")).status == 200
    assert edge.worker.state.store.used_bytes <= 200_000
    assert len(edge.worker.state.store) > 5


async def test_a_host_that_goes_takes_its_stored_responses_along(edge: Edge, origin: Origin) -> None:
    origin.handler = keep
    await fetch(edge.port)
    await edge.serve(route("other", ["other.test"], [origin.address]))
    assert (await fetch(edge.port)).status == 421
    await edge.serve(route("hello", ["hello.test"], [origin.address]))
    assert (await fetch(edge.port)).cache.startswith("locci; fwd=uri-miss")


async def test_an_edge_that_knows_a_newer_purge_gets_nothing_stored(edge: Edge, origin: Origin) -> None:
    async def handler(seen: Seen) -> None:
        await seen.answer(200, b"%d" % len(origin.seen), Cache_Control="max-age=60")

    origin.handler = handler
    await fetch(edge.port)
    for word in ("7", "x"):
        assert (await fetch(edge.port, "/", Locci_Purge=word)).body == b"1", "from a client it means nothing"
    await fetch(edge.port, "/other", Locci_Purge="7")
    assert "locci-purge" not in origin.seen[1].headers
    request = Outgoing(b"GET", b"/", [], None, None, False, sequence=7)
    assert [b"Locci-Purge: 7" in request.encode(to_peer) for to_peer in (True, False)] == [True, False]
