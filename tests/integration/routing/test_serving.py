"""Real sockets: dig, dnspython, a real resolver, pipelines, garbage."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import dns.asyncquery
import dns.flags
import dns.message
import dns.rcode
import pytest

from routing.adapters.hot_listener import listener_for
from routing.adapters.udp import UdpListener, bind_udp
from routing.adapters.udp_batch import BatchListener
from tests.fakes.ports import free_port
from tests.integration.routing.rig import Rig, addresses, eventually
from tests.unit.routing.adapters.resources import region, whole


async def dig(port: int, *arguments: str) -> str:
    command = ["dig", "@127.0.0.1", "-p", str(port), "+norec", "+time=10", "+tries=1", *arguments]
    process = await asyncio.create_subprocess_exec(*command, stdout=-1, stderr=-1)
    async with asyncio.timeout(30):
        out, _ = await process.communicate()
    assert process.returncode == 0, out
    return out.decode()


async def test_dig(rig: Rig) -> None:
    async with rig.running() as app:
        (port,) = app.ports
        for transport in ("+notcp", "+tcp"):
            text = await dig(port, "hello.example.net", "+subnet=10.3.9.0/24", transport)
            assert "status: NOERROR" in text
            assert "127.0.1.3" in text
            assert "CLIENT-SUBNET: 10.3.9.0/24/16" in text
            assert "WARNING" not in text
        assert "status: NXDOMAIN" in await dig(port, "nope.example.net")
        assert "status: REFUSED" in await dig(port, "example.org")
        assert "eu-1.ns.example.net. hostmaster.example.net. 7" in await dig(port, "example.net", "SOA", "+short")
        assert "RFC8482" in await dig(port, "hello.example.net", "ANY")
        assert "BADVERS" in await dig(port, "hello.example.net", "+edns=1", "+noednsnegotiation")
        assert "status: NOTIMP" in await dig(port, "hello.example.net", "+opcode=NOTIFY")
        assert "127.0.1." in await dig(port, "hello.example.net", "+subnet=0", "+short")


@contextlib.asynccontextmanager
async def resolver(path: Path, authority_port: int, anchor: str = "") -> AsyncIterator[int]:
    """Debian's unbound, with example.net stubbed to our port; it validates when it is given a trust anchor."""
    for attempt in range(5):
        # Another program may take the port in the moment between.
        port = free_port()
        process = await asyncio.create_subprocess_exec(
            "unbound", "-c", str(configured(path, port, authority_port, anchor)), cwd=path
        )

        async def ready(process: asyncio.subprocess.Process = process, port: int = port) -> bool:
            if process.returncode is not None:
                return True
            query = dns.message.make_query("ready.test.", "A")
            try:
                await dns.asyncquery.udp(query, "127.0.0.1", port=port, timeout=0.3)
            except (TimeoutError, OSError, dns.exception.DNSException):
                return False
            return True

        try:
            await eventually(ready)
            if process.returncode is None:
                yield port
                return
            assert attempt < 4, "unbound does not start"
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


def configured(path: Path, port: int, authority_port: int, anchor: str) -> Path:
    """Unbound's settings."""
    modules = f'"validator iterator"\n  trust-anchor: "{anchor}"' if anchor else '"iterator"'
    config = path / "unbound.conf"
    config.write_text(
        f"""server:
  interface: 127.0.0.1
  port: {port}
  do-daemonize: no
  use-syslog: no
  logfile: "{path}/unbound.log"
  username: ""
  chroot: ""
  directory: "{path}"
  pidfile: "{path}/unbound.pid"
  num-threads: 1
  module-config: {modules}
  do-not-query-localhost: no
  use-caps-for-id: yes
  harden-referral-path: yes
  qname-minimisation-strict: yes
  local-zone: "example.net." transparent
  access-control: 127.0.0.0/8 allow
stub-zone:
  name: "example.net"
  stub-addr: 127.0.0.1@{authority_port}
remote-control:
  control-enable: no
"""
    )
    return config


@pytest.mark.skipif(shutil.which("unbound") is None, reason="needs Debian's unbound")
async def test_a_real_resolver(rig: Rig) -> None:
    async with rig.running() as app, resolver(rig.path, app.ports[0]) as port:
        assert await addresses(port) == {"127.0.1.1", "127.0.1.2", "127.0.1.3"}
        for name, kind, rcode in (
            ("nope.example.net", "A", dns.rcode.NXDOMAIN),
            ("ns.example.net", "A", dns.rcode.NOERROR),
            ("hello.example.net", "AAAA", dns.rcode.NOERROR),
            ("hello.example.net", "TXT", dns.rcode.NOERROR),
            ("example.net", "NS", dns.rcode.NOERROR),
        ):
            answer = await dns.asyncquery.udp(dns.message.make_query(name, kind), "127.0.0.1", port=port, timeout=30)
            assert answer.rcode() == rcode, (name, kind)
        # Its cached answer lives for 5 s; then the change of health shows.
        rig.edges.stop("eu")

        async def withdrawn() -> bool:
            return await addresses(port) == {"127.0.1.2", "127.0.1.3"}

        await eventually(withdrawn)


def framed(query: dns.message.Message) -> bytes:
    data = query.to_wire()
    return len(data).to_bytes(2, "big") + data


async def read_answer(reader: asyncio.StreamReader) -> dns.message.Message:
    async with asyncio.timeout(30):
        size = int.from_bytes(await reader.readexactly(2), "big")
        return dns.message.from_wire(await reader.readexactly(size))


