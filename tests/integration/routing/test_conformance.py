"""What a conformance test of EDNS sends to a server, over real sockets: code, flags, version and options of each answer
(after ISC's DNS compliance tests; RFC 1035, 6891, 7873)."""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass

import pytest

from tests.integration.routing.rig import Rig
from tests.integration.routing.test_protocol import declared

SOA, TXT, DNSKEY = 6, 16, 48
QR, AA, TC, RD, RA, Z, AD, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0040, 0x0020, 0x0010
NOERROR, FORMERR, NOTIMP, REFUSED, BADVERS, BADCOOKIE = 0, 1, 4, 5, 16, 23
NSID, ECS, EXPIRE, COOKIE, KEEPALIVE, PADDING = 3, 8, 9, 10, 11, 12
CLIENT = bytes(range(8))


@dataclass(frozen=True)
class Probe:
    """A query, and what its answer must be. `version` None: without EDNS. `answers` None: any number."""

    flags: int = 0
    opcode: int = 0
    version: int | None = None
    ends: int = 0
    """The flags of EDNS."""
    options: tuple[tuple[int, bytes], ...] = ()
    size: int = 4096
    kind: int = SOA
    question: bool = True
    rcode: int = NOERROR
    answers: int | None = 1
    echoed: tuple[int, ...] = ()
    """Codes of the options in the answer."""
    aa: bool = True
    do: bool = False
    opt: bool | None = None
    """Whether the answer has OPT; None: as the query has."""


PROBES = {
    "dns": Probe(),
    "rd": Probe(flags=RD),
    "ad": Probe(flags=AD),
    "cd": Probe(flags=CD),
    "ra": Probe(flags=RA),
    "aa": Probe(flags=AA),
    "tc": Probe(flags=TC),
    "zflag": Probe(flags=Z),
    "all-flags": Probe(flags=AA | TC | RD | RA | Z | AD | CD),
    "opcode-status": Probe(opcode=2, rcode=NOTIMP, answers=0, aa=False),
    "opcode-unassigned": Probe(opcode=15, question=False, rcode=NOTIMP, answers=0, aa=False),
    "opcodeflg": Probe(
        opcode=15, flags=AA | TC | RD | RA | Z | AD | CD, question=False, rcode=NOTIMP, answers=0, aa=False
    ),
    "opcode-notify": Probe(opcode=4, rcode=NOTIMP, answers=0, aa=False),
    "opcode-update": Probe(opcode=5, rcode=NOTIMP, answers=0, aa=False),
    "opcode-edns": Probe(opcode=15, version=0, rcode=NOTIMP, answers=0, aa=False, echoed=(15,)),
    "no-question": Probe(question=False, rcode=FORMERR, answers=0, aa=False),
    "no-question-edns": Probe(question=False, version=0, rcode=FORMERR, answers=0, aa=False),
    "no-question-cookie": Probe(
        question=False, version=0, options=((COOKIE, CLIENT),), answers=0, aa=False, echoed=(COOKIE,)
    ),
    "no-question-stale-cookie": Probe(
        question=False,
        version=0,
        options=((COOKIE, CLIENT + bytes(16)),),
        rcode=BADCOOKIE,
        answers=0,
        aa=False,
        echoed=(COOKIE,),
    ),
    "type666": Probe(kind=666, answers=0),
    "type65535": Probe(kind=65535, answers=0),
    "edns": Probe(version=0),
    "edns512": Probe(version=0, size=512),
    "edns0-size": Probe(version=0, size=0),
    "edns1": Probe(version=1, rcode=BADVERS, answers=0, aa=False),
    "edns255": Probe(version=255, rcode=BADVERS, answers=0, aa=False),
    "ednsopt": Probe(version=0, options=((100, b""),)),
    "ednsopt-data": Probe(version=0, options=((100, b"x" * 200), (65001, b"\0"))),
    "edns1opt": Probe(version=1, options=((100, b""),), rcode=BADVERS, answers=0, aa=False),
    "ednsflags": Probe(version=0, ends=0x40),
    "ednsflags-all": Probe(version=0, ends=0xBFFF, do=True),
    "edns1flags": Probe(version=1, ends=0x40, rcode=BADVERS, answers=0, aa=False),
    "do": Probe(version=0, ends=0x8000, do=True),
    "edns1do": Probe(version=1, ends=0x8000, rcode=BADVERS, answers=0, aa=False, do=True),
    "docookie": Probe(version=0, ends=0x8000, do=True, options=((COOKIE, CLIENT),), echoed=(COOKIE,)),
    "bad-cookie-length": Probe(version=0, options=((COOKIE, b"1234"),), rcode=FORMERR, answers=0, aa=False, echoed=()),
    "cookie-of-another": Probe(version=0, options=((COOKIE, CLIENT + bytes(8)),), echoed=(COOKIE,)),
    "optlist": Probe(
        version=0,
        options=((NSID, b""), (ECS, b"\0\1\0\0"), (EXPIRE, b""), (COOKIE, CLIENT)),
        echoed=(NSID, ECS, COOKIE),
    ),
    "keepalive-padding": Probe(version=0, options=((KEEPALIVE, b""), (PADDING, bytes(64)))),
    "bind11": Probe(flags=RD | AD, version=0, ends=0x8000, do=True, options=((COOKIE, CLIENT),), echoed=(COOKIE,)),
    "dnskey": Probe(version=0, ends=0x8000, do=True, kind=DNSKEY, answers=0),
    "any": Probe(kind=255, answers=1),
    "opt-as-type": Probe(kind=41, rcode=FORMERR, answers=0, aa=False),
    "axfr-by-udp": Probe(kind=252, rcode=REFUSED, answers=None, aa=False),
    "maila": Probe(kind=254, rcode=NOTIMP, answers=0, aa=False),
}


