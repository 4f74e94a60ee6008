"""A surge of traffic against a server on the loopback: as many requests as were asked for, and none after its end."""

from __future__ import annotations

import asyncio

import pytest

from agent.adapters.surge import Surge
from tests.integration.agent.rig import eventually

RATE = 50


async def test_requests_are_sent_at_a_rate_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    times: list[float] = []
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        times.append(asyncio.get_running_loop().time())
        status = b"200 OK" if len(times) > 5 else b"503 Service Unavailable"
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    monkeypatch.setattr("agent.adapters.fetch.PORT", server.sockets[0].getsockname()[1])
    surge = Surge()
    async with server:
        began = asyncio.get_running_loop().time()
        surge.begin(["127.0.0.1"], "hello.example.net", RATE)
        try:
            await eventually(lambda: len(times) > 2 * RATE, "a hundred requests arrive")
            # Never faster than asked for, however late they are on a busy machine.
            assert times[-1] - began > (len(times) - 1) / RATE
        finally:
            await asyncio.to_thread(surge.end)
        sent = surge.sent
        assert sent >= len(times)
        assert surge.failed >= 5
        assert b"Host: hello.example.net\r\n" in heads[0]
        surge.end()
        assert surge.sent == sent
