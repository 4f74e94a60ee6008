"""Frames that are damaged, cut, repeated and out of place: the worker goes on, and nothing stays behind."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from tests.fakes.edge_agent import route
from tests.fakes.origin import Origin
from tests.integration.edge.client import until
from tests.integration.edge.conftest import Edge, MakeEdge
from tests.integration.edge.h2_client import H2Client
from tests.integration.edge.test_client_tls import material


@pytest.fixture
async def edge(make_edge: MakeEdge, origin: Origin) -> Edge:
    made = await make_edge(https_listen=["127.0.0.1:0"])
    made.certificates = [material("hello", "hello.test")]
    await made.serve(route("hello", ["hello.test"], [origin.address]))
    return made


def _frame(rng: random.Random, block: bytes) -> Frame:
    stream = rng.choice([0, 1, 1, 1, 2, 3, 5, 7, 2**31 - 1])
    damaged = bytearray(block)
    for _ in range(rng.choice([0, 0, 1, 3])):
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    whole = ["END_HEADERS"] if rng.random() < 0.7 else []
    last = ["END_STREAM"] if rng.random() < 0.7 else []
    match rng.randrange(10):
        case 0 | 1 | 2:
            return HeadersFrame(stream or 1, bytes(damaged), flags=whole + last)
        case 3:
            return DataFrame(stream or 1, rng.randbytes(rng.randrange(2000)), flags=last)
        case 4:
            return ContinuationFrame(stream or 1, bytes(damaged), flags=whole)
        case 5:
            settings = {rng.randrange(9): rng.choice([0, 1, 100, 2**31 - 1, 2**32 - 1])}
            return SettingsFrame(0, settings=settings)
        case 6:
            return WindowUpdateFrame(stream, window_increment=rng.choice([1, 1000, 2**31 - 1]))
        case 7:
            return RstStreamFrame(stream or 1, error_code=rng.randrange(20))
        case 8:
            return PriorityFrame(stream or 1, depends_on=rng.randrange(9), stream_weight=rng.randrange(256))
        case _:
            return rng.choice(
                [
                    PingFrame(0, rng.randbytes(8)),
                    GoAwayFrame(0, last_stream_id=rng.randrange(9), error_code=rng.randrange(20)),
                    PushPromiseFrame(1, promised_stream_id=2, data=bytes(damaged), flags=whole),
                ]
            )


def _nonsense(rng: random.Random) -> bytes:
    """A preface as a rule, then frames, some of them damaged as bytes too."""
    connection = H2Connection(H2Configuration(header_encoding=None))
    connection.initiate_connection()
    start = connection.data_to_send() if rng.random() < 0.9 else b""
    pairs = [(":method", "GET"), (":scheme", "https"), (":authority", "hello.test"), (":path", "/"), ("x-mine", "1")]
    block = connection.encoder.encode(pairs)
    data = bytearray(b"".join(_frame(rng, block).serialize() for _ in range(rng.randrange(1, 12))))
    for _ in range(rng.choice([0, 0, 0, 1, 4])):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return start + bytes(data[: rng.choice([len(data), rng.randrange(len(data) + 1)])])


@pytest.mark.parametrize("seed", range(3))
async def test_nonsense_leaves_nothing_behind(edge: Edge, origin: Origin, seed: int) -> None:
    rng = random.Random(seed)
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    port = edge.worker.https_ports[0]
    for number in range(150):
        client = await H2Client.open(port)
        data = _nonsense(rng)
        await client.raw(data)
        if number % 10 == 0:
            async with await H2Client.open(port) as good:
                assert (await good.get("/")).body == b"hello\n"
        if rng.random() < 0.5:
            client.writer.transport.abort()
        else:
            client.writer.close()
        assert not faults, (seed, number, data, faults)
    await until(lambda: edge.worker.state.endpoints[origin.address].outstanding == 0)
    await until(lambda: not edge.worker._secure[0].connections)
    assert not faults
