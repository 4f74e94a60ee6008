"""TLS sessions are resumed by other workers and after restarts; handshakes are bounded."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from pathlib import Path

import pytest

from agent.edge import acceptor, tickets
from agent.edge.app import Worker
from agent.edge.client_tls import ClientTls
from agent.edge.tickets import KEPT_S, Tickets
from tests.fakes.clock import ManualClock
from tests.fakes.edge_agent import route
from tests.fakes.origin import Origin
from tests.fakes.ports import free_port
from tests.integration.edge.client import until
from tests.integration.edge.conftest import Edge, MakeEdge
from tests.integration.edge.test_client_tls import AUTHORITY, material, secure

VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


@pytest.fixture
async def edge(make_edge: MakeEdge, origin: Origin) -> Edge:
    made = await make_edge(https_listen=["127.0.0.1:0"])
    made.certificates = [material("hello", "hello.test"), material("wild", "*.wild.test")]
    await made.serve(route("hello", ["hello.test"], [origin.address]))
    return made


def trusting(version: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=AUTHORITY.pem)
    context.minimum_version = context.maximum_version = version
    return context


def answered(
    context: ssl.SSLContext, port: int, session: ssl.SSLSession | None
) -> tuple[bool, str, ssl.SSLSession | None]:
    """Whether a visit resumed the session, what was answered, and the session for the next."""
    with socket.create_connection(("127.0.0.1", port), 30) as sock:
        tls = context.wrap_socket(sock, server_hostname="hello.test", session=session)
        tls.sendall(b"GET / HTTP/1.1\r\nHost: hello.test\r\nConnection: close\r\n\r\n")
        data = b""
        while chunk := tls.recv(65536):
            data += chunk
        assert data.startswith(b"HTTP/1.1 200 ")
        return bool(tls.session_reused), data.decode("latin-1"), tls.session


def visit(context: ssl.SSLContext, port: int, session: ssl.SSLSession | None) -> tuple[bool, ssl.SSLSession | None]:
    """Whether a visit resumed the session, and the session for the next."""
    reused, _, session = answered(context, port, session)
    return reused, session


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_session_outlives_the_worker(edge: Edge, version: ssl.TLSVersion) -> None:
    context = trusting(version)
    reused, session = await asyncio.to_thread(visit, context, edge.worker.https_ports[0], None)
    assert not reused
    reused, session = await asyncio.to_thread(visit, context, edge.worker.https_ports[0], session)
    assert reused
    await edge.worker.stop()
    edge.worker = Worker(edge.settings)
    await edge.worker.start()
    reused, _ = await asyncio.to_thread(visit, context, edge.worker.https_ports[0], session)
    assert reused
    assert (edge.path / "state" / tickets.FILE).stat().st_mode & 0o777 == 0o600


async def test_without_the_library_each_worker_has_its_own(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tickets, "_library", lambda: None)
    await edge.worker.stop()
    edge.worker = Worker(edge.settings)
    await edge.worker.start()
    assert edge.worker._tickets is not None
    assert not edge.worker._tickets.shared
    context = trusting(ssl.TLSVersion.TLSv1_3)
    _, session = await asyncio.to_thread(visit, context, edge.worker.https_ports[0], None)
    assert (await asyncio.to_thread(visit, context, edge.worker.https_ports[0], session))[0]


def resumed(server: ssl.SSLContext, session: ssl.SSLSession | None) -> tuple[bool, ssl.SSLSession | None]:
    """A handshake in memory; whether it resumed, and the session for the next."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    a = resumed.client.wrap_bio(to_client, to_server, server_hostname="hello.test", session=session)  # type: ignore[attr-defined]
    b = server.wrap_bio(to_server, to_client, server_side=True)
    done = set()
    while len(done) < 2:
        for end in (a, b):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
                done.add(end)
    b.write(b"x")
    assert a.read(1) == b"x"
    return bool(a.session_reused), a.session


async def test_keys_change_with_time_and_all_workers_follow(tmp_path: Path) -> None:
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    resumed.client = client  # type: ignore[attr-defined]
    clock = ManualClock()
    workers = [(ClientTls(clock.wall()), Tickets(tmp_path / "new", clock)) for _ in range(2)]

    def refresh() -> None:
        for tls, keys in workers:
            keys.refresh(tls.context)
            assert keys.shared

    refresh()
    first, second = workers[0][0].context, workers[1][0].context
    _, session = resumed(first, None)
    assert resumed(second, session)[0]
    await clock.advance(KEPT_S + 1)
    refresh()
    reused, session = resumed(second, session)
    assert not reused
    assert resumed(first, session)[0]
    (tmp_path / "new" / tickets.FILE).write_bytes(b"cut")
    refresh()
    reused, session = resumed(first, session)
    assert not reused
    assert resumed(second, session)[0]


async def test_several_processes_share_their_sessions(tmp_path: Path, edge: Edge) -> None:
    """Two that know of each other only by the folder."""
    other = edge.settings.model_copy(update={"https_listen": [f"127.0.0.1:{free_port()}"], "run_dir": edge.path})
    second = Worker(other, 1)
    await second.start()
    await until(lambda: second.state.table.generation == edge.generation)
    try:
        context = trusting(ssl.TLSVersion.TLSv1_3)
        _, session = await asyncio.to_thread(visit, context, edge.worker.https_ports[0], None)
        reused, _ = await asyncio.to_thread(visit, context, second.https_ports[0], session)
        assert reused
    finally:
        await second.stop()


async def test_handshakes_that_do_not_go_on_make_room(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor, "GREETINGS_MAX", 4)
    port = edge.worker.https_ports[0]
    async with await secure(edge) as client:
        assert (await client.get()).status == 200  # and the way to the origin is open
        before = len(os.listdir("/proc/self/fd"))
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(12)]
    for reader, _ in idle[:8]:
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(1), 30) == b""
    async with await secure(edge) as client:
        assert (await client.get()).status == 200
    assert edge.counters.connections_rejected_total >= 8
    for _, writer in idle:
        writer.close()
    await until(lambda: len(os.listdir("/proc/self/fd")) <= before)
