"""The names of a routing table, compiled once per table: what exists, and every answer that depends on no client.

A change of health leaves all of this as it is. Hostnames with the same policy and the same places share one class,
whose answers are steered together; a thousand hostnames are usually a handful of classes.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from routing.core import wire
from routing.core.model import ALIAS, Hostname, NameServer, RecordSet, RoutingTable, SigningKey, Zone
from routing.core.wire import ExtendedError, Rcode
from routing.core.zone_keys import own_records

_SOA_REFRESH_S: Final = 3600
_SOA_RETRY_S: Final = 600
_SOA_EXPIRE_S: Final = 604_800
_ANY_TTL_S: Final = 3600
_TURNS_MAX: Final = 256
"""A set of more records is given out in so many orders only."""

Record = tuple[bytes, int, bytes]
"""Type, time to live in seconds, data."""
_ANY_DATA: Final = b"\x07RFC8482\x00"


@dataclass(frozen=True, slots=True)
class Tail:
    """An answer but for its id, its question and its OPT record.

    `heads` are flags and counts, by 2 x EDNS + recursion desired. `bodies` are the records in every order in which
    they are given out. `slim` is the same without what may be left out when space is short. `records` are those of the
    answer section when all belong to the name of the question. `error` tells clients why, where that helps.
    """

    heads: tuple[bytes, bytes, bytes, bytes]
    bodies: tuple[bytes, ...]
    slim: Tail | None = None
    records: tuple[Record, ...] = ()
    error: tuple[ExtendedError, str] | None = None


def tail(
    rcode: Rcode,
    bodies: tuple[bytes, ...],
    answers: int = 0,
    authorities: int = 0,
    additional: int = 0,
    aa: bool = True,
) -> Tail:
    """A tail with these counts of records."""
    flags = wire.QR | (wire.AA if aa else 0) | rcode
    heads = [
        wire.head(flags | rd, (1, answers, authorities, additional + edns)) for edns in (0, 1) for rd in (0, wire.RD)
    ]
    return Tail((heads[0], heads[1], heads[2], heads[3]), bodies)


def truncated(head: bytes, edns: bool) -> bytes:
    """Flags and counts of an answer that has the flags and the code of another, and asks for TCP instead."""
    return wire.head(int.from_bytes(head[:2], "big") | wire.TC, (1, 0, 0, int(edns)))


REFUSED: Final = replace(
    tail(Rcode.REFUSED, (b"",), aa=False), error=(ExtendedError.NOT_AUTHORITATIVE, "no zone here holds this name")
)
NO_TRANSFER: Final = replace(
    tail(Rcode.REFUSED, (b"",), aa=False), error=(ExtendedError.BLOCKED, "transfers are not for this client")
)
SERVFAIL: Final = replace(
    tail(Rcode.SERVFAIL, (b"",), aa=False),
    error=(ExtendedError.NO_REACHABLE_AUTHORITY, "no region is in order, and the policy is to fail closed"),
)
MINIMAL_ANY: Final = tail(
    Rcode.NOERROR, (wire.record(wire.QUESTION_NAME, wire.HINFO, _ANY_TTL_S, _ANY_DATA),), answers=1
)
"""The whole answer to ANY (RFC 8482, section 4.2)."""


@dataclass(frozen=True, slots=True)
class CompiledZone:
    """A zone's own answers; those in a negative answer depend on where the zone's name begins in the question."""

    zone: Zone
    wire_name: bytes
    keys: tuple[SigningKey, ...] = ()
    _negative: dict[tuple[Rcode, int], Tail] = field(default_factory=dict, repr=False, compare=False)

    def negative(self, rcode: Rcode, offset: int) -> Tail:
        """NODATA or NXDOMAIN for a question in which the zone's name begins at `offset` (RFC 2308, section 2)."""
        found = self._negative.get((rcode, offset))
        if found is None:
            found = tail(rcode, (self.negative_soa(wire.pointer(offset)),), authorities=1)
            self._negative[rcode, offset] = found
        return found

    def negative_soa(self, owner: bytes) -> bytes:
        """The record that says for how long a negative answer holds (RFC 2308, section 3)."""
        return self._soa(owner, min(self.zone.ttl_s, self.zone.negative_ttl_s))

    def soa(self) -> Tail:
        """The answer to SOA at the zone's name."""
        return rrset_tail(((wire.SOA, self.zone.ttl_s, self._soa_data()),))

    def ns(self) -> Tail | None:
        """The answer to NS at the zone's name, with the servers' addresses where they are ours to know."""
        servers = self.zone.name_servers
        if not servers:
            return None
        body = b"".join(
            wire.record(wire.QUESTION_NAME, wire.NS, self.zone.ttl_s, self._shortened(s.name)) for s in servers
        )
        glue = [
            wire.record(self._shortened(server.name), kind, self.zone.ttl_s, packed)
            for server in servers
            if self.holds(wire.name(server.name))
            for kind, packed in _packed(server)
        ]
        slim = tail(Rcode.NOERROR, (body,), answers=len(servers))
        whole = tail(Rcode.NOERROR, (body + b"".join(glue),), answers=len(servers), additional=len(glue))
        records = tuple((wire.NS, self.zone.ttl_s, wire.name(server.name)) for server in servers)
        return replace(whole, slim=slim, records=records)

    def holds(self, wire_name: bytes) -> bool:
        """Whether a name is in or below the zone; the boundary must be one of labels."""
        at = 0
        while at < len(wire_name):
            if wire_name[at:] == self.wire_name:
                return True
            at += 1 + wire_name[at]
        return False

    def _soa(self, owner: bytes, ttl_s: int) -> bytes:
        return wire.record(owner, wire.SOA, ttl_s, self._soa_data())

    def _soa_data(self) -> bytes:
        zone = self.zone
        primary = zone.name_servers[0].name if zone.name_servers else zone.origin
        numbers = (zone.serial, _SOA_REFRESH_S, _SOA_RETRY_S, _SOA_EXPIRE_S, zone.negative_ttl_s)
        contact = wire.mailbox(zone.contact or f"hostmaster@{zone.origin}")
        return wire.name(primary) + contact + b"".join(number.to_bytes(4, "big") for number in numbers)

    def _shortened(self, host: str) -> bytes:
        """A name that ends in a pointer to the zone's name in a question that is the zone's name itself."""
        full = wire.name(host)
        if not self.holds(full):
            return full
        return full[: len(full) - len(self.wire_name)] + wire.QUESTION_NAME


