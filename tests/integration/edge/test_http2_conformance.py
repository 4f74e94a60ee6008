"""The cases of `core.http2_connection` again, over the wire: each frame in a TLS record of its own.

For a stored answer, an app's answer, and an answer that waits for nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Iterator

import pytest

from agent.edge.core.http2_frames import PREFACE
from tests.fakes.edge_agent import route
from tests.fakes.origin import Origin, Seen
from tests.integration.edge.client import until
from tests.integration.edge.conftest import Edge, MakeEdge
from tests.integration.edge.test_client_tls import material
from tests.unit.agent.edge.core import test_http2_connection as cases
from tests.unit.agent.edge.core.http2_peer import (
    DATA,
    END_STREAM,
    GET,
    GOAWAY,
    HEADERS,
    PING,
    RST_STREAM,
    headers,
    ping,
    settings,
)

HOSTS = {"kept": b"kept.test", "passed": b"pass.test", "nobody's": b"none.test"}
assert all(len(name) == len(b"hello.test") - 1 for name in HOSTS.values())


FIRST, SECOND, THIRD, FOURTH = GET
MALFORMED: dict[str, list[tuple[bytes, bytes]]] = {
    "8.2.1 a name in capitals": [*GET, (b"X-TEST", b"ok")],
    "8.2.1 a line break in a value": [*GET, (b"x-test", b"a\r\nb")],
    "8.2.2 a field of the connection": [*GET, (b"connection", b"keep-alive")],
    "8.2.2 TE of another value": [*GET, (b"trailers", b"test"), (b"te", b"trailers, deflate")],
    "8.3 an unknown pseudo field": [*GET, (b":test", b"ok")],
    "8.3 a pseudo field of responses": [*GET, (b":status", b"200")],
    "8.3 a pseudo field behind others": [*GET[:3], (b"x-test", b"ok"), FOURTH],
    "8.3.1 an empty path": [FIRST, SECOND, (b":path", b""), FOURTH],
    "8.3.1 no method": GET[1:],
    "8.3.1 no scheme": [FIRST, THIRD, FOURTH],
    "8.3.1 no path": [FIRST, SECOND, FOURTH],
    "8.3.1 two methods": [FIRST, *GET],
    "8.3.1 two schemes": [FIRST, SECOND, *GET[1:]],
    "8.3.1 two paths": [*GET[:3], *GET[2:]],
    "8.3.1 another Host": [*GET, (b"host", b"evil.test")],
    "8.5 extended CONNECT": [(b":method", b"CONNECT"), (b":protocol", b"websocket"), *GET[1:]],
}


@pytest.fixture
async def edge(make_edge: MakeEdge, origin: Origin) -> Edge:
    async def serve(seen: Seen) -> None:
        kept = seen.headers["host"] == "kept.test"
        await seen.answer(200, b"hello", Cache_Control="max-age=60" if kept else "no-store")

    origin.handler = serve
    made = await make_edge(https_listen=["127.0.0.1:0"])
    made.certificates = [material("hello", "hello.test")]
    await made.serve(route("kept", ["kept.test"], [origin.address]), route("passed", ["pass.test"], [origin.address]))
    return made


class Raw:
    """A connection on which a test says everything itself."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, edge: Edge) -> Raw:
        context = ssl._create_unverified_context()
        context.set_alpn_protocols(["h2"])
        port = edge.worker.https_ports[0]
        found = cls(*await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="hello.test"))
        await found.send(PREFACE + settings())
        return found

    async def send(self, octets: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            self.writer.write(octets)
            await self.writer.drain()

    async def frame(self) -> tuple[int, int, int, bytes] | None:
        """The next one; None at the end of the connection."""
        try:
            head = await self.reader.readexactly(9)
            payload = await self.reader.readexactly(int.from_bytes(head[:3], "big"))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        return head[3], head[4], int.from_bytes(head[5:], "big"), payload


def pieces(octets: bytes) -> Iterator[bytes]:
    """Frame by frame; the last may be cut."""
    while octets:
        size = 9 + int.from_bytes(octets[:3], "big")
        yield octets[:size]
        octets = octets[size:]


def asked_of(host: bytes, octets: bytes) -> bytes:
    """The same frames for another host: a name one octet shorter stands for hello.test."""
    longer = b"\x0a" + b"hello.test"
    return octets.replace(longer, b"\x0a" + host + b".")


async def ends(edge: Edge, octets: bytes, code: int, *, answered: bool) -> bool:
    """Whether the connection ends, and with this code when it says one; the last frame comes behind an answer."""
    raw = await Raw.open(edge)
    *first, last = pieces(octets)
    for piece in first:
        await raw.send(piece)
    while answered and (found := await raw.frame()) is not None:
        if found[0] in (DATA, HEADERS) and found[1] & END_STREAM:
            break
    await raw.send(last)
    try:
        while (found := await raw.frame()) is not None:
            if found[0] == GOAWAY:
                return int.from_bytes(found[3][4:8], "big") == code
        return True
    finally:
        raw.writer.close()


async def resets(edge: Edge, octets: bytes, code: int) -> bool:
    """Whether the stream is reset, or the connection ends, with this code, and a ping is answered otherwise."""
    raw = await Raw.open(edge)
    for piece in pieces(octets):
        await raw.send(piece)
    try:
        while (found := await raw.frame()) is not None:
            if found[0] in (RST_STREAM, GOAWAY):
                said = int.from_bytes(found[3][4:8] if found[0] == GOAWAY else found[3], "big")
                if said == code:
                    return True
        return False
    finally:
        raw.writer.close()


@pytest.mark.parametrize("kind", HOSTS)
async def test_faults(edge: Edge, origin: Origin, kind: str) -> None:
    host = HOSTS[kind]
    async with asyncio.timeout(120):
        for what, (octets, code) in cases.CONNECTION_FAULTS.items():
            answered = what.startswith("5.1 closed:")
            assert await ends(edge, asked_of(host, octets), code, answered=answered), what
        for what, (octets, code) in cases.STREAM_FAULTS.items():
            if "more DATA than the window" not in what:  # an app reads it all
                assert await resets(edge, asked_of(host, octets), code), what
        for what, fields in MALFORMED.items():
            assert await resets(edge, asked_of(host, headers(1, fields)), cases.PROTOCOL), what
    for address in edge.worker.state.endpoints.values():
        await until(lambda at=address: at.outstanding == 0)  # type: ignore[misc]
    await until(lambda: not edge.worker._secure[0].connections)


@pytest.mark.parametrize("kind", HOSTS)
async def test_no_faults(edge: Edge, kind: str) -> None:
    for what, octets in cases.FINE.items():
        if "GOAWAY" in what:
            continue  # the edge closes what its client has left
        raw = await Raw.open(edge)
        async with asyncio.timeout(30):
            for piece in pieces(asked_of(HOSTS[kind], octets) + ping(b"abcdefgh")):
                await raw.send(piece)
            while (found := await raw.frame()) != (PING, 1, 0, b"abcdefgh"):
                assert found is not None, what
                assert found[0] not in (GOAWAY, RST_STREAM), (what, found)
            await raw.send(asked_of(HOSTS[kind], headers(9)))
            while (found := await raw.frame()) is not None and found[0:3:2] != (HEADERS, 9):
                pass
            assert found is not None, what
        raw.writer.close()
