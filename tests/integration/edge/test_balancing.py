"""What an app may ask of the choice among its replicas: a hash, a cookie, a second try for what is late."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from locci.v1 import edge_pb2, manifest_pb2
from tests.fakes.edge_agent import route
from tests.fakes.origin import Handler, Origin, Seen
from tests.integration.edge.client import Client, fetch, until
from tests.integration.edge.conftest import Edge, MakeEdge


def named(number: int) -> Handler:
    async def answer(seen: Seen) -> None:
        await seen.answer(200, b"%d" % number, Cache_Control="no-store")

    return answer


@pytest.fixture
async def origins() -> AsyncIterator[list[Origin]]:
    servers = [await Origin(named(number)).start() for number in range(3)]
    yield servers
    for server in servers:
        await server.stop()


def balanced(origins: list[Origin], **wanted: object) -> edge_pb2.EdgeRoute:
    found = route("hello", ["hello.test"], [origin.address for origin in origins])
    found.balancing.CopyFrom(manifest_pb2.BalancingPolicy(**wanted))  # type: ignore[arg-type]
    return found


async def test_a_cookie_leads_back_to_the_replica_until_it_is_gone(make_edge: MakeEdge, origins: list[Origin]) -> None:
    edge = await make_edge()
    await edge.serve(balanced(origins, sticky_cookie="stay"))
    first = await fetch(edge.port, "/a")
    pair, *attributes = first.headers["set-cookie"].split("; ")
    assert attributes == ["Path=/", "HttpOnly", "SameSite=Lax"]
    for _ in range(20):
        again = await fetch(edge.port, "/a", Cookie=f"x=1; {pair}")
        assert (again.body, "set-cookie" in again.headers) == (first.body, False)
    posted = await fetch(edge.port, "/a", "POST", b"x", Cookie=pair)
    assert posted.body == first.body
    assert len({(await fetch(edge.port, "/a")).body for _ in range(30)}) > 1, "others are spread"
    await origins[int(first.body)].stop()
    moved = await fetch(edge.port, "/a", Cookie=pair)
    assert moved.status == 200
    assert moved.headers["set-cookie"].split("; ")[0] != pair
    nonsense = await fetch(edge.port, "/a", Cookie="stay=\x01nonsense")
    assert nonsense.status in (200, 400)


async def test_what_is_kept_sets_no_cookie(make_edge: MakeEdge, origins: list[Origin]) -> None:
    async def cacheable(seen: Seen) -> None:
        await seen.answer(200, b"same", Cache_Control="max-age=60")

    for origin in origins:
        origin.handler = cacheable
    edge = await make_edge()
    await edge.serve(balanced(origins, sticky_cookie="stay"))
    assert "set-cookie" not in (await fetch(edge.port, "/a")).headers
    second = await fetch(edge.port, "/a")
    assert ("hit" in second.cache, "set-cookie" in second.headers) == (True, False)
    for origin in origins:
        origin.handler = named(7)
    assert "set-cookie" in (await fetch(edge.port, "/b")).headers, "an answer for this client alone"
    assert "set-cookie" in (await fetch(edge.port, "/b")).headers


@pytest.mark.parametrize(
    ("wanted", "headers"),
    [
        ({"hash_by": manifest_pb2.HASH_BY_PATH}, {}),
        ({"hash_by": manifest_pb2.HASH_BY_HEADER, "hash_name": "X-User"}, {"X_User": "{}"}),
        ({"hash_by": manifest_pb2.HASH_BY_COOKIE, "hash_name": "id"}, {"Cookie": "a=b; id={}"}),
    ],
)
async def test_alike_requests_go_to_one_replica(
    make_edge: MakeEdge, origins: list[Origin], wanted: dict[str, object], headers: dict[str, str]
) -> None:
    edge = await make_edge()
    await edge.serve(balanced(origins, **wanted))
    found: dict[int, set[bytes]] = {}
    async with await Client.open(edge.port) as client:
        for number in (*range(12), *range(12)):
            target = f"/{number}" if not headers else "/"
            given = {name: value.format(number) for name, value in headers.items()}
            found.setdefault(number, set()).add((await client.get(target, **given)).body)
    assert all(len(bodies) == 1 for bodies in found.values())
    assert len(set.union(*found.values())) > 1


async def test_clients_stay_with_one_replica(make_edge: MakeEdge, origins: list[Origin]) -> None:
    edge = await make_edge()
    await edge.serve(balanced(origins, hash_by=manifest_pb2.HASH_BY_CLIENT))
    assert len({(await fetch(edge.port, f"/{number}")).body for number in range(10)}) == 1


def hedged(edge: Edge) -> tuple[int, int]:
    return edge.counters.hedges_total, edge.counters.hedges_won_total


async def test_a_second_is_asked_when_the_first_is_late(make_edge: MakeEdge, origins: list[Origin]) -> None:
    broken_off = asyncio.Event()

    async def stuck(seen: Seen) -> None:
        if await seen.reader.read(1) == b"":
            broken_off.set()

    origins[0].handler = stuck
    edge = await make_edge()
    wanted = balanced(origins[:2], hash_by=manifest_pb2.HASH_BY_PATH)
    wanted.balancing.hedge_after.FromMilliseconds(50)
    await edge.serve(wanted)
    late = 0
    while not late:
        target = f"/{len(origins[0].seen) + len(origins[1].seen)}"
        response = await fetch(edge.port, target)
        assert (response.status, response.body) == (200, b"1")
        late = hedged(edge)[1]
    assert hedged(edge) == (1, 1)
    await asyncio.wait_for(broken_off.wait(), 10)
    await until(lambda: not any(e.outstanding for e in edge.worker.state.endpoints.values()))
    posted = asyncio.create_task(fetch(edge.port, target, "POST", b"x"))
    await until(lambda: any(seen.method == "POST" for seen in origins[0].seen))
    await asyncio.sleep(0.2)
    assert not any(seen.method == "POST" for seen in origins[1].seen), "what changes something is asked for once"
    posted.cancel()


async def test_not_everything_is_asked_for_twice(make_edge: MakeEdge, origins: list[Origin]) -> None:
    async def slow(seen: Seen) -> None:
        await asyncio.sleep(0.03)
        await seen.answer(200, b"slow", Cache_Control="no-store")

    for origin in origins:
        origin.handler = slow
    edge = await make_edge()
    wanted = balanced(origins)
    wanted.balancing.hedge_after.FromMilliseconds(1)
    await edge.serve(wanted)
    for _ in range(10):
        answers = await asyncio.gather(*(fetch(edge.port, "/x") for _ in range(10)))
        assert {answer.status for answer in answers} == {200}
    assert 10 <= hedged(edge)[0] <= 20, "ten at once, and one in ten of a hundred"
    await until(lambda: not any(e.outstanding for e in edge.worker.state.endpoints.values()))


async def test_one_that_fails_while_both_are_asked_costs_nothing(make_edge: MakeEdge, origins: list[Origin]) -> None:
    async def fails_late(seen: Seen) -> None:
        await asyncio.sleep(0.1)
        seen.writer.transport.abort()

    async def slow(seen: Seen) -> None:
        await asyncio.sleep(0.3)
        await seen.answer(200, b"1", Cache_Control="no-store")

    origins[0].handler, origins[1].handler = fails_late, slow
    edge = await make_edge()
    wanted = balanced(origins[:2])
    wanted.balancing.hedge_after.FromMilliseconds(20)
    await edge.serve(wanted)
    for _ in range(4):
        assert (await fetch(edge.port, "/x")).body == b"1"


async def test_an_error_that_comes_soon_is_no_better_than_an_answer_that_comes_late(
    make_edge: MakeEdge, origins: list[Origin]
) -> None:
    async def late(seen: Seen) -> None:
        await asyncio.sleep(0.15)
        await seen.answer(200, b"late", Cache_Control="no-store")

    async def sorry(seen: Seen) -> None:
        await seen.answer(503, b"sorry")

    edge = await make_edge()
    wanted = balanced(origins[:2], hash_by=manifest_pb2.HASH_BY_PATH)
    wanted.balancing.hedge_after.FromMilliseconds(20)
    await edge.serve(wanted)
    first = int((await fetch(edge.port, "/x")).body)
    origins[first].handler, origins[1 - first].handler = late, sorry
    response = await fetch(edge.port, "/x")
    assert (response.status, response.body, hedged(edge)) == (200, b"late", (1, 0))
    origins[first].handler = sorry
    assert (await fetch(edge.port, "/x")).status == 503
    await until(lambda: not any(e.outstanding for e in edge.worker.state.endpoints.values()))