@dataclass(frozen=True, slots=True)
class Entry:
    """A name that exists; without any records it is an empty non-terminal. `steered` is the class of a hostname,
    `alias` the lower-case wire name that a CNAME points to."""

    zone: CompiledZone
    offset: int
    fixed: dict[bytes, Tail] = field(default_factory=dict)
    steered: int = -1
    alias: bytes = b""

    @property
    def nodata(self) -> Tail:
        """The answer when there is nothing of the type (RFC 2308, section 2.2)."""
        return self.zone.negative(Rcode.NOERROR, self.offset)


@dataclass(frozen=True, slots=True)
class Cut:
    """A delegation: the name servers of a child zone, the addresses of those below it, and its DS records."""

    owner: bytes
    servers: tuple[Record, ...]
    glue: tuple[tuple[bytes, Record], ...]
    signers: tuple[Record, ...] = ()

    def referral(self, qname: bytes) -> Tail:
        """Where to ask instead for a name at or below the cut (RFC 1034, section 4.3.2, step 3b)."""
        return self.behind(b"", 0, False, wire.pointer(wire.HEADER_BYTES + len(qname) - len(self.owner)))

    def behind(self, body: bytes, answers: int, aa: bool, owner: bytes = b"") -> Tail:
        """The same behind so many records of an answer. `owner` is the child's name as it is written there."""
        body += b"".join(wire.record(owner or self.owner, *record) for record in self.servers)
        # Those of the child's own servers must be there, or the client is to come by TCP (RFC 9471, section 3.1).
        needed = tuple((name, record) for name, record in self.glue if name.endswith(self.owner))
        forms = [
            tail(
                Rcode.NOERROR,
                (body + b"".join(wire.record(name, *record) for name, record in glue),),
                answers,
                len(self.servers),
                len(glue),
                aa,
            )
            for glue in (self.glue, needed)
        ]
        return forms[0] if len(needed) == len(self.glue) else replace(forms[0], slim=forms[1])


