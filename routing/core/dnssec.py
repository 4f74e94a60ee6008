"""Signing answers as they are given (RFC 4034, RFC 4035), with compact denial of existence (RFC 9824).

Nothing is signed ahead of time: answers depend on the client and on what is healthy. Keys are ECDSA P-256 with SHA-256
(RFC 6605), one that signs everything. A name that does not exist is denied by an NSEC record of its own that says so;
the response code is then NOERROR, and NXDOMAIN for those who say that they understand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from routing.core import wire
from routing.core.model import SigningKey
from routing.core.wire import Rcode
from routing.core.zone import CompiledZone, Names, Tail, tail
from routing.core.zone_keys import ALGORITHM, key_tag

_PERIOD_S: Final = 3600
_BACKDATED_S: Final = 2 * 3600
_VALID_S: Final = 3 * 86_400
"""A signature made in one hour is dated back for clocks that are slow, and holds for days beyond any cache's time."""
_NAME_BYTES_MAX: Final = 255
_NXNAME: Final = 128
_HELD_MAX: Final = 50_000
_ANSWERS_MAX: Final = 20_000

Sign = Callable[[bytes, bytes], bytes]
"""From a private key (32 bytes) and a message to a signature: r and s, 32 bytes each (RFC 6605, section 4)."""


class Signer:
    """Signs sets of records; what was signed within the hour is not signed again. `now_s` is set by the shell."""

    def __init__(self, sign: Sign, now_s: int = 0):
        self.now_s = now_s
        self.signed = 0
        """Signatures made so far."""
        self._sign = sign
        self._held: dict[tuple[bytes, bytes, int, bytes], tuple[bytes, ...]] = {}
        self._held_in = 0

    @property
    def period(self) -> int:
        """Changes when signatures are to be made anew."""
        return self.now_s // _PERIOD_S

    def signatures(
        self, zone: CompiledZone, owner: bytes, kind: bytes, ttl_s: int, datas: Sequence[bytes]
    ) -> tuple[bytes, ...]:
        """The data of the RRSIG records over a set; names in `datas` are whole and in lower case."""
        fixed = owner + kind + wire.IN + ttl_s.to_bytes(4, "big")
        rrset = b"".join(fixed + len(data).to_bytes(2, "big") + data for data in sorted(set(datas)))
        if self._held_in != self.period or len(self._held) >= _HELD_MAX:
            self._held, self._held_in = {}, self.period
        key = (zone.wire_name, kind, ttl_s, rrset)
        found = self._held.get(key)
        if found is None:
            found = self._held[key] = tuple(
                self._make(k, zone, owner, kind, ttl_s, rrset) for k in zone.keys if k.active
            )
        return found

    def _make(self, key: SigningKey, zone: CompiledZone, owner: bytes, kind: bytes, ttl_s: int, rrset: bytes) -> bytes:
        """One RRSIG over a set in canonical form (RFC 4034, sections 3.1 and 6)."""
        begin = self.period * _PERIOD_S - _BACKDATED_S
        head = (
            kind
            + bytes((ALGORITHM, labels_of(owner)))
            + ttl_s.to_bytes(4, "big")
            + (begin + _BACKDATED_S + _VALID_S & 0xFFFFFFFF).to_bytes(4, "big")
            + (begin & 0xFFFFFFFF).to_bytes(4, "big")
            + key_tag(key).to_bytes(2, "big")
            + zone.wire_name
        )
        self.signed += 1
        return head + self._sign(key.private, head + rrset)


def labels_of(owner: bytes) -> int:
    """How many labels a name has; neither the root nor a wildcard's first counts (RFC 4034, section 3.1.3)."""
    count, at = 0, 0
    while owner[at]:
        count += 1
        at += 1 + owner[at]
    return count - (owner[:2] == b"\1*")


def bitmap(kinds: Iterable[bytes]) -> bytes:
    """The type bit maps of an NSEC record (RFC 4034, section 4.1.2)."""
    windows: dict[int, bytearray] = {}
    for kind in kinds:
        window = windows.setdefault(kind[0], bytearray(32))
        window[kind[1] >> 3] |= 0x80 >> (kind[1] & 7)
    maps = {number: bytes(bits).rstrip(b"\0") for number, bits in sorted(windows.items())}
    return b"".join(bytes((number, len(bits))) + bits for number, bits in maps.items())


