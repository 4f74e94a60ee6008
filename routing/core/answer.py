"""From the bytes of a query to the bytes of its answer.

The common query (one question, at most an OPT record with at most a client subnet) is answered by slicing and two
lookups. Every other goes the careful way; both give the same answer to the same bytes.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Final

from routing.core import wire, zone
from routing.core.geo import PlaceMap
from routing.core.model import Family, Region, TargetKey
from routing.core.steering import Decision, Outcome, decide, depends_on_place
from routing.core.wire import Query, Rcode, Subnet
from routing.core.zone import Entry, Names, Tail

_FAMILIES: Final = {wire.A: Family.IPV4, wire.AAAA: Family.IPV6}
_TCP_SIZE: Final = 65_535
_NO_ADDRESS: Final = zone.tail(Rcode.NOERROR, (b"",))
"""Stands for NODATA, whose records depend on the name."""

_COMMON: Final = {
    bytes((rd, bits, 0, 1, 0, 0, 0, 0, 0, edns)): 2 * edns + rd
    for rd in (0, 1)
    for bits in (0x00, 0x10, 0x20, 0x30)
    for edns in (0, 1)
}
"""Flags (any of RD, AD and CD) and counts of common queries, to the number of their head."""

_SPECIAL: Final = wire.META_TYPES | {wire.OPT, wire.AXFR, wire.IXFR}
_OPT_START: Final = b"\0\0\x29"
_OPT_REPLY: Final = tuple(b"\0\0\x29" + wire.UDP_SIZE.to_bytes(2, "big") + bytes((0, 0, do, 0)) for do in (0, 0x80))
_OPT_PLAIN: Final = tuple(reply + b"\0\0" for reply in _OPT_REPLY)


class _SteeredClass:
    """The answers of one class of hostnames, by type and bucket; each is made when it is first asked for."""

    __slots__ = ("by_place", "tails")

    def __init__(self, by_place: bool):
        self.by_place = by_place
        self.tails: dict[bytes, dict[int, Tail]] = {wire.A: {}, wire.AAAA: {}}


class Responder:
    """Answers for one table, one map and one set of what is in rotation: a change of any makes a new responder.

    What it answers to the same bytes never changes. It is to be used from one thread.
    """

    def __init__(self, names: Names, places: PlaceMap, regions: Mapping[str, Region], rotation: AbstractSet[TargetKey]):
        self._names = names
        self._entries = names.entries
        self._places = places
        self._regions = regions
        self._rotation = rotation
        self._steered = tuple(_SteeredClass(depends_on_place(hostname)) for hostname in names.classes)

    def respond(self, data: bytes, source: bytes, tcp: bool = False) -> bytes | None:
        """The answer to `data` from the packed address `source`; None when there is nobody to answer."""
        kind = _COMMON.get(data[2:12])
        if kind is not None:
            end = data.find(0, 12) + 1
            entry = self._entries.get(data[12:end].lower())
            # A hit proves that the name is well formed: no name that exists has a zero byte within a label.
            if entry is not None and data[end + 2 : end + 4] == wire.IN:
                answer = self._respond_fast(data, end + 4, entry, kind, source, tcp)
                if answer is not None:
                    return answer
        return self.respond_with_care(data, source, tcp)

    def _respond_fast(self, data: bytes, end: int, entry: Entry, kind: int, source: bytes, tcp: bool) -> bytes | None:
        """The answer, or None when the query is not common enough or the answer is too large."""
        qtype = data[end - 4 : end - 2]
        if qtype in _SPECIAL:
            return None
        if kind < 2:
            if len(data) != end:
                return None
            found, _ = self._find(entry, qtype, source)
            limit, ending = wire.UDP_SIZE_PLAIN, b""
        else:
            opt, option = data[end : end + 11], data[end + 11 :]
            # Name and type of OPT, version 0, and options that fill the rest of the message.
            if opt[:3] != _OPT_START or len(opt) != 11 or opt[6] or opt[9] << 8 | opt[10] != len(option):
                return None
            dnssec_ok = opt[7] >> 7
            if not option:
                found, _ = self._find(entry, qtype, source)
                ending = _OPT_PLAIN[dnssec_ok]
            elif len(option) == 11 and option[:8] == b"\0\x08\0\x07\0\x01\x18\0":
                found, scope = self._find(entry, qtype, option[8:] + b"\0")
                ending = _OPT_REPLY[dnssec_ok] + b"\0\x0b\0\x08\0\x07\0\x01\x18" + bytes((scope,)) + option[8:]
            else:
                return None
            limit = min(max(opt[3] << 8 | opt[4], wire.UDP_SIZE_PLAIN), wire.UDP_SIZE)
        bodies = found.bodies
        body = bodies[data[1] % len(bodies)]
        answer = data[:2] + found.heads[kind] + data[12:end] + body + ending
        return answer if tcp or len(answer) <= limit else None

    def _find(self, entry: Entry, qtype: bytes, address: bytes) -> tuple[Tail, int]:
        """The answer for a client at the packed `address`, and the scope in which it holds."""
        if entry.steered >= 0:
            steered = self._steered[entry.steered]
            tails = steered.tails.get(qtype)
            if tails is not None:
                bucket, scope = 0, 0
                if steered.by_place:
                    places = self._places
                    bucket, scope = places.bucket_v4(address) if len(address) == 4 else places.bucket_v6(address)
                found = tails.get(bucket)
                if found is None:
                    found = tails[bucket] = self._steer(entry.steered, qtype, bucket)
                return (entry.nodata, 0) if found is _NO_ADDRESS else (found, scope)
        return entry.fixed.get(qtype) or entry.nodata, 0

    def _steer(self, number: int, qtype: bytes, bucket: int) -> Tail:
        hostname, family = self._names.classes[number], _FAMILIES[qtype]
        decision = decide(hostname, self._regions, self._places.order(bucket), self._rotation, family)
        match decision.outcome:
            case Outcome.NO_ADDRESS:
                return _NO_ADDRESS
            case Outcome.FAIL_CLOSED:
                # Not NODATA, which would be cached as a fact: another name server may know better (RFC 8767).
                return zone.SERVFAIL
            case _:
                packed = [ipaddress.ip_address(address).packed for address in decision.addresses]
                return zone.address_tail(qtype, packed, hostname.ttl_s)

    def respond_with_care(self, data: bytes, source: bytes, tcp: bool = False) -> bytes | None:
        """The same as `respond` for any bytes, slower."""
        query = wire.parse_query(data)
        if query is None:
            return None
        problem = query.problem or _refusal(query)
        if problem:
            return _error(data, query, problem)
        found = self._names.zone_of(query.qname)
        if found is None or query.qtype in (wire.AXFR, wire.IXFR):
            return self._finish(data, query, zone.REFUSED, 0, tcp)
        entry = self._entries.get(query.qname)
        if entry is None:
            return self._finish(data, query, found[0].negative(Rcode.NXDOMAIN, found[1]), 0, tcp)
        answer, scope = self._find(entry, query.qtype, _client(query, source))
        subnet = query.edns.subnet if query.edns else None
        return self._finish(data, query, answer, scope if subnet and subnet.source_bits else 0, tcp)

    def _finish(self, data: bytes, query: Query, found: Tail, scope: int, tcp: bool) -> bytes:
        kind, ending, limit = data[2] & 1, b"", wire.UDP_SIZE_PLAIN
        if query.edns is not None:
            kind += 2
            subnet = query.edns.subnet
            ending = wire.opt(query.edns, Rcode.NOERROR, subnet.echo(scope) if subnet else b"")
            limit = min(max(query.edns.udp_size, wire.UDP_SIZE_PLAIN), wire.UDP_SIZE)
        limit = _TCP_SIZE if tcp else limit
        question = data[12 : query.end]
        for form in (found, found.slim):
            if form is not None:
                body = form.bodies[data[1] % len(form.bodies)]
                answer = data[:2] + form.heads[kind] + question + body + ending
                if len(answer) <= limit:
                    return answer
        return data[:2] + zone.truncated(kind >= 2, bool(kind & 1)) + question + ending

    def explain(self, hostname: str, address: bytes, family: Family) -> Decision | None:
        """The reasoning for a client at `address`; None when no such hostname is answered by steering."""
        entry = self._entries.get(wire.name(hostname))
        if entry is None or entry.steered < 0:
            return None
        bucket, _ = self._places.bucket_v4(address) if len(address) == 4 else self._places.bucket_v6(address)
        order = self._places.order(bucket)
        return decide(self._names.classes[entry.steered], self._regions, order, self._rotation, family)


def _refusal(query: Query) -> Rcode:
    """What is wrong with a well-formed question, whatever the zones are."""
    if query.qtype == wire.OPT:
        return Rcode.FORMERR
    if query.qtype in wire.META_TYPES:
        return Rcode.NOTIMP
    return Rcode.NOERROR if query.qclass == wire.IN else Rcode.REFUSED


def _client(query: Query, source: bytes) -> bytes:
    """The address that decides: the client's network when the resolver told it, else the resolver's own."""
    subnet: Subnet | None = query.edns.subnet if query.edns else None
    if subnet is None or not subnet.source_bits:
        return source
    size = 4 if subnet.family == 1 else 16
    return subnet.address.ljust(size, b"\0")


def _error(data: bytes, query: Query, rcode: Rcode) -> bytes:
    """An answer that is nothing but a code; the question is in it when there was one that could be read."""
    flags = wire.QR | query.opcode << 11 | (wire.RD if data[2] & 1 else 0) | rcode & 15
    counts = (int(query.end > wire.HEADER_BYTES), 0, 0, int(query.edns is not None))
    ending = b""
    if query.edns is not None:
        subnet = query.edns.subnet
        ending = wire.opt(query.edns, rcode, subnet.echo(0) if subnet else b"")
    return data[:2] + wire.head(flags, counts) + data[12 : query.end] + ending