@dataclass(frozen=True, slots=True)
class Names:
    """Everything that exists, by lower-case wire name; `classes` are what hostnames are steered by."""

    entries: dict[bytes, Entry]
    zones: dict[bytes, CompiledZone]
    classes: tuple[Hostname, ...]
    cuts: dict[bytes, Cut] = field(default_factory=dict)

    def zone_of(self, qname: bytes) -> tuple[CompiledZone, int] | None:
        """The closest zone that holds a wire name, and where that zone's name begins in a question of the name."""
        at = 0
        while True:
            zone = self.zones.get(qname[at:])
            if zone is not None:
                return zone, wire.HEADER_BYTES + at
            if at == len(qname) - 1:
                return None
            at += 1 + qname[at]

    def zone_above(self, zone: CompiledZone) -> CompiledZone | None:
        """The zone that holds the parent of a zone's name."""
        parent = zone.wire_name[1 + zone.wire_name[0] :]
        found = self.zone_of(parent) if parent else None
        return None if found is None else found[0]

    def cut_of(self, qname: bytes, zone: CompiledZone) -> Cut | None:
        """The delegation that holds a name of `zone`: the one closest to the zone's own name."""
        found, at = None, 0
        while self.cuts and qname[at:] != zone.wire_name:
            found = self.cuts.get(qname[at:], found)
            at += 1 + qname[at]
        return found

    def find(self, qname: bytes, zone: CompiledZone) -> Entry | None:
        """The name, else the wildcard that stands for it (RFC 4592, section 3.3.1)."""
        entry = self.entries.get(qname)
        at = 0
        while entry is None and qname[at:] != zone.wire_name:
            at += 1 + qname[at]
            if qname[at:] in self.entries:
                wild = self.entries.get(b"\1*" + qname[at:])
                offset = wire.HEADER_BYTES + len(qname) - len(zone.wire_name)
                return None if wild is None else replace(wild, offset=offset)
        return entry


def compile_names(table: RoutingTable) -> Names:
    """Compiles a table. Hostnames outside every zone are left out: questions for them are refused.

    A name server's name keeps its own addresses, also when a hostname is called the same. What lies below a
    delegation is the child's to answer.
    """
    zones = {
        wire.name(origin): CompiledZone(zone, wire.name(origin), table.keys.get(origin, ()))
        for origin, zone in table.zones.items()
    }
    cuts = {cut.owner: cut for zone in zones.values() for cut in _cuts(zone)}
    names = Names({}, zones, (), cuts)
    classes: dict[Hostname, int] = {}
    for hostname in table.hostnames.values():
        number = classes.setdefault(_class_of(hostname), len(classes))
        _add(names, wire.name(hostname.name), {}, number)
    for compiled in zones.values():
        _add(names, compiled.wire_name, _apex(compiled))
        for server in compiled.zone.name_servers:
            if compiled.holds(wire.name(server.name)):
                _add(names, wire.name(server.name), _addresses(_packed(server), compiled.zone.ttl_s))
        for declared in compiled.zone.records:
            _declare(names, compiled, declared)
        # A zone below another makes the names between them exist: an NXDOMAIN there would deny it (RFC 8020).
        if len(compiled.wire_name) > 1:
            _add_ancestors(names, compiled.wire_name)
    for owner in cuts:
        # So does a delegation.
        _add_ancestors(names, owner)
    _follow_aliases(names)
    return Names(names.entries, zones, tuple(classes), cuts)


def _cuts(zone: CompiledZone) -> Iterable[Cut]:
    """The delegations of a zone: NS records below its own name, with the addresses of those servers that are below a
    delegation themselves, this one or another (RFC 9471, section 3)."""
    delegated = {wire.name(r.name): r for r in zone.zone.records if r.type == 2 and wire.name(r.name) != zone.wire_name}
    below: dict[bytes, list[Record]] = {}
    for declared in zone.zone.records:
        host = wire.name(declared.name)
        if declared.type in (1, 28) and any(above in delegated for above in _and_above(host)):
            below.setdefault(host, []).extend(_records(declared))
    for owner, declared in delegated.items():
        servers = dict.fromkeys(data.lower() for data in declared.data)
        glue = tuple((host, record) for host in servers for record in below.get(host, ()))
        signers = [r for r in zone.zone.records if r.type == 43 and r.name == declared.name]
        yield Cut(owner, _records(declared), glue, tuple(record for r in signers for record in _records(r)))


def _and_above(wire_name: bytes) -> Iterable[bytes]:
    """A name and every name above it but the root."""
    at = 0
    while wire_name[at]:
        yield wire_name[at:]
        at += 1 + wire_name[at]


def _records(declared: RecordSet) -> tuple[Record, ...]:
    return tuple((declared.type.to_bytes(2, "big"), declared.ttl_s, data) for data in declared.data)


