"""A host looks at real listeners of other regions, and tells what it finds and what its edges have seen."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from agent.core.model import Peer, Route
from agent.outlook import Asked, Outlook, ask
from fleet.clock import SystemClock
from locci.v1 import agent_pb2, edge_pb2


class There:
    """A listener that answers probes as it is told."""

    def __init__(self) -> None:
        self.status = "200 OK"
        self.silent = False
        self.asked = 0
        self.port = 0

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked += 1
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            if self.silent:
                await reader.read()
            else:
                writer.write(f"HTTP/1.1 {self.status}\r\nContent-Length: 0\r\n\r\n".encode())
        writer.close()


ROUTES = (Route("hello", ("hello.test",), peers=(Peer("us", "us-1", "127.0.0.1:7447", 1),)),)


class Told:
    """An outlook from eu-1, and the last that it told."""

    def __init__(self, there: There):
        async def asking(address: str) -> Asked:
            return await ask(address, there.port)

        self.turned = asyncio.Event()
        self.outlook = Outlook("eu-1", "eu", SystemClock(), self.turned.set, asking)

    async def until(self, healthy: bool) -> agent_pb2.ProbeResult:
        async with asyncio.timeout(20):
            while True:
                await self.turned.wait()
                self.turned.clear()
                evidence = self.outlook.evidence()
                if evidence is not None and [r.healthy for r in evidence.results] == [healthy]:
                    assert evidence.complete
                    return evidence.results[0]


@pytest.fixture
async def told() -> AsyncIterator[tuple[Told, There]]:
    there = There()
    found = Told(there)
    yield found, there
    await found.outlook.close()


async def test_silence_and_refusals_are_told_and_recovery(told: tuple[Told, There]) -> None:
    here, there = told
    async with there.listening():
        here.outlook.want(ROUTES)
        assert (await here.until(True)).endpoint == "nodes/us-1"
        there.silent = True
        there.asked = 0
        assert "no answer within" in (await here.until(False)).reason
        assert there.asked >= 8, "one late answer is none; eight are"
        there.silent = False
        await here.until(True)
        there.status = "503 Service Unavailable"
        assert (await here.until(False)).reason == "it answered 503"
        there.status = "200 OK"
        await here.until(True)
    assert (await here.until(False)).reason == "connection refused"


async def test_who_is_asked_no_more_is_told_of_no_more(told: tuple[Told, There]) -> None:
    here, there = told
    async with there.listening():
        here.outlook.want(ROUTES)
        await here.until(True)
        here.outlook.want(())
        evidence = here.outlook.evidence()
        assert evidence is not None
        assert (evidence.complete, len(evidence.results)) == (True, 0)
        assert here.outlook.evidence() is None, "there is nothing new"


async def test_what_edges_saw_is_told(told: tuple[Told, There]) -> None:
    here, _ = told
    trips = [
        edge_pb2.EdgeRoundTrip(network="203.0.113.0/24", round_trip_us=us, samples=n) for us, n in ((10, 1), (40, 2))
    ]
    for trip in trips:
        here.outlook.see(edge_pb2.EdgeSightings(round_trips=[trip]))
    evidence = here.outlook.evidence()
    assert evidence is not None
    assert [(t.network, t.round_trip.ToMicroseconds(), t.samples) for t in evidence.round_trips] == [
        ("203.0.113.0/24", 30, 3)
    ]
    lost = edge_pb2.EdgePass(node="us-1", failed=4, reason="127.0.0.1:7447: connection refused")
    here.outlook.see(edge_pb2.EdgeSightings(passes=[lost]))
    assert here.turned.is_set()
    evidence = here.outlook.evidence()
    assert evidence is not None
    (result,) = evidence.results
    assert (result.endpoint, result.healthy) == ("nodes/us-1", False)
    assert "4 requests that were passed to it in 5 s were lost" in result.reason
    assert not evidence.round_trips
