"""Whatever the header, the question or OPT say, over real sockets: the right code or, for what is no question, silence;
never an answer that does not belong to its question (RFC 1035, section 4.1; RFC 6891; RFC 8906)."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.integration.routing.rig import Rig
from tests.integration.routing.test_dnssec import signed

QUESTION = b"\5hElLo\7eXaMpLe\3NeT\0\0\1\0\1"
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED, BADVERS = 0, 1, 2, 3, 4, 5, 16
OPT = b"\0\0\x29\4\xd0\0\0\0\0\0\0"
A_RECORD = b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4\1\2\3\4"


@dataclass(frozen=True)
class Case:
    """A message without its number, and the code of its answer: None for silence. `echoed` is the question in it."""

    title: str
    message: bytes
    rcode: int | None
    echoed: bytes = QUESTION


def message(body: bytes, *, flags: int = 0, opcode: int = 0, counts: tuple[int, int, int, int] = (1, 0, 0, 0)) -> bytes:
    return struct.pack(">HHHHH", flags | opcode << 11, *counts) + body


def opt(version: int = 0, flags: int = 0, options: bytes = b"", size: int = 1232, upper: int = 0) -> bytes:
    return struct.pack(">BHHBBHH", 0, 41, size, upper, version, flags, len(options)) + options


def heads() -> Iterator[Case]:
    """Flags, codes of operations, counts."""
    for bit in range(16):
        if bit not in range(11, 16):
            yield Case(f"flag {bit}", message(QUESTION, flags=1 << bit), NOERROR)
    for rcode in range(1, 16):
        yield Case(f"rcode {rcode} in a query", message(QUESTION, flags=rcode), NOERROR)
    for opcode in range(1, 16):
        yield Case(f"opcode {opcode}", message(QUESTION, opcode=opcode), NOTIMP)
        yield Case(f"opcode {opcode} with OPT", message(QUESTION + OPT, opcode=opcode, counts=(1, 0, 0, 1)), NOTIMP)
        yield Case(f"opcode {opcode}, no question", message(b"", opcode=opcode, counts=(0, 0, 0, 0)), NOTIMP, b"")
        yield Case(f"opcode {opcode}, garbage", message(b"\xff" * 20, opcode=opcode), NOTIMP, b"")
    for opcode in range(16):
        yield Case(f"an answer, opcode {opcode}", message(QUESTION, flags=0x8000, opcode=opcode), None)
    yield Case("an answer with an answer in it", message(QUESTION + A_RECORD, flags=0x8180, counts=(1, 1, 0, 0)), None)
    for length in range(10):
        yield Case(f"{length} bytes of a header", message(QUESTION)[:length], None)
    yield Case("no question", message(b"", counts=(0, 0, 0, 0)), FORMERR, b"")
    yield Case("two questions", message(QUESTION * 2, counts=(2, 0, 0, 0)), FORMERR, b"")
    yield Case("two questions, one there", message(QUESTION, counts=(2, 0, 0, 0)), FORMERR, b"")
    yield Case("65535 questions", message(QUESTION, counts=(65535, 0, 0, 0)), FORMERR, b"")
    for at in range(1, 4):
        counts = [1, 0, 0, 0]
        counts[at] = 65535
        yield Case(f"65535 records in section {at}", message(QUESTION, counts=tuple(counts)), FORMERR)  # type: ignore[arg-type]
    yield Case("a record in the answer section", message(QUESTION + A_RECORD, counts=(1, 1, 0, 0)), NOERROR)
    yield Case("a record in the authority section", message(QUESTION + A_RECORD, counts=(1, 0, 1, 0)), NOERROR)
    for more in (b"\0", b"junk", QUESTION, bytes(1000)):
        yield Case(f"{len(more)} bytes too many", message(QUESTION + more), FORMERR)


def names() -> Iterator[Case]:
    """Labels, pointers, lengths, classes and types."""

    def asked(name: bytes, kind: bytes = b"\0\1", class_: bytes = b"\0\1") -> bytes:
        return name + kind + class_

    end = b"\7example\3net\0"
    longest = (b"\x3f" + b"a" * 63) * 3 + b"\x31" + b"b" * 49 + end
    assert len(longest) == 255
    yield Case("255 bytes", message(asked(longest)), NXDOMAIN, asked(longest))
    yield Case("256 bytes", message(asked(longest.replace(b"\x31b", b"\x32bb"))), FORMERR, b"")
    for first in (0x40, 0x80, 0xBF):
        yield Case(f"label type {first:x}", message(bytes((first,)) + QUESTION), FORMERR, b"")
    for title, name in (
        ("to itself", b"\xc0\x0c"),
        ("forward", b"\xc0\xff"),
        ("to the header", b"\xc0\0"),
        ("behind a label, a loop", b"\1a\xc0\x0c"),
    ):
        yield Case(f"a pointer {title}", message(asked(name)), FORMERR, b"")
    for cut in range(len(QUESTION)):
        yield Case(f"{cut} bytes of a question", message(QUESTION[:cut]), FORMERR, b"")
    many = b"".join(b"\1a" for _ in range(120)) + end
    yield Case("120 labels", message(asked(many)), NXDOMAIN, asked(many))
    odd = b"\4\0.\\\xff" + end
    yield Case("bytes that no host has", message(asked(odd)), NXDOMAIN, asked(odd))
    yield Case("the root", message(asked(b"\0", b"\0\2")), REFUSED, asked(b"\0", b"\0\2"))
    for class_ in (0, 2, 3, 4, 254, 255, 256, 65535):
        question = QUESTION[:-2] + class_.to_bytes(2, "big")
        yield Case(f"class {class_}", message(question), REFUSED, question)
    refused = {41: FORMERR, 128: FORMERR, 249: NOTIMP, 250: NOTIMP, 253: NOTIMP, 254: NOTIMP, 251: REFUSED}
    for kind in (*range(300), 32768, 32769, 65279, 65280, 65535):
        if kind != 252:
            question = QUESTION[:-4] + kind.to_bytes(2, "big") + b"\0\1"
            yield Case(f"type {kind}", message(question), refused.get(kind, NOERROR), question)


def options() -> Iterator[Case]:
    """EDNS: versions, flags, sizes, options, and OPT where it has no business."""

    def edns(body: bytes, count: int = 1) -> bytes:
        return message(QUESTION + body, counts=(1, 0, 0, count))

    for version in range(1, 256):
        yield Case(f"version {version}", edns(opt(version)), BADVERS)
    for bit in range(16):
        yield Case(f"EDNS flag {bit}", edns(opt(flags=1 << bit)), NOERROR)
    for size in (0, 1, 511, 512, 1232, 4096, 65535):
        yield Case(f"size {size}", edns(opt(size=size)), NOERROR)
    yield Case("upper bits of a code", edns(opt(upper=255)), NOERROR)
    for code in (0, 1, 2, 4, 5, 6, 7, 9, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20292, 26946, 65001, 65535):
        for data in (b"", b"\0", b"x" * 100):
            yield Case(
                f"option {code}, {len(data)} bytes",
                edns(opt(options=struct.pack(">HH", code, len(data)) + data)),
                NOERROR,
            )
    for cut in (b"\0", b"\0\x0a\0", b"\0\x0a\0\x08", b"\0\x0a\xff\xff", b"\0\x03\0\0\0"):
        yield Case(f"an option cut short: {cut.hex()}", edns(opt(options=cut)), FORMERR)
    for length in (*range(8), *range(9, 16), 41, 60):
        data = struct.pack(">HH", 10, length) + bytes(length)
        yield Case(f"a cookie of {length} bytes", edns(opt(options=data)), FORMERR)
    yield Case("two OPT", edns(opt() * 2, 2), FORMERR)
    yield Case("OPT of another name", edns(b"\1a" + opt()), FORMERR)
    yield Case("OPT among the answers", message(QUESTION + opt(), counts=(1, 1, 0, 0)), FORMERR)
    yield Case("OPT in the authority section", message(QUESTION + opt(), counts=(1, 0, 1, 0)), FORMERR)
    yield Case("OPT behind another record", edns(A_RECORD + opt(), 2), NOERROR)
    yield Case("OPT before another record", edns(opt() + A_RECORD, 2), NOERROR)
    for cut in range(1, len(OPT)):
        yield Case(f"{cut} bytes of OPT", edns(OPT[:cut]), FORMERR)
    yield Case("OPT that says that it is longer", edns(OPT[:-1] + b"\xff"), FORMERR)
    yield Case("OPT and a byte more", edns(OPT + b"\0"), FORMERR)


CASES = [*heads(), *names(), *options()]


def check(case: Case, answer: bytes) -> None:
    flags, questions, answers, authorities, additional = struct.unpack(">HHHHH", answer[2:12])
    assert flags & 0x8000, case.title
    asked = int.from_bytes(case.message[:2], "big")
    assert flags >> 11 & 15 == asked >> 11 & 15, case.title
    assert not flags & 0x00F0, (case.title, hex(flags))
    assert bool(flags & 0x0100) == bool(asked & 0x0100), case.title
    # The question as it was asked, to the letter: resolvers draw the case of each (0x20).
    assert questions == bool(case.echoed), case.title
    assert answer[12 : 12 + len(case.echoed)] == case.echoed, case.title
    rcode = flags & 15
    if additional and (at := answer.rfind(b"\0\0\x29\4\xd0")) > 0:
        rcode |= answer[at + 5] << 4
        assert answer[at + 6] == 0, case.title
    assert rcode == case.rcode, (case.title, rcode)
    if rcode not in (NOERROR, NXDOMAIN):
        assert answers == authorities == 0, case.title
    assert len(answer) <= 1232, case.title


LAST = b"\xff\xff" + message(QUESTION, flags=0x0040)
"""Answered by Python as everything odd is, so that its answer is behind all others."""


@pytest.mark.parametrize("compiled", [True, False])
async def test_by_udp(rig: Rig, compiled: bool) -> None:
    rig.keep(signed(rig.edges.port))
    async with rig.running(compiled=compiled, responses_per_second=0) as app:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.setblocking(False)
            udp.connect(("127.0.0.1", app.ports[0]))
            for begin in range(0, len(CASES), 32):
                part = dict(enumerate(CASES[begin : begin + 32], begin))
                for number, case in part.items():
                    udp.send(number.to_bytes(2, "big") + case.message)
                udp.send(LAST)
                heard: dict[int, bytes] = {}
                async with asyncio.timeout(20):
                    while len(heard) < sum(case.rcode is not None for case in part.values()) or 0xFFFF not in heard:
                        answer = await loop.sock_recv(udp, 4096)
                        number = int.from_bytes(answer[:2], "big")
                        assert number not in heard
                        heard[number] = answer
                        if number != 0xFFFF:
                            check(part[number], answer)
                del heard[0xFFFF]
                assert heard.keys() == {number for number, case in part.items() if case.rcode is not None}
        assert app.engine.broken == 0


async def test_by_tcp(rig: Rig) -> None:
    """All on one connection, pipelined; what gets no answer does not end it."""
    rig.keep(signed(rig.edges.port))
    async with rig.running() as app:
        reader, writer = await asyncio.open_connection("127.0.0.1", app.ports[0])
        for number, case in enumerate(CASES):
            data = number.to_bytes(2, "big") + case.message
            writer.write(len(data).to_bytes(2, "big") + data)
        for number, case in enumerate(CASES):
            if case.rcode is not None:
                async with asyncio.timeout(20):
                    size = int.from_bytes(await reader.readexactly(2), "big")
                    answer = await reader.readexactly(size)
                assert int.from_bytes(answer[:2], "big") == number, case.title
                check(case, answer)
        writer.close()
        assert app.engine.broken == 0
