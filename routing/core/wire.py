"""The DNS wire format (RFC 1035, section 4; RFC 6891): names, records, headers, and queries read with care."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class Rcode(IntEnum):
    """Response codes."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5
    BADVERS = 16
    BADCOOKIE = 23


class ExtendedError(IntEnum):
    """Why, beside a response code (RFC 8914, section 4)."""

    BLOCKED = 15
    NOT_AUTHORITATIVE = 20
    NOT_SUPPORTED = 21
    NO_REACHABLE_AUTHORITY = 22
    INVALID_DATA = 24
    INVALID_QUERY_TYPE = 30


A: Final = b"\x00\x01"
NS: Final = b"\x00\x02"
CNAME: Final = b"\x00\x05"
SOA: Final = b"\x00\x06"
HINFO: Final = b"\x00\x0d"
TXT: Final = b"\x00\x10"
AAAA: Final = b"\x00\x1c"
OPT: Final = b"\x00\x29"
DS: Final = b"\x00\x2b"
RRSIG: Final = b"\x00\x2e"
NSEC: Final = b"\x00\x2f"
DNSKEY: Final = b"\x00\x30"
CDS: Final = b"\x00\x3b"
CDNSKEY: Final = b"\x00\x3c"
NXNAME: Final = b"\x00\x80"
"""Says within an NSEC record that its owner does not exist; nothing that could be asked for (RFC 9824, section 3.5)."""
IXFR: Final = b"\x00\xfb"
AXFR: Final = b"\x00\xfc"
ANY: Final = b"\x00\xff"
META_TYPES: Final = frozenset(bytes((0, t)) for t in (249, 250, 253, 254))
IN: Final = b"\x00\x01"
CHAOS: Final = b"\x00\x03"
QUESTION_NAME: Final = b"\xc0\x0c"
"""A pointer to the name of the question, which always begins at byte 12."""

QR: Final = 0x8000
AA: Final = 0x0400
TC: Final = 0x0200
RD: Final = 0x0100
UDP_SIZE: Final = 1232
"""The largest answer over UDP, ours and any client's: it fits into every packet without fragments."""
UDP_SIZE_PLAIN: Final = 512
HEADER_BYTES: Final = 12
_OPT_NSID: Final = 3
_OPT_ECS: Final = 8
_OPT_COOKIE: Final = 10
_OPT_KEEPALIVE: Final = 11
_OPT_EXTENDED_ERROR: Final = 15
_COOKIE_CLIENT_BYTES: Final = 8
_COOKIE_SERVER_BYTES: Final = range(8, 33)
_NAME_BYTES_MAX: Final = 255
_LABEL_BYTES_MAX: Final = 63
_ECS_BITS_MAX: Final = {1: 32, 2: 128}


def name(text: str) -> bytes:
    """The wire form, lower case, of an ASCII name without escapes; with or without the last dot."""
    labels = [label.encode("ascii") for label in text.lower().split(".") if label]
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\0"


def mailbox(address: str) -> bytes:
    """The wire form of a mail address; dots before the `@` stay within the first label (RFC 1035, section 8)."""
    local, _, domain = address.partition("@")
    return bytes((len(local),)) + local.encode("ascii") + name(domain)


def text_of(wire: bytes) -> str:
    """A wire name for people; bytes that no host name has are escaped (RFC 1035, section 5.1)."""
    labels, at = [], 0
    while wire[at]:
        label = wire[at + 1 : at + 1 + wire[at]]
        labels.append("".join(chr(b) if 0x21 <= b <= 0x7E and b not in b'.\\"' else f"\\{b:03d}" for b in label))
        at += 1 + wire[at]
    return ".".join(labels) or "."


def record(owner: bytes, kind: bytes, ttl_s: int, data: bytes) -> bytes:
    """A resource record of class IN."""
    return owner + kind + IN + ttl_s.to_bytes(4, "big") + len(data).to_bytes(2, "big") + data


def pointer(offset: int) -> bytes:
    """A compressed name that points to `offset` (RFC 1035, section 4.1.4)."""
    return (0xC000 | offset).to_bytes(2, "big")


def head(flags: int, counts: tuple[int, int, int, int]) -> bytes:
    """The header without its id: flags and the four counts."""
    return flags.to_bytes(2, "big") + b"".join(count.to_bytes(2, "big") for count in counts)


