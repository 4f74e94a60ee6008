"""Zones handed to secondaries: dig and dnspython as secondaries; keys, networks, refusals, NOTIFY."""

from __future__ import annotations

import asyncio
import base64
import hmac
import itertools
import socket
import struct
import time
from pathlib import Path

import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.tsig
import dns.tsigkeyring
import dns.xfr
import dns.zone
import pytest
from dns.rdtypes.ANY.TSIG import TSIG

from fleet.errors import LocciError
from locci.v1 import resource_pb2
from routing.app import DnsApp
from tests.integration.routing.rig import Rig, eventually
from tests.integration.routing.test_dnssec import signed
from tests.integration.routing.test_protocol import declared
from tests.integration.routing.test_serving import dig
from tests.unit.routing.adapters.resources import snapshot

SECRET = base64.b64encode(bytes(range(32))).decode()


def keys(rig: Rig) -> str:
    path = rig.path / "tsig.keys"
    path.write_text(f"# secondaries\nxfer.example. hmac-sha256 {SECRET}\n")
    return str(path)


async def test_dig_gets_the_whole_zone_with_a_key_and_not_without(rig: Rig) -> None:
    rig.keep(declared(rig.edges.port))
    async with rig.running(transfer_keys=keys(rig)) as app:
        (port,) = app.ports
        key = ("-y", f"hmac-sha256:xfer.example.:{SECRET}")
        text = await dig(port, "example.net", "AXFR", *key)
        for part in (
            "hello.example.net.\t5\tIN\tA\t127.0.1.1",
            "hello.example.net.\t5\tIN\tA\t127.0.1.3",
            "mail.example.net.\t60\tIN\tA\t192.0.2.25",
            "www.example.net.\t60\tIN\tCNAME\thello.example.net.",
            '*.dev.example.net.\t60\tIN\tTXT\t"wild"',
            "child.example.net.\t60\tIN\tNS\tns.child.example.net.",
            "ns.child.example.net.\t60\tIN\tA\t192.0.2.53",
            "alias.example.net.\t5\tIN\tA\t127.0.1.2",
        ):
            assert part in text, (part, text)
        assert text.count("IN\tSOA") == 2
        assert "Transfer failed" not in text
        assert "Transfer failed" in await dig(port, "example.net", "AXFR")
        other = base64.b64encode(b"x" * 32).decode()
        assert "Transfer failed" in await dig(port, "example.net", "AXFR", "-y", f"hmac-sha256:xfer.example.:{other}")
        assert "Transfer failed" in await dig(port, "example.net", "AXFR", "-y", f"hmac-sha256:no.example.:{SECRET}")
        assert "Transfer failed" in await dig(port, "example.org", "AXFR", *key)
        assert "IN\tSOA" in await dig(port, "example.net", "IXFR=1", *key)
        assert app.transfers.served == 2


@pytest.mark.parametrize("compiled", [True, False])
async def test_a_signed_question_gets_a_signed_answer(rig: Rig, compiled: bool) -> None:
    rig.keep(declared(rig.edges.port))
    async with rig.running(transfer_keys=keys(rig), compiled=compiled) as app:
        (port,) = app.ports
        ask = {"udp": dns.query.udp, "tcp": dns.query.tcp}
        for transport, name in itertools.product(ask, ("example.net", "hello.example.net", "nowhere.example.net")):
            for edns in (-1, 0):
                query = dns.message.make_query(name, "SOA", use_edns=edns)
                query.use_tsig(dns.tsigkeyring.from_text({"xfer.example": ("hmac-sha256", SECRET)}))
                answer = await asyncio.to_thread(ask[transport], query, "127.0.0.1", port=port, timeout=10)
                assert answer.had_tsig, "dnspython has checked the signature"
                assert (answer.edns >= 0) == (edns >= 0)
                assert bool(answer.answer) == (name == "example.net")
        for name, secret in (("xfer.example", base64.b64encode(b"x" * 32).decode()), ("other.example", SECRET)):
            query = dns.message.make_query("example.net", "SOA")
            query.use_tsig(dns.tsigkeyring.from_text({name: ("hmac-sha256", secret)}))
            wire = query.to_wire()
            refused = await asyncio.to_thread(exchange, wire, port)
            assert refused[:2] == wire[:2]
            assert refused[3] & 15 == dns.rcode.NOTAUTH
        assert "IN\tSOA" in await dig(port, "example.net", "SOA"), "unsigned questions are answered as before"


async def test_refusals_say_why(rig: Rig) -> None:
    """RFC 8945, section 5.2: BADKEY and BADSIG are unsigned; BADTIME is signed and tells the server's time."""
    rig.keep(declared(rig.edges.port))
    async with rig.running(transfer_keys=keys(rig)) as app:
        (port,) = app.ports
        now_s = int(time.time())
        wrong = base64.b64encode(b"x" * 32).decode()
        for kind, exchanged in (("SOA", exchange), ("SOA", exchange_tcp), ("AXFR", exchange_tcp)):
            for name, secret, at_s, expected in (
                ("other.example.", SECRET, now_s, dns.rcode.BADKEY),
                ("xfer.example.", wrong, now_s, dns.rcode.BADSIG),
                ("xfer.example.", SECRET, now_s - 3600, dns.rcode.BADTIME),
            ):
                wire, mac = asked(kind, name, secret, at_s)
                refused = await asyncio.to_thread(exchanged, wire, port)
                message = dns.message.from_wire(refused, keyring=False)
                assert message.rcode() == dns.rcode.NOTAUTH
                assert message.tsig is not None
                told = message.tsig[0]
                assert (told.error, message.tsig.name.to_text()) == (expected, name)
                if expected != dns.rcode.BADTIME:
                    assert (told.mac, told.other) == (b"", b"")
                    continue
                assert told.time_signed == at_s
                assert abs(int.from_bytes(told.other, "big") - now_s) < 60
                assert told.mac == expected_mac(refused, mac, at_s, told.other)


