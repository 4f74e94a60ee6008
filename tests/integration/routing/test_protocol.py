"""What an operator declares and what the protocol adds, asked with dig over real sockets; with the compiled loop and
without."""

from __future__ import annotations

import asyncio
import socket

import dns.asyncquery
import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.rcode
import pytest

from locci.v1 import resource_pb2
from routing.adapters import hot_answers
from tests.integration.routing.rig import Rig, addresses
from tests.integration.routing.test_serving import dig
from tests.unit.routing.adapters.resources import whole

RECORDS = (
    ("example.net", "MX", ["10 mail.example.net."]),
    ("mail.example.net", "A", ["192.0.2.25"]),
    ("www.example.net", "CNAME", ["hello.example.net."]),
    ("alias.example.net", "ALIAS", ["hello.example.net."]),
    ("*.dev.example.net", "TXT", ['"wild"']),
    ("child.example.net", "NS", ["ns.child.example.net."]),
    ("ns.child.example.net", "A", ["192.0.2.53"]),
)


def declared(port: int) -> list[resource_pb2.Resource]:
    resources = whole(port)
    for resource in resources:
        if resource.name.startswith("zones/"):
            for owner, kind, data in RECORDS:
                resource.zone.records.add(owner=owner, type=kind, data=data).ttl.FromSeconds(60)
    return resources


@pytest.mark.parametrize("compiled", [True, False])
async def test_declared_records(rig: Rig, compiled: bool) -> None:
    assert hot_answers.load() is not None or not compiled, "the compiled loop was not built"
    rig.keep(declared(rig.edges.port))
    async with rig.running(compiled=compiled) as app:
        (port,) = app.ports
        for _ in range(2):
            assert "10 mail.example.net." in await dig(port, "example.net", "MX", "+short")
            text = await dig(port, "www.example.net", "A", "+subnet=10.1.0.0/24")
            assert "hello.example.net." in text
            assert "127.0.1.1" in text
            assert await dig(port, "alias.example.net", "A", "+short", "+subnet=10.2.0.0/24") == "127.0.1.2\n"
            assert '"wild"' in await dig(port, "x.dev.example.net", "TXT", "+short")
            text = await dig(port, "a.child.example.net")
            assert "192.0.2.53" in text
            assert " aa" not in text
        for transport in ("+tcp", "+notcp"):
            assert "192.0.2.25" in await dig(port, "MAIL.example.NET", transport, "+short")


@pytest.mark.parametrize("compiled", [True, False])
async def test_cookies_and_names_of_the_server(rig: Rig, compiled: bool) -> None:
    rig.keep(declared(rig.edges.port))
    async with rig.running(compiled=compiled) as app:
        (port,) = app.ports
        for _ in range(2):
            text = await dig(port, "hello.example.net", "+cookie=0102030405060708")
            assert "COOKIE: 0102030405060708" in text
            assert "(good)" in text
        cookie = text.partition("COOKIE: ")[2].split()[0]
        assert f"COOKIE: {cookie[:16]}" in await dig(port, "hello.example.net", f"+cookie={cookie}")
        assert "FORMERR" in await dig(port, "hello.example.net", "+ednsopt=10:01020304", "+nocookie")
        assert '("us-1")' in await dig(port, "hello.example.net", "+nsid")
        assert "locci-dns" in await dig(port, "version.bind", "TXT", "CH", "+short")
        assert "us-1" in await dig(port, "id.server", "TXT", "CH", "+short")
        assert "status: REFUSED" in await dig(port, "authors.bind", "TXT", "CH")
        assert "EDE: 20" in await dig(port, "example.org")
        assert (app.settings.state_dir / "cookie.secret").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("compiled", [True, False])
async def test_a_flood_is_limited_and_real_clients_get_through(rig: Rig, compiled: bool) -> None:
    rig.keep(declared(rig.edges.port))
    async with rig.running(compiled=compiled, responses_per_second=5) as app:
        (port,) = app.ports
        query = dns.message.make_query("hello.example.net", "A")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flood:
            flood.setblocking(False)
            flood.connect(("127.0.0.1", port))
            begin = asyncio.get_running_loop().time()
            for _ in range(100):
                flood.send(query.to_wire())
            answers: list[dns.message.Message] = []
            quiet_since = begin
            while asyncio.get_running_loop().time() < quiet_since + 1:
                try:
                    answers.append(dns.message.from_wire(flood.recv(4096)))
                    quiet_since = asyncio.get_running_loop().time()
                except BlockingIOError:
                    await asyncio.sleep(0.01)
        whole_answers = [a for a in answers if a.answer]
        cut = [a for a in answers if a.flags & dns.flags.TC]
        # The flood may lie across two seconds, or more on a busy machine.
        allowed = 5 * (int(quiet_since - begin) + 2)
        assert 5 <= len(whole_answers) <= allowed
        assert (100 - allowed) // 2 <= len(cut) <= 50
        assert len(whole_answers) + len(cut) == len(answers)
        answer = await dns.asyncquery.tcp(query, "127.0.0.1", port=port, timeout=30)
        assert answer.answer
        cookie = dns.message.make_query("hello.example.net", "A")
        cookie.use_edns(0, options=[dns.edns.CookieOption(bytes(range(8)), b"")])
        for _ in range(30):
            answer, _ = await asyncio.wait_for(_ask(cookie, port), 30)
            found = next(o for o in answer.options if isinstance(o, dns.edns.CookieOption))
            cookie.use_edns(0, options=[dns.edns.CookieOption(bytes(range(8)), found.server)])
        assert answer.rcode() == dns.rcode.NOERROR
        assert app.engine.limiter.dropped > 0


async def _ask(query: dns.message.Message, port: int) -> tuple[dns.message.Message, int]:
    """The answer, asked again when it was dropped."""
    for attempt in range(100):
        try:
            return await dns.asyncquery.udp(query, "127.0.0.1", port=port, timeout=0.1), attempt
        except dns.exception.Timeout:
            continue
    raise AssertionError("no answer")


async def test_a_secret_that_is_none_is_told(rig: Rig) -> None:
    rig.keep(declared(rig.edges.port))
    (rig.path / "state" / "cookie.secret").write_text("not a secret\n")
    with pytest.raises(Exception, match=r"cookie\.secret: each line must be 32 hexadecimal digits"):
        async with rig.running():
            raise AssertionError("it must not start")


async def test_addresses_keep_working_when_answers_are_learnt(rig: Rig) -> None:
    rig.keep(declared(rig.edges.port))
    async with rig.running() as app:
        (port,) = app.ports
        for _ in range(3):
            assert await addresses(port, subnet="10.3.0.0") == {"127.0.1.3"}
        if app.engine.hot is not None:
            assert sum(app.engine.hot.rcodes) >= 2