def _declare(names: Names, zone: CompiledZone, declared: RecordSet) -> None:
    owner = wire.name(declared.name)
    if declared.type == ALIAS:
        _add(names, owner, {}, alias=wire.name(declared.target))
    elif declared.type == 5:
        _add(names, owner, {wire.CNAME: rrset_tail(_records(declared))}, alias=wire.name(declared.target))
    elif owner != zone.wire_name or declared.type not in (2, 6):
        tails = {declared.type.to_bytes(2, "big"): rrset_tail(_records(declared))}
        _add(names, owner, tails)


def _follow_aliases(names: Names) -> None:
    """Gives an alias the addresses of its target, or the target's own way of being steered."""
    for owner, entry in list(names.entries.items()):
        if not entry.alias or wire.CNAME in entry.fixed:
            continue
        target, seen = names.entries.get(entry.alias), {owner}
        while target is not None and target.alias and target.alias not in seen:
            seen.add(target.alias)
            target = names.entries.get(target.alias)
        fixed = dict(entry.fixed)
        steered = -1
        if target is not None and not target.alias:
            fixed = {k: t for k, t in target.fixed.items() if k in (wire.A, wire.AAAA)} | fixed
            steered = target.steered
        fixed = {wire.ANY: MINIMAL_ANY, **fixed}
        names.entries[owner] = replace(entry, fixed=fixed, steered=steered, alias=b"")


def _class_of(hostname: Hostname) -> Hostname:
    """What steering looks at, and nothing else; replicas count as some or none."""
    return replace(hostname, name="", app="", replicas=tuple((region, min(n, 1)) for region, n in hostname.replicas))


def _add(names: Names, wire_name: bytes, fixed: dict[bytes, Tail], steered: int = -1, alias: bytes = b"") -> None:
    found = names.zone_of(wire_name)
    if found is None or names.cut_of(wire_name, found[0]) is not None:
        return
    zone, offset = found
    before = names.entries.get(wire_name)
    if before is not None:
        fixed = before.fixed | fixed
        steered = before.steered if steered < 0 else steered
        alias = alias or before.alias
    if fixed.keys() & {wire.A, wire.AAAA}:
        steered = -1
    if fixed or steered >= 0:
        fixed = {wire.ANY: MINIMAL_ANY, **fixed}
    names.entries[wire_name] = Entry(zone, offset, fixed, steered, alias)
    if wire_name != zone.wire_name:
        _add_ancestors(names, wire_name)


def _add_ancestors(names: Names, wire_name: bytes) -> None:
    """Makes every name above exist, up to the zone that holds it."""
    above = wire_name[1 + wire_name[0] :]
    found = names.zone_of(above)
    if found is not None and above not in names.entries and names.cut_of(above, found[0]) is None:
        names.entries[above] = Entry(found[0], found[1])
        if above != found[0].wire_name:
            _add_ancestors(names, above)


def _apex(zone: CompiledZone) -> dict[bytes, Tail]:
    ns = zone.ns()
    keys = own_records(zone.wire_name, zone.zone.ttl_s, zone.keys)
    fixed = {wire.SOA: zone.soa()} | {kind: rrset_tail(rrset) for kind, rrset in keys.items()}
    return fixed if ns is None else fixed | {wire.NS: ns}


def _packed(server: NameServer) -> Iterable[tuple[bytes, bytes]]:
    for text in (*server.ipv4, *server.ipv6):
        packed = ipaddress.ip_address(text).packed
        yield (wire.A if len(packed) == 4 else wire.AAAA), packed


def _addresses(records: Iterable[tuple[bytes, bytes]], ttl_s: int) -> dict[bytes, Tail]:
    by_kind: dict[bytes, list[bytes]] = {}
    for kind, packed in records:
        by_kind.setdefault(kind, []).append(packed)
    return {kind: address_tail(kind, packed, ttl_s) for kind, packed in by_kind.items()}


def address_tail(kind: bytes, packed: list[bytes], ttl_s: int, most: int = 24) -> Tail:
    """Addresses in every rotation, so that each comes first equally often; at most `most` of them in one answer."""
    return rrset_tail(tuple((kind, ttl_s, address) for address in packed), most)


def rrset_tail(rrset: tuple[Record, ...], most: int = 1 << 16) -> Tail:
    """An answer of records of the name in the question, in every rotation; at most `most` of them in one answer."""
    records = [wire.record(wire.QUESTION_NAME, *record) for record in rrset]
    turns = [records[turn:] + records[:turn] for turn in range(min(len(records), _TURNS_MAX))]
    made = tail(Rcode.NOERROR, tuple(b"".join(turn[:most]) for turn in turns), answers=min(most, len(records)))
    return replace(made, records=rrset[:most])
