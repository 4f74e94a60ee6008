"""Noise at every port of an edge: nothing of it ends a worker, or is more than a line of the log."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
import struct
from typing import Any

import pytest

from tests.fakes.authority import TRUST_DOMAIN
from tests.fakes.edge_agent import route
from tests.fakes.origin import Origin
from tests.fakes.ports import free_port
from tests.integration.edge.client import Client, until
from tests.integration.edge.conftest import Edge, MakeEdge
from tests.integration.edge.test_client_tls import material, secure
from tests.integration.edge.test_peers import AUTHORITY

ROUNDS = 60
BEGINNINGS = (
    b"",
    b"GET / HTTP/1.1\r\nHost: hello.test\r\n",
    b"POST / HTTP/1.1\r\nHost: hello.test\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\x16\x03\x01\xff\xff",
    b"\x15\x03\x03\x00\x02\x02\x28",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
    b"\r\n\r\n\0\r\nQUIT\n",
    b"GET /metrics HTTP/1.1\r\nContent-Length: 99999999999999\r\n\r\n",
)


@pytest.fixture
async def edge(make_edge: MakeEdge, origin: Origin) -> Edge:
    made = await make_edge(
        https_listen=["127.0.0.1:0"], peer_listen="127.0.0.1:0", admin_listen=f"127.0.0.1:{free_port()}"
    )
    identity = AUTHORITY.join(made.path / "identity", node="eu-1", region="eu")
    made.fields = {"identity_dir": str(identity.path), "trust_domain": TRUST_DOMAIN}
    made.certificates = [material("hello", "hello.test")]
    await made.serve(route("hello", ["hello.test"], [origin.address]))
    await until(lambda: made.worker.peer_port > 0)
    return made


async def noise(port: int, rng: random.Random, *, tls: bool) -> None:
    """One visitor: begins well or not at all, goes on with nonsense, and leaves in one of four ways."""
    context = ssl._create_unverified_context() if tls else None
    with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, RuntimeError):  # it was closed
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            try:
                writer.write(rng.choice(BEGINNINGS))
                for _ in range(rng.randrange(4)):
                    writer.write(rng.randbytes(rng.choice((1, 10, 100, 5000))))
                    await asyncio.sleep(rng.choice((0, 0.001)))
                await writer.drain()
                match rng.randrange(4):
                    case 0:
                        await asyncio.wait_for(reader.read(100), 0.05)
                    case 1 if not tls:
                        writer.write_eof()
                        await asyncio.wait_for(reader.read(), 0.2)
                    case 2:
                        if (sock := writer.get_extra_info("socket")) is not None:
                            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        writer.transport.abort()
                    case _:
                        pass
            finally:
                writer.close()


async def test_noise(edge: Edge, caplog: pytest.LogCaptureFixture) -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    rng = random.Random(1)
    admin_port = int(edge.settings.admin_listen.rpartition(":")[2])
    ports = [(edge.port, False), (edge.worker.https_ports[0], False), (edge.worker.https_ports[0], True)]
    ports += [(edge.worker.peer_port, False), (edge.worker.peer_port, True), (admin_port, False)]
    for _ in range(ROUNDS // 4):
        await asyncio.gather(*(noise(port, rng, tls=tls) for port, tls in ports for _ in range(4)))
    async with await Client.open(edge.port) as plain, await secure(edge) as tls_client:
        assert (await plain.get()).status == 200
        assert (await tls_client.get()).status == 200
    async with await Client.open(admin_port) as admin:
        assert (await admin.get("/healthz")).status == 200
    await until(lambda: all(not connection.busy for connection in edge.worker._plain[0].connections))  # type: ignore[union-attr]
    assert complaints == []
    assert not [record for record in caplog.records if record.exc_info]
