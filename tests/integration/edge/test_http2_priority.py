"""Priorities over HTTP/2 (RFC 9218): what an edge sends first when the connection is the bottleneck."""

from __future__ import annotations

import struct

import pytest

from tests.fakes.edge_agent import route
from tests.fakes.origin import Origin, Seen
from tests.integration.edge.conftest import Edge, MakeEdge
from tests.integration.edge.h2_client import H2Client
from tests.integration.edge.test_client_tls import material

BODY = b"p" * 300_000


@pytest.fixture
async def edge(make_edge: MakeEdge, origin: Origin) -> Edge:
    async def large(seen: Seen) -> None:
        more = {"Priority": "u=0"} if seen.target == "/urgent" else {}
        await seen.answer(200, BODY, Cache_Control="max-age=60", **more)

    origin.handler = large
    made = await make_edge(https_listen=["127.0.0.1:0"])
    made.certificates = [material("hello", "hello.test")]
    await made.serve(route("hello", ["hello.test"], [origin.address]))
    return made


async def ends(
    edge: Edge, *said: str, updates: dict[int, str] | None = None, targets: list[str] | None = None
) -> list[int]:
    """The order in which answers end, by number of request, when all were asked for before anything could be sent."""
    async with await H2Client.open(edge.worker.https_ports[0]) as client:
        paths = targets or ["/"] * len(said)
        for path in dict.fromkeys(paths):
            assert (await client.get(path)).body == BODY  # stored from now on
        client.hold = True
        numbers = [
            await client.ask(path, more=[("priority", value)] if value else [])
            for path, value in zip(paths, said, strict=True)
        ]
        for number, value in (updates or {}).items():
            payload = struct.pack(">I", numbers[number]) + value.encode()
            await client.raw(len(payload).to_bytes(3, "big") + b"\x10\0" + bytes(4) + payload)
        while len(client.answers[numbers[0]].headers) == 0:
            await client._step()
        for number in numbers:
            client.h2.increment_flow_control_window(2**20, number)
        order: list[int] = []
        window = 0
        while len(order) < len(numbers):
            client.h2.increment_flow_control_window(20_000)  # a little of the connection's at a time
            window += 20_000
            await client.flush()
            before = sum(len(client.answers[number].body) for number in numbers)
            while (
                sum(len(client.answers[number].body) for number in numbers) == before
                and before < window
                and not client.gone
            ):
                await client._step()
            order += [at for at, number in enumerate(numbers) if client.answers[number].ended and at not in order]
        assert all(client.answers[number].body == BODY for number in numbers)
        return order


async def test_the_urgent_one_ends_first(edge: Edge) -> None:
    assert await ends(edge, "u=6", "u=1", "u=3") == [1, 2, 0]


async def test_equally_urgent_ones_go_one_after_the_other(edge: Edge) -> None:
    assert await ends(edge, "u=2", "u=2", "u=2") == [0, 1, 2]


async def test_an_update_counts_for_what_is_on_its_way(edge: Edge) -> None:
    assert await ends(edge, "u=1", "u=2", "u=3", updates={2: "u=0"}) == [2, 0, 1]


async def test_what_the_app_says_counts_instead_of_the_client(edge: Edge) -> None:
    """RFC 9218, section 8."""
    assert await ends(edge, "u=1", "u=1", "u=6", targets=["/", "/", "/urgent"]) == [2, 0, 1]