@dataclass(frozen=True, slots=True)
class _Rrset:
    """Records of one owner and type as they lie in an answer; `datas` are without compression."""

    owner: bytes
    shown: bytes
    kind: bytes
    ttl_s: int
    datas: tuple[bytes, ...]


class SignedAnswers:
    """Adds to the answers of one set of names what proves them. Answers that hold nothing signed stay as they are."""

    def __init__(self, names: Names, signer: Signer):
        self._names = names
        self._signer = signer
        self._known: dict[tuple[bytes, bytes, bool, int], tuple[Tail, Tail]] = {}
        self._known_in = 0
        self.any = any(zone.keys for zone in names.zones.values())
        """Whether there is anything to sign."""

    def sign(self, found: Tail, qname: bytes, qtype: bytes, compact_ok: bool) -> Tail:
        """The same answer with its signatures and denials, for a client that has asked for them."""
        if self._known_in != self._signer.period or len(self._known) >= _ANSWERS_MAX:
            self._known, self._known_in = {}, self._signer.period
        key = (qname, qtype, compact_ok, id(found))
        known = self._known.get(key)
        if known is None:
            # The answer is kept with its signed form: its id is nobody else's as long as it lives.
            known = found, self._sign(found, qname, qtype, compact_ok)
            if found.records:
                self._known[key] = known
        return known[1]

    def about(self, zone: CompiledZone, qname: bytes, kind: bytes) -> Tail:
        """The answer to a question for NSEC, or for RRSIG: the signatures of that one, for all are too many."""
        nsec = self._nsec(zone, qname, b"")
        records = self._records(zone, nsec)
        chosen = records[:1] if kind == wire.NSEC else records[1:]
        return tail(Rcode.NOERROR, (b"".join(chosen),), len(chosen))

    def _sign(self, found: Tail, qname: bytes, qtype: bytes, compact_ok: bool) -> Tail:
        head = found.heads[0]
        rcode, aa = Rcode(head[1] & 15), bool(head[0] & wire.AA >> 8)
        counts = [int.from_bytes(head[at : at + 2], "big") for at in (4, 6, 8)]
        bodies, sizes = [], counts
        for body in found.bodies:
            sections = _sections(body, counts, qname)
            proof = self._prove(sections, qname, qtype, aa)
            if proof is None:
                return found
            denied, parts = proof
            sizes = [len(part) for part in parts]
            bodies.append(b"".join(b"".join(part) for part in parts))
            if denied and not compact_ok:
                rcode = Rcode.NOERROR
        slim = None if found.slim is None else self._sign(found.slim, qname, qtype, compact_ok)
        return replace(
            tail(rcode, tuple(bodies), sizes[0], sizes[1], sizes[2], aa),
            slim=slim,
            records=found.records,
            error=found.error,
        )

    def _prove(
        self, sections: Sequence[Sequence[bytes | _Rrset]], qname: bytes, qtype: bytes, aa: bool
    ) -> tuple[bool, list[list[bytes]]] | None:
        """Whether a name is denied, and the records of each section; None when nothing of it is signed."""
        touched, denied, last = False, False, qname
        parts: list[list[bytes]] = []
        for number, section in enumerate(sections):
            part: list[bytes] = []
            for item in section:
                if isinstance(item, bytes):
                    part.append(item)
                    continue
                if number == 0 and item.kind == wire.CNAME and item.owner == last and qtype != wire.CNAME:
                    last = item.datas[0]
                zone = self._zone_of(item.owner)
                if zone is None or item.kind == wire.RRSIG:
                    continue
                if number == 2 and self._names.cut_of(item.owner, zone) is not None:
                    # Glue is the child's to sign.
                    continue
                touched = True
                if number == 1 and not aa:
                    part += self._delegation(zone, item)
                    continue
                part += self._rrsigs(zone, item)
                if number == 1 and item.kind == wire.SOA:
                    denial = self._nsec(zone, last, qtype)
                    denied = denied or denial.datas[0].endswith(_NO_NAME)
                    part += self._records(zone, denial)
            parts.append(part)
        return (denied, parts) if touched else None

    def _zone_of(self, owner: bytes) -> CompiledZone | None:
        holder = self._names.zone_of(owner)
        return holder[0] if holder is not None and holder[0].keys else None

    def _delegation(self, zone: CompiledZone, servers: _Rrset) -> list[bytes]:
        """What proves that a child is signed, or that it is not (RFC 4035, section 3.1.4)."""
        cut = self._names.cuts.get(servers.owner)
        if cut is None or not cut.signers:
            return self._records(zone, _nsec(zone, servers.owner, servers.shown, (wire.NS,)))
        datas = tuple(data for _, _, data in cut.signers)
        return self._records(zone, _Rrset(servers.owner, servers.shown, wire.DS, cut.signers[0][1], datas))

    def _nsec(self, zone: CompiledZone, owner: bytes, denied: bytes) -> _Rrset:
        """Says which types a name has but the denied one, or that there is no such name."""
        entry = self._names.find(owner, zone)
        kinds: set[bytes] = set()
        if owner in self._names.cuts or (owner in self._names.zones and owner != zone.wire_name):
            kinds = {wire.NS}
        elif entry is None:
            kinds = {bytes((0, _NXNAME))}
        else:
            kinds = set(entry.fixed) | ({wire.A, wire.AAAA} if entry.steered >= 0 else set())
        return _nsec(zone, owner, owner, kinds - {denied, wire.ANY})

    def _records(self, zone: CompiledZone, rrset: _Rrset) -> list[bytes]:
        whole = [wire.record(rrset.shown, rrset.kind, rrset.ttl_s, data) for data in rrset.datas]
        return whole + self._rrsigs(zone, rrset)

    def _rrsigs(self, zone: CompiledZone, rrset: _Rrset) -> list[bytes]:
        made = self._signer.signatures(zone, rrset.owner, rrset.kind, rrset.ttl_s, rrset.datas)
        return [wire.record(rrset.shown, wire.RRSIG, rrset.ttl_s, data) for data in made]


