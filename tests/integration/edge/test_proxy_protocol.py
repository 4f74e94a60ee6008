"""Connections through a load balancer that says who its client is."""

from __future__ import annotations

import asyncio
import socket
import ssl

import pytest

from agent.edge.acceptor import networks
from agent.edge.core.proxy_header import SIGNATURE
from fleet.errors import LocciError
from tests.fakes.edge_agent import route
from tests.fakes.origin import Origin
from tests.integration.edge.client import Client, fetch, until
from tests.integration.edge.conftest import Edge, MakeEdge
from tests.integration.edge.test_client_tls import AUTHORITY, material

TEXT = b"PROXY TCP4 192.0.2.7 127.0.0.1 5000 80\r\n"
BINARY = SIGNATURE + b"\x21\x11\0\x0c" + bytes((192, 0, 2, 8, 127, 0, 0, 1, 0, 1, 0, 2))


async def made(make_edge: MakeEdge, origin: Origin, trusted: str = "127.0.0.0/8") -> Edge:
    edge = await make_edge("balanced", https_listen=["127.0.0.1:0"], proxy_protocol_from=[trusted])
    edge.certificates = [material("hello", "hello.test")]
    await edge.serve(route("hello", ["hello.test"], [origin.address]))
    return edge


@pytest.mark.parametrize(("header", "address"), [(TEXT, "192.0.2.7"), (BINARY, "192.0.2.8")])
async def test_the_client_is_who_the_header_says(
    make_edge: MakeEdge, origin: Origin, header: bytes, address: str
) -> None:
    edge = await made(make_edge, origin)
    async with await Client.open(edge.port) as client:
        await client.send(header)
        assert (await client.get("/", X_Forwarded_For="6.6.6.6")).status == 200
        assert (await client.get("/again")).status == 200
    assert {seen.headers["x-forwarded-for"] for seen in origin.seen} == {address}
    async with await Client.open(edge.port) as client:
        for position in range(len(header)):
            await client.send(header[position : position + 1])
            await asyncio.sleep(0)
        assert (await client.get("/bytes")).status == 200
    assert origin.seen[-1].headers["x-forwarded-for"] == address


@pytest.mark.parametrize("alpn", ["http/1.1", "h2"])
async def test_it_stands_in_front_of_tls(make_edge: MakeEdge, origin: Origin, alpn: str) -> None:
    edge = await made(make_edge, origin)
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    sock.setblocking(False)
    await loop.sock_connect(sock, ("127.0.0.1", edge.worker.https_ports[0]))
    await loop.sock_sendall(sock, BINARY)
    context = ssl.create_default_context(cadata=AUTHORITY.pem)
    context.set_alpn_protocols([alpn])
    reader, writer = await asyncio.open_connection(sock=sock, ssl=context, server_hostname="hello.test")
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == alpn
    if alpn == "http/1.1":
        async with Client(reader, writer) as client:
            assert (await client.get("/")).status == 200
        assert origin.seen[-1].headers["x-forwarded-for"] == "192.0.2.8"
    else:
        connections = edge.worker._secure[0].connections
        await until(lambda: {connection.address for connection in connections} == {b"192.0.2.8"})
        writer.close()


async def test_a_trusted_address_must_say_it_and_others_are_not_believed(make_edge: MakeEdge, origin: Origin) -> None:
    edge = await made(make_edge, origin)
    for wrong in (b"GET / HTTP/1.1\r\nHost: hello.test\r\n\r\n", b"PROXY TCP4 nonsense\r\n", TEXT[:10]):
        async with await Client.open(edge.port) as client:
            await client.send(wrong)
            if wrong == TEXT[:10]:
                client.writer.write_eof()
            assert await client.closed(30)
    assert origin.seen == []
    await until(lambda: not edge.worker._plain[0].connections)


async def test_others_are_not_believed(make_edge: MakeEdge, origin: Origin) -> None:
    edge = await made(make_edge, origin, "10.0.0.0/8")
    async with await Client.open(edge.port) as client:
        await client.send(TEXT + b"GET / HTTP/1.1\r\nHost: hello.test\r\n\r\n")
        assert (await client.read()).status == 400
    assert origin.seen == []
    assert (await fetch(edge.port)).status == 200
    assert origin.seen[0].headers["x-forwarded-for"] == "127.0.0.1"


def test_settings_that_are_no_networks_are_refused() -> None:
    assert [str(network) for network in networks(["10.0.0.0/8", "::1"])] == ["10.0.0.0/8", "::1/128"]
    with pytest.raises(LocciError, match="give addresses or networks"):
        networks(["10.0.0.1/8"])