async def test_pipelined_queries_are_answered_in_order(rig: Rig) -> None:
    async with rig.running() as app:
        reader, writer = await asyncio.open_connection("127.0.0.1", app.ports[0])
        queries = [dns.message.make_query("hello.example.net", "A", id=number) for number in range(500)]
        everything = b"".join(framed(query) for query in queries)
        writer.write(everything[:1001])
        await writer.drain()
        await asyncio.sleep(0.01)
        writer.write(everything[1001:])
        for query in queries:
            assert (await read_answer(reader)).id == query.id
        writer.close()


async def test_tcp_bears_garbage_and_half_queries(rig: Rig) -> None:
    async with rig.running(tcp_idle_s=0.4) as app:
        reader, writer = await asyncio.open_connection("127.0.0.1", app.ports[0])
        writer.write(b"\0\0" + b"\0\x05junk!" + framed(dns.message.make_query("hello.example.net", "A")))
        assert (await read_answer(reader)).rcode() == dns.rcode.NOERROR
        writer.write(b"\xff\xffhalf a query")
        async with asyncio.timeout(30):
            assert await reader.read() == b""
        await eventually(lambda: app.counts().connections == 0)


async def test_tcp_connections_are_bounded(rig: Rig) -> None:
    async with rig.running(tcp_connections_max=3) as app:
        connections = [await asyncio.open_connection("127.0.0.1", app.ports[0]) for _ in range(6)]
        await eventually(lambda: app.counts().connections <= 3)
        reader, writer = connections[-1]
        writer.write(framed(dns.message.make_query("hello.example.net", "A")))
        assert (await read_answer(reader)).rcode() == dns.rcode.NOERROR
        for _, writer in connections:
            writer.close()


async def test_udp_bears_garbage(rig: Rig) -> None:
    rng = random.Random(4)
    async with rig.running() as app:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.connect(("127.0.0.1", app.ports[0]))
            for _ in range(2000):
                sender.send(rng.randbytes(rng.randrange(1500)))
        assert await addresses(app.ports[0])


async def test_large_answers_go_over_tcp(rig: Rig) -> None:
    crowd = region("eu", port=rig.edges.port, version="2")
    for number in range(2, 24):
        crowd.region.edges.add(node=f"eu-{number}", addresses=[f"2001:db8::{number:x}"], condition=2)
    rig.keep([crowd, *(r for r in whole(rig.edges.port) if r.name != "regions/eu")])
    async with rig.running() as app:
        query = dns.message.make_query("hello.example.net", "AAAA")
        short = await dns.asyncquery.udp(query, "127.0.0.1", port=app.ports[0], timeout=10)
        assert short.flags & dns.flags.TC
        answer, tcp = await dns.asyncquery.udp_with_fallback(query, "127.0.0.1", port=app.ports[0], timeout=10)
        assert tcp
        assert len(answer.answer[0]) == 22


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
async def test_ipv6(rig: Rig) -> None:
    async with rig.running(listen=["[::1]:0", "127.0.0.1:0"]) as app:
        query = dns.message.make_query("hello.example.net", "A")
        answer = await dns.asyncquery.udp(query, "::1", port=app.ports[0], timeout=10)
        assert answer.answer
        assert await addresses(app.ports[1])


@pytest.mark.parametrize("listener", [BatchListener, UdpListener])
@pytest.mark.parametrize(("wildcard", "asked"), [("0.0.0.0", "127.0.0.77"), ("::", "::1"), ("127.0.0.1", "127.0.0.1")])
def test_answers_come_from_the_address_that_was_asked(listener: type[UdpListener], wildcard: str, asked: str) -> None:
    """The batch listener tells the kernel; the plain one leaves the choice to it, which on one address is right."""
    bound = bind_udp(wildcard, 0)
    make = listener_for if listener is BatchListener else UdpListener
    served = make(bound, lambda query, source, tcp: None if query == b"silence" else query + source)
    assert isinstance(served, listener)
    try:
        with socket.socket(bound.family, socket.SOCK_DGRAM) as client:
            client.settimeout(2)
            client.bind(("::1" if bound.family == socket.AF_INET6 else "127.0.0.1", 0))
            client.connect((asked, served.port))
            source = socket.inet_pton(bound.family, client.getsockname()[0])
            sent = [b"q%d" % number for number in range(100)]
            for number, query in enumerate(sent):
                client.send(query)
                if number % 7 == 0:
                    client.send(b"silence")
            served._readable()
            served._readable()
            if listener is BatchListener or asked != "127.0.0.77":
                assert [client.recv(2000) for _ in sent] == [query + source for query in sent]
    finally:
        bound.close()


@pytest.mark.parametrize(("wildcard", "asked"), [("0.0.0.0:0", "127.0.0.77"), ("[::]:0", "::1")])
async def test_the_compiled_loop_answers_from_the_address_that_was_asked(rig: Rig, wildcard: str, asked: str) -> None:
    """A client that is connected to it hears nobody else; most of its queries are answered by what was learnt."""
    async with rig.running(listen=[wildcard], responses_per_second=0) as app:
        assert app.engine.hot is not None, "the compiled loop was not built"
        family = socket.AF_INET6 if ":" in asked else socket.AF_INET
        query = dns.message.make_query("example.net", "SOA").to_wire()
        loop = asyncio.get_running_loop()
        with socket.socket(family, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            client.connect((asked, app.ports[0]))
            for turn in range(4):
                for number in range(100):
                    client.send(bytes((turn, number)) + query[2:])
                async with asyncio.timeout(20):
                    heard = {(await loop.sock_recv(client, 2000))[:2] for _ in range(100)}
                assert heard == {bytes((turn, number)) for number in range(100)}
        assert sum(app.engine.hot.rcodes) >= 300