_NO_NAME: Final = bitmap((wire.NSEC, wire.RRSIG, bytes((0, _NXNAME))))


def _nsec(zone: CompiledZone, owner: bytes, shown: bytes, kinds: Iterable[bytes]) -> _Rrset:
    """An NSEC record that covers nothing but its owner: the next name is the one right behind it (RFC 9824, 3.1)."""
    following = b"\1\0" + owner if len(owner) + 2 <= _NAME_BYTES_MAX else zone.wire_name
    data = following + bitmap({wire.NSEC, wire.RRSIG, *kinds})
    return _Rrset(owner, shown, wire.NSEC, min(zone.zone.ttl_s, zone.zone.negative_ttl_s), (data,))


def _sections(body: bytes, counts: Sequence[int], qname: bytes) -> list[list[bytes | _Rrset]]:
    """The records of an answer of ours, section by section: each as it lies there, and behind each set of records what
    is to be signed."""
    result: list[list[bytes | _Rrset]] = []
    at = 0
    for count in counts:
        section: list[bytes | _Rrset] = []
        group: _Rrset | None = None
        for _ in range(count):
            start = at
            owner, at = _name(body, at, qname)
            shown, kind, ttl_s = body[start:at], body[at : at + 2], int.from_bytes(body[at + 4 : at + 8], "big")
            size = int.from_bytes(body[at + 8 : at + 10], "big")
            data = body[at + 10 : at + 10 + size]
            if kind == wire.NS:
                data = _name(data, 0, qname)[0]
            at += 10 + size
            if group is not None and (group.owner, group.kind) == (owner, kind):
                group = replace(group, datas=(*group.datas, data))
            else:
                if group is not None:
                    section.append(group)
                group = _Rrset(owner, shown, kind, ttl_s, (data,))
            section.append(body[start:at])
        if group is not None:
            section.append(group)
        result.append(section)
    return result


def _name(data: bytes, at: int, qname: bytes) -> tuple[bytes, int]:
    """A name that may end in a pointer into the question, in lower case, and the offset behind it."""
    labels = b""
    while True:
        size = data[at]
        if size >= 0xC0:
            offset = (size & 0x3F) << 8 | data[at + 1]
            return labels + qname[offset - wire.HEADER_BYTES :], at + 2
        labels += data[at : at + 1 + size].lower()
        at += 1 + size
        if not size:
            return labels, at