def query(probe: Probe) -> bytes:
    question = b"\7example\3net\0" + struct.pack(">HH", probe.kind, 1) if probe.question else b""
    extra = b""
    if probe.version is not None:
        data = b"".join(struct.pack(">HH", code, len(value)) + value for code, value in probe.options)
        extra = struct.pack(">BHHBBHH", 0, 41, probe.size, 0, probe.version, probe.ends, len(data)) + data
    counts = (int(probe.question), 0, 0, int(probe.version is not None))
    return struct.pack(">HHHHHH", 4711, probe.flags | probe.opcode << 11, *counts) + question + extra


def skipped(data: bytes, at: int) -> int:
    while data[at]:
        if data[at] >= 0xC0:
            return at + 2
        at += 1 + data[at]
    return at + 1


def check(name: str, probe: Probe, data: bytes, tcp: bool) -> None:
    number, flags, questions, answers, authorities, additional = struct.unpack(">HHHHHH", data[:12])
    assert number == 4711, name
    assert flags & QR, name
    assert flags >> 11 & 15 == probe.opcode, name
    assert not flags & (RA | Z | AD | CD | TC), (name, hex(flags))
    assert bool(flags & RD) == bool(probe.flags & RD), (name, hex(flags))
    assert questions == int(probe.question), name
    at, codes, opts, rcode = 12, [], [], flags & 15
    for _ in range(questions):
        at = skipped(data, at) + 4
    for _ in range(answers + authorities + additional):
        at = skipped(data, at)
        kind, size, upper, version, ends, length = struct.unpack(">HHBBHH", data[at : at + 10])
        at += 10
        if kind == 41:
            opts.append((size, version, ends))
            rcode |= upper << 4
            end = at + length
            inner = at
            while inner < end:
                code, bytes_ = struct.unpack(">HH", data[inner : inner + 4])
                codes.append(code)
                inner += 4 + bytes_
        at += length
    assert at == len(data), name
    if tcp and name == "axfr-by-udp":
        return
    assert rcode == probe.rcode, name
    assert len(opts) == int(probe.version is not None), name
    assert probe.answers is None or answers == probe.answers, name
    assert bool(flags & AA) == probe.aa, name
    for size, version, ends in opts:
        assert (version, ends, size) == (0, 0x8000 if probe.do else 0, 1232), (name, hex(ends))
    # Only a connection can be kept alive (RFC 7828, section 3.2).
    kept = [KEEPALIVE] if tcp and any(code == KEEPALIVE for code, _ in probe.options) else []
    assert sorted(code for code in codes if code != 15 or 15 in probe.echoed) == sorted([*probe.echoed, *kept]), name


async def by_tcp(port: int, queries: list[bytes]) -> list[bytes]:
    """All in one go on one connection; answers in whatever order would be told apart by their number."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    found = []
    for one in queries:
        writer.write(struct.pack(">H", len(one)) + one)
        (size,) = struct.unpack(">H", await reader.readexactly(2))
        found.append(await reader.readexactly(size))
    writer.close()
    return found


@pytest.mark.parametrize("compiled", [True, False])
async def test_every_probe_is_answered_as_it_should_be(rig: Rig, compiled: bool) -> None:
    rig.keep(declared(rig.edges.port))
    async with rig.running(compiled=compiled) as app:
        (port,) = app.ports
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.setblocking(False)
            udp.connect(("127.0.0.1", port))
            for turn in range(2):
                for name, probe in PROBES.items():
                    await loop.sock_sendall(udp, query(probe))
                    async with asyncio.timeout(20):
                        check(name, probe, await loop.sock_recv(udp, 4096), False)
                assert turn in (0, 1)
        for (name, probe), data in zip(
            PROBES.items(), await by_tcp(port, [query(p) for p in PROBES.values()]), strict=True
        ):
            check(name, probe, data, True)