@dataclass(frozen=True, slots=True)
class Subnet:
    """An EDNS Client Subnet option as the query carried it (RFC 7871, section 6)."""

    family: int
    source_bits: int
    address: bytes

    def echo(self, scope_bits: int) -> bytes:
        """The option for the answer: everything but the scope must match the query exactly (section 7.2.2)."""
        head = self.family.to_bytes(2, "big") + bytes((self.source_bits, scope_bits))
        return _option(_OPT_ECS, head + self.address)


@dataclass(frozen=True, slots=True)
class Edns:
    """The OPT record of a query (RFC 6891, section 6.1)."""

    udp_size: int
    version: int
    dnssec_ok: bool
    subnet: Subnet | None = None
    cookie: bytes = b""
    nsid: bool = False
    keepalive: bool = False
    compact_ok: bool = False
    """Understands NXDOMAIN beside a compact denial (RFC 9824, section 5.1)."""


@dataclass(frozen=True, slots=True)
class Query:
    """A message that is well enough formed to be answered; `end` is the offset behind its question, 12 without one."""

    opcode: int
    end: int = HEADER_BYTES
    qname: bytes = b""
    qtype: bytes = b""
    qclass: bytes = b""
    edns: Edns | None = None
    problem: Rcode = Rcode.NOERROR


class _MalformedError(Exception):
    """The message does not hold what its lengths and counts say."""


def _option(code: int, data: bytes) -> bytes:
    return (code << 16 | len(data)).to_bytes(4, "big") + data


def nsid(identity: bytes) -> bytes:
    """The option that names this server (RFC 5001, section 2.3)."""
    return _option(_OPT_NSID, identity)


def keepalive(idle_s: float) -> bytes:
    """The option that says how long a connection may rest, in units of 100 ms (RFC 7828, section 3.1)."""
    return _option(_OPT_KEEPALIVE, min(int(10 * idle_s), 0xFFFF).to_bytes(2, "big"))


def extended_error(error: ExtendedError, text: str) -> bytes:
    """The option that says why (RFC 8914, section 2)."""
    return _option(_OPT_EXTENDED_ERROR, error.to_bytes(2, "big") + text.encode())


def opt(edns: Edns, rcode: int, option: bytes = b"") -> bytes:
    """Our OPT record: our size, version 0, the upper bits of `rcode`, the query's DO bit (RFC 3225, section 3)."""
    ttl = bytes((rcode >> 4, 0, 0x80 if edns.dnssec_ok else 0, 0))
    return b"\0" + OPT + UDP_SIZE.to_bytes(2, "big") + ttl + len(option).to_bytes(2, "big") + option


def parse_query(data: bytes) -> Query | None:
    """Reads a message of any bytes; None when there is nobody to answer: no whole header, or itself an answer."""
    if len(data) < HEADER_BYTES or data[2] & 0x80:
        return None
    opcode = data[2] >> 3 & 15
    query = Query(opcode)
    try:
        if data[4:6] == b"\0\0":
            return _without_question(data, opcode)
        if data[4:6] != b"\0\1":
            raise _MalformedError
        end = _skip_labels(data, HEADER_BYTES)
        if end + 4 > len(data):
            raise _MalformedError
        qname = data[HEADER_BYTES:end].lower()
        query = Query(opcode, end + 4, qname, data[end : end + 2], data[end + 2 : end + 4])
        edns = _additional(data, end + 4)
    except _MalformedError:
        problem = Rcode.NOTIMP if opcode else Rcode.FORMERR
        return Query(opcode, query.end, query.qname, query.qtype, query.qclass, None, problem)
    problem = Rcode.NOERROR
    if opcode:
        problem = Rcode.NOTIMP
    elif isinstance(edns, _BrokenOptions):
        problem = Rcode.FORMERR
    elif edns is not None and edns.version:
        problem = Rcode.BADVERS
    found = edns.edns if isinstance(edns, _BrokenOptions) else edns
    return Query(opcode, query.end, query.qname, query.qtype, query.qclass, found, problem)


def _without_question(data: bytes, opcode: int) -> Query:
    """Who only wants a cookie asks nothing (RFC 7873, section 5.4); whoever else does so is malformed."""
    edns = _additional(data, HEADER_BYTES)
    if opcode or not isinstance(edns, Edns):
        raise _MalformedError
    if edns.version:
        return Query(opcode, edns=edns, problem=Rcode.BADVERS)
    if not edns.cookie:
        return Query(opcode, edns=edns, problem=Rcode.FORMERR)
    return Query(opcode, edns=edns)


