"""The command line's client over connections that break."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cli.client import TRIES_MAX, Client, new_request_id
from cli.context import Context
from cli.failure import ApiFailure, Failure
from tests.fakes.authority import Authority

OK = b'{"name": "regions/eu"}'
BUSY = b'{"code": "UNAVAILABLE", "reason": "OVERLOADED", "detail": "busy"}'
REFUSED = b'{"code": "ABORTED", "reason": "ETAG_MISMATCH", "detail": "changed"}'


class Flaky:
    """Answers what it was told, one connection after another; nothing at all breaks the connection."""

    def __init__(self, *answers: tuple[int, bytes] | None):
        self.answers = list(answers)
        self.requests: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.requests.append(head.split(b"\r\n")[0])
        answer = self.answers.pop(0)
        if answer is None:
            writer.transport.abort()
            return
        status, body = answer
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()


@asynccontextmanager
async def client_of(flaky: Flaky, path: Path) -> AsyncIterator[Client]:
    authority = Authority()
    key, chain = authority.server()
    (path / "server.pem").write_bytes(key + chain)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(path / "server.pem")
    server = await asyncio.start_server(flaky.serve, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    try:
        async with Client(Context(f"https://127.0.0.1:{port}", authority.pem, "t")) as client:
            yield client
    finally:
        server.close()


async def test_reads_are_tried_again(tmp_path: Path) -> None:
    flaky = Flaky(None, None, (200, OK))
    async with client_of(flaky, tmp_path) as client:
        assert (await client.get("regions/eu"))["name"] == "regions/eu"
    assert len(flaky.requests) == 3


async def test_changes_are_tried_again_only_when_they_act_once(tmp_path: Path) -> None:
    flaky = Flaky(None, (200, OK))
    async with client_of(flaky, tmp_path) as client:
        await client.call("POST", "regions", params={"request_id": new_request_id()}, body={})
    assert len(flaky.requests) == 2
    assert flaky.requests[0] == flaky.requests[1]
    flaky = Flaky(None, (200, OK))
    async with client_of(flaky, tmp_path) as client:
        with pytest.raises(Failure):
            await client.call("POST", "regions", body={})
    assert len(flaky.requests) == 1


@pytest.mark.parametrize(
    ("answer", "times"), [((503, BUSY), TRIES_MAX), ((409, REFUSED), 1)], ids=["turned away", "refused"]
)
async def test_what_was_turned_away_is_tried_again(tmp_path: Path, answer: Any, times: int) -> None:
    flaky = Flaky(*[answer] * TRIES_MAX)
    async with client_of(flaky, tmp_path) as client:
        with pytest.raises(ApiFailure):
            await client.call("POST", "regions", body={})
    assert len(flaky.requests) == times
