"""The client loop against servers that behave badly: whatever is not a whole 200 in time has failed."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import dns.message
import dns.rcode
import dns.rrset
import pytest

from lab.client import Target, ask

GOOD = b'HTTP/1.1 200 OK\r\nContent-Length: 17\r\nCache-Status: x; hit\r\n\r\n{"region": "eu"}\n'


@contextmanager
def _resolver(address: str | None) -> Iterator[int]:
    """A resolver that knows one address, or none; its port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)

        def work() -> None:
            try:
                wire, client = server.recvfrom(4096)
            except OSError:
                return
            answer = dns.message.make_response(dns.message.from_wire(wire))
            if address is None:
                answer.set_rcode(dns.rcode.SERVFAIL)
            else:
                answer.answer.append(dns.rrset.from_text(answer.question[0].name, 1, "IN", "A", address))
            server.sendto(answer.to_wire(), client)

        thread = threading.Thread(target=work)
        thread.start()
        yield server.getsockname()[1]
        thread.join(10)


@asynccontextmanager
async def _server(*parts: bytes, stay: bool = False) -> AsyncIterator[int]:
    """An HTTP server that answers with these bytes and closes, or stays; its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for part in parts:
            writer.write(part)
        await writer.drain()
        if stay:
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_a_whole_answer_is_ok_and_tells_who_gave_it() -> None:
    with _resolver("127.0.0.1") as resolver:
        async with _server(GOOD, stay=True) as port:
            sample = await ask(Target("hello.lab.test", "/", port), "127.0.0.1", 2.0, resolver_port=resolver)
    assert sample.ok, sample.error
    assert (sample.region, sample.address, sample.cache) == ("eu", "127.0.0.1", "x; hit")


@pytest.mark.parametrize(
    ("answer", "stay", "error"),
    [
        (GOOD[:-5], False, "IncompleteReadError"),
        (GOOD[:-5], True, "no answer within"),
        (b"", False, "IncompleteReadError"),
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", False, "status 503"),
        (b"HTTP/1.1 200 OK\r\n\r\n<html>", False, "JSONDecodeError"),
        (b"\x00\x01\x02\r\n\r\n", False, "Error"),
    ],
)
async def test_anything_else_has_failed(answer: bytes, stay: bool, error: str) -> None:
    with _resolver("127.0.0.1") as resolver:
        async with _server(answer, stay=stay) as port:
            sample = await ask(Target("hello.lab.test", "/", port), "127.0.0.1", 0.3, resolver_port=resolver)
    assert not sample.ok
    assert error in sample.error


async def test_a_name_without_address_has_failed() -> None:
    with _resolver(None) as resolver:
        sample = await ask(Target("hello.lab.test", "/"), "127.0.0.1", 1.0, resolver_port=resolver)
    assert not sample.ok
    assert "SERVFAIL" in sample.error


async def test_a_resolver_that_is_silent_has_failed_in_time() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        sample = await ask(Target("hello.lab.test", "/"), "127.0.0.1", 0.2, resolver_port=port)
    assert not sample.ok
    assert sample.seconds >= 0.2