@dataclass(frozen=True, slots=True)
class _BrokenOptions:
    """An OPT record whose options cannot be read; the answer carries OPT all the same."""

    edns: Edns


def _skip_labels(data: bytes, at: int) -> int:
    """The offset behind a name without compression."""
    start = at
    while at < len(data):
        size = data[at]
        if size == 0:
            if at + 1 - start > _NAME_BYTES_MAX:
                raise _MalformedError
            return at + 1
        if size > _LABEL_BYTES_MAX:
            raise _MalformedError
        at += 1 + size
    raise _MalformedError


def _skip_name(data: bytes, at: int) -> int:
    """The offset behind a name that may end in a pointer."""
    while at < len(data):
        size = data[at]
        if size >= 0xC0:
            if at + 2 > len(data):
                raise _MalformedError
            return at + 2
        if size > _LABEL_BYTES_MAX:
            raise _MalformedError
        at += 1 + size
        if size == 0:
            return at
    raise _MalformedError


def _additional(data: bytes, at: int) -> Edns | _BrokenOptions | None:
    """The OPT record among the records behind the question; all of them must end where the message does."""
    found: Edns | _BrokenOptions | None = None
    before = int.from_bytes(data[6:8], "big") + int.from_bytes(data[8:10], "big")
    for number in range(before + int.from_bytes(data[10:12], "big")):
        owner = at
        at = _skip_name(data, at)
        if at + 10 > len(data):
            raise _MalformedError
        end = at + 10 + int.from_bytes(data[at + 8 : at + 10], "big")
        if end > len(data):
            raise _MalformedError
        if data[at : at + 2] == OPT:
            if found is not None or data[owner] != 0 or number < before:
                raise _MalformedError
            found = _edns(data, at, end)
        at = end
    if at != len(data):
        raise _MalformedError
    return found


def _edns(data: bytes, at: int, end: int) -> Edns | _BrokenOptions:
    size = int.from_bytes(data[at + 2 : at + 4], "big")
    version, dnssec_ok, compact_ok = data[at + 5], bool(data[at + 6] & 0x80), bool(data[at + 6] & 0x40)
    edns = Edns(size, version, dnssec_ok, compact_ok=compact_ok)
    if version:
        return edns
    subnet, cookie, nsid_asked, keepalive_asked, at = None, b"", False, False, at + 10
    while at < end:
        stop = at + 4 + int.from_bytes(data[at + 2 : at + 4], "big")
        if at + 4 > end or stop > end:
            return _BrokenOptions(edns)
        code, content = int.from_bytes(data[at : at + 2], "big"), data[at + 4 : stop]
        if code == _OPT_ECS:
            again = subnet is not None
            subnet = parse_subnet(content)
            if subnet is None or again:
                return _BrokenOptions(edns)
        elif code == _OPT_COOKIE and not cookie:
            if not _is_cookie(content):
                return _BrokenOptions(edns)
            cookie = content
        elif code == _OPT_NSID:
            nsid_asked = True
        elif code == _OPT_KEEPALIVE:
            keepalive_asked = True
        at = stop
    return Edns(size, version, dnssec_ok, subnet, cookie, nsid_asked, keepalive_asked, compact_ok)


def _is_cookie(content: bytes) -> bool:
    """A client's cookie, alone or with a server's (RFC 7873, section 4); the first of several counts (5.2.2)."""
    return len(content) == _COOKIE_CLIENT_BYTES or len(content) - _COOKIE_CLIENT_BYTES in _COOKIE_SERVER_BYTES


def parse_subnet(option: bytes) -> Subnet | None:
    """The option of a query, or None when it is malformed (RFC 7871, sections 6 and 7.1.2).

    Family 0 is taken when there is no address in it: that is how `dig +subnet=0` asks for privacy.
    """
    if len(option) < 4 or option[3]:
        return None
    family, bits, address = int.from_bytes(option[:2], "big"), option[2], option[4:]
    if family == 0 and bits == 0 and not address:
        return Subnet(0, 0, b"")
    if bits > _ECS_BITS_MAX.get(family, -1) or len(address) != (bits + 7) // 8:
        return None
    if bits % 8 and address[-1] & (0xFF >> bits % 8):
        return None
    return Subnet(family, bits, address)