def asked(kind: str, name: str, secret: str, at_s: int) -> tuple[bytes, bytes]:
    """A query that was signed at a time, and its MAC."""
    key = dns.tsig.Key(name, secret, dns.tsig.HMAC_SHA256)
    wire = dns.message.make_query("example.net", kind).to_wire()
    unsigned = TSIG(dns.rdataclass.ANY, dns.rdatatype.TSIG, key.algorithm, at_s, 300, b"", 0, 0, b"")
    unsigned = unsigned.replace(original_id=int.from_bytes(wire[:2], "big"))
    signed, _ = dns.tsig.sign(wire, key, unsigned, at_s)
    rdata = signed.to_wire()
    record = key.name.to_wire() + b"\0\xfa\0\xff\0\0\0\0" + len(rdata).to_bytes(2, "big") + rdata
    return wire[:10] + b"\0\1" + wire[12:] + record, signed.mac


def expected_mac(refused: bytes, request_mac: bytes, at_s: int, other: bytes) -> bytes:
    """By hand (RFC 8945, section 4.3): the query's MAC, the message without its TSIG record, the record's variables."""
    end = refused.find(0, 12) + 5
    name, algorithm = (dns.name.from_text(text).to_wire() for text in ("xfer.example.", "hmac-sha256."))
    message = refused[:10] + b"\0\0" + refused[12:end]
    variables = name + b"\0\xff\0\0\0\0" + algorithm + struct.pack("!HIHHH", 0, at_s, 300, 18, len(other)) + other
    text = len(request_mac).to_bytes(2, "big") + request_mac + message + variables
    return hmac.digest(base64.b64decode(SECRET), text, "sha256")


def exchange_tcp(wire: bytes, port: int) -> bytes:
    """The same over TCP."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(len(wire).to_bytes(2, "big") + wire)
        stream = client.makefile("rb")
        return stream.read(int.from_bytes(stream.read(2), "big"))


def exchange(wire: bytes, port: int) -> bytes:
    """The answer to a datagram, as it came."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        client.sendto(wire, ("127.0.0.1", port))
        return client.recv(4096)


async def test_by_network_in_many_messages(rig: Rig) -> None:
    resources = declared(rig.edges.port)
    zone = next(r.zone for r in resources if r.name.startswith("zones/"))
    for number in range(3000):
        zone.records.add(owner=f"h{number}.example.net", type="TXT", data=['"' + "x" * 40 + '"']).ttl.FromSeconds(60)
    rig.keep(resources)
    async with rig.running(transfer_networks=["127.0.0.0/8"], transfer_keys=keys(rig)) as app:
        (port,) = app.ports
        for keyring in (None, dns.tsigkeyring.from_text({"xfer.example": ("hmac-sha256", SECRET)})):
            found = dns.zone.Zone("example.net")
            query, _ = dns.xfr.make_query(found, keyring=keyring)
            await asyncio.to_thread(dns.query.inbound_xfr, "127.0.0.1", found, query=query, port=port, lifetime=30)
            assert len(found.nodes) > 3000


async def test_a_signed_zone_is_not_handed_out(rig: Rig) -> None:
    rig.keep(signed(rig.edges.port))
    async with rig.running(transfer_networks=["127.0.0.0/8"]) as app:
        assert "Transfer failed" in await dig(app.ports[0], "example.net", "AXFR")


async def test_secondaries_are_told_of_changes(rig: Rig) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as secondary:
        secondary.bind(("127.0.0.1", 0))
        secondary.setblocking(False)
        heard: list[dns.message.Message] = []

        def listen() -> bool:
            try:
                data, source = secondary.recvfrom(4096)
            except BlockingIOError:
                return False
            message = dns.message.from_wire(data)
            secondary.sendto(dns.message.make_response(message).to_wire(), source)
            heard.append(message)
            return True

        target = f"127.0.0.1:{secondary.getsockname()[1]}"
        async with rig.running(notify=[target]) as app:
            await eventually(listen)
            changed: list[resource_pb2.Resource] = declared(rig.edges.port)
            for resource in changed:
                if resource.name.startswith("zones/"):
                    resource.zone.serial, resource.version = 8, "2"
            accept(rig, app, changed)
            await eventually(listen)
        assert [str(message.question[0].name) for message in heard] == ["example.net."] * 2
        assert heard[0].opcode() == 4


def accept(rig: Rig, app: DnsApp, resources: list[resource_pb2.Resource]) -> None:
    app._feed.accepted(snapshot(resources, 8))


@pytest.mark.parametrize("line", ["only two", "name hmac-md5 AAAA", "name hmac-sha256 !!", "name hmac-sha256 AAAA"])
async def test_bad_keys(rig: Rig, line: str) -> None:
    path = Path(rig.path / "bad.keys")
    path.write_text(line + "\n")
    with pytest.raises(LocciError, match="line 1"):
        async with rig.running(transfer_keys=str(path)):
            raise AssertionError("it must not start")
