"""Three edges of three regions over mutual TLS, one of which shields the app."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from locci.v1 import edge_pb2
from tests.fakes.edge_agent import route
from tests.fakes.origin import Origin, Seen
from tests.integration.edge.client import fetch, until
from tests.integration.edge.conftest import Edge, MakeEdge
from tests.integration.edge.test_peers import joined, peer


def shielded(local: list[str], shields: list[Edge], peers: list[Edge] = []) -> edge_pb2.EdgeRoute:  # noqa: B006
    made = route("hello", ["hello.test"], local, peers=[peer(edge) for edge in peers])
    for edge in shields:
        region, node, address = peer(edge)
        made.shield.add(region=region, node=node, address=address)
    return made


@pytest.fixture
async def three(make_edge: MakeEdge, tmp_path: Path) -> tuple[Edge, Edge, Edge]:
    """Edges of eu, us and ap."""
    first, second, third = [
        await joined(make_edge, tmp_path, node, region)
        for node, region in (("eu-1", "eu"), ("us-1", "us"), ("ap-1", "ap"))
    ]
    return first, second, third


async def keep(seen: Seen) -> None:
    await seen.answer(200, b"body of " + seen.target.encode(), Cache_Control="max-age=60", ETag='"v1"')


async def test_the_app_is_asked_by_one_region_only(three: tuple[Edge, Edge, Edge], origin: Origin) -> None:
    shield, *below = three
    origin.handler = keep
    await shield.serve(shielded([origin.address], []))
    for edge in below:
        await edge.serve(shielded([origin.address], [shield], [shield]))
    for edge in below:
        for _ in range(2):
            assert (await fetch(edge.port, "/a")).body == b"body of /a"
        assert edge.counters.shield_requests_total == 1
        assert "hit" in (await fetch(edge.port, "/a")).cache
    assert len(origin.seen) == 1
    assert origin.seen[0].headers["via"] == "1.1 locci, 1.1 locci"
    assert shield.counters.hits_total == 1


async def test_a_shield_without_a_replica_asks_who_has_one(three: tuple[Edge, Edge, Edge], origin: Origin) -> None:
    shield, far, asking = three
    origin.handler = keep
    await far.serve(shielded([origin.address], [shield]))
    await shield.serve(shielded([], [], [far]))
    await asking.serve(shielded([], [shield], [far]))
    answer = await fetch(asking.port, "/a")
    assert (answer.status, answer.body) == (200, b"body of /a")
    assert (asking.counters.shield_requests_total, shield.counters.peer_requests_total) == (1, 1)
    assert far.counters.shield_requests_total == 0, "what comes from an edge is sent to no shield"
    assert (await fetch(asking.port, "/a", "POST", b"x")).status == 200
    assert shield.counters.requests_total == 1, "only what may be stored goes by way of the shield"


async def test_no_request_goes_in_circles(three: tuple[Edge, Edge, Edge], origin: Origin) -> None:
    """Each believes that the next is its shield, and nobody has a replica."""
    for edge, after in zip(three, three[1:] + three[:1], strict=True):
        await edge.serve(shielded([], [after], [after]))
    assert (await fetch(three[0].port, "/a")).status == 503
    assert sum(edge.counters.shield_requests_total for edge in three) == 1
    assert sum(edge.counters.peer_requests_total for edge in three) < 5


async def test_a_shield_that_is_gone_costs_one_request(three: tuple[Edge, Edge, Edge], origin: Origin) -> None:
    shield, edge, _ = three
    origin.handler = keep
    await edge.serve(shielded([origin.address], [shield]))
    await shield.stop()
    for number in range(10):
        assert (await fetch(edge.port, f"/{number}")).status == 200
    assert edge.counters.shield_requests_total == 0
    assert edge.counters.retries_total == 1, "then it is left out"
    await shield.start()  # for the fixture, which ends it


@pytest.mark.parametrize("fault", ["no replica", "broken off", "no configuration"])
async def test_a_shield_that_cannot_answer(three: tuple[Edge, Edge, Edge], origin: Origin, fault: str) -> None:
    shield, edge, _ = three
    origin.handler = keep

    async def breaks(seen: Seen) -> None:
        seen.writer.close()

    broken = await Origin(breaks).start()
    if fault != "no configuration":
        await shield.serve(shielded([broken.address] if fault == "broken off" else [], []))
    await edge.serve(shielded([origin.address], [shield]))
    for number in range(3):
        answer = await fetch(edge.port, f"/{number}")
        assert (answer.status, answer.body) == (200, f"body of /{number}".encode())
    assert len(origin.seen) == 3
    await broken.stop()


async def test_errors_of_the_app_pass_through_the_shield(three: tuple[Edge, Edge, Edge], origin: Origin) -> None:
    shield, edge, _ = three

    async def fails(seen: Seen) -> None:
        await seen.answer(502, b"the app's own")

    origin.handler = fails
    await shield.serve(shielded([origin.address], []))
    await edge.serve(shielded([origin.address], [shield]))
    answer = await fetch(edge.port, "/a")
    assert (answer.status, answer.body) == (502, b"the app's own")
    assert len(origin.seen) == 1


async def test_validation_and_purges_by_way_of_the_shield(three: tuple[Edge, Edge, Edge], origin: Origin) -> None:
    shield, edge, _ = three
    versions = 1

    async def versioned(seen: Seen) -> None:
        await seen.answer(200, b"version %d" % versions, Cache_Control="max-age=60", CDN_Cache_Control="max-age=60")

    origin.handler = versioned
    await shield.serve(shielded([origin.address], []))
    await edge.serve(shielded([origin.address], [shield]))
    assert (await fetch(edge.port, "/a")).body == b"version 1"
    versions = 2
    purged = shielded([origin.address], [shield])
    purged.purges.marks.add(sequence=1)
    await edge.serve(purged)
    assert (await fetch(edge.port, "/a")).body == b"version 2", "the shield does not know of the order so far"
    assert (await fetch(edge.port, "/a")).body == b"version 2"


async def test_several_edges_of_a_shield_share_the_keys(three: tuple[Edge, Edge, Edge], origin: Origin) -> None:
    *shields, edge = three
    origin.handler = keep
    for shield in shields:
        await shield.serve(shielded([origin.address], []))
    await edge.serve(shielded([], shields))
    await asyncio.gather(*(fetch(edge.port, f"/{number}") for number in range(40)))
    edge.worker.state.store.clear()
    for number in range(40):
        assert (await fetch(edge.port, f"/{number}")).status == 200
    assert len(origin.seen) == 40, "a key is asked of the same edge again"
    assert min(shield.counters.requests_total for shield in shields) > 5
    await until(lambda: not edge.worker.state.fills)
