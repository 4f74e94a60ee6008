"""From the bytes of a query to the bytes of its answer.

The common query (one question, at most an OPT record with at most a client subnet) is answered by slicing and two
lookups. Every other goes the careful way; both give the same answer to the same bytes.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Final

from routing.core import wire, zone
from routing.core.common_options import SUBNETS, address_in, options_of, subnet_and_client
from routing.core.cookies import CLIENT_BYTES, CookieJar
from routing.core.dnssec import SignedAnswers, Signer
from routing.core.geo import PlaceMap
from routing.core.model import Family, Policy, Region, TargetKey
from routing.core.overrides import Orders
from routing.core.recall import Recall
from routing.core.steering import SLOTS, Client, Decision, Outcome, decide, depends_on_place, slot_of, ttl_s
from routing.core.wire import HEADER_BYTES, ExtendedError, Query, Rcode, Subnet
from routing.core.zone import CompiledZone, Entry, Names, Tail

_FAMILIES: Final = {wire.A: Family.IPV4, wire.AAAA: Family.IPV6}
_TCP_SIZE: Final = 65_535
NO_NAME: Final = bytes((Rcode.NXDOMAIN,))
"""What answers to names that do not exist are counted as."""
_NO_ADDRESS: Final = zone.tail(Rcode.NOERROR, (b"",))
"""Stands for NODATA, whose records depend on the name."""
_ALIASES_MAX: Final = 8

_COMMON: Final = {
    bytes((rd, bits, 0, 1, 0, 0, 0, 0, 0, edns)): 2 * edns + rd
    for rd in (0, 1)
    for bits in (0x00, 0x10, 0x20, 0x30)
    for edns in (0, 1)
}
"""Flags (any of RD, AD and CD) and counts of common queries, to the number of their head."""

_SPECIAL: Final = wire.META_TYPES | {wire.OPT, wire.AXFR, wire.IXFR, wire.DS, wire.NSEC, wire.RRSIG, wire.NXNAME}
_NO_QUESTIONS: Final = (wire.OPT, wire.NXNAME)
_OPT_REPLY: Final = tuple(b"\0\0\x29" + wire.UDP_SIZE.to_bytes(2, "big") + bytes((0, 0, do, 0)) for do in (0, 0x80))
_OPT_PLAIN: Final = tuple(reply + b"\0\0" for reply in _OPT_REPLY)
_SUBNET_REPLIES: Final = {size: start[:7] for start, size in SUBNETS.items()}
_LEARNT_V6_BITS: Final = 48
_COMMON_OPTIONS: Final = frozenset(subnet + cookie for subnet in (0, 11, 14, 15) for cookie in (0, 12, 28)) - {0}
"""How many bytes they have: a client subnet, a cookie, or both."""
_CHAOS_NAMES: Final = {b"\x07version\4bind\0", b"\x07version\6server\0", b"\2id\6server\0", b"\x08hostname\4bind\0"}


@dataclass(frozen=True, slots=True)
class Manners:
    """What a server adds of its own. `identity` is its NSID and its `id.server`, empty for none; `version` likewise.
    Without a jar cookies are ignored, as RFC 7873 allows."""

    identity: str = ""
    version: str = ""
    jar: CookieJar | None = None
    signer: Signer | None = None
    tcp_idle_s: float = 0.0
    """After how long a connection without questions ends, told to those that ask (RFC 7828); 0 is not told."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """An answer that can be given again: to the same key (lower-case name and type), and, when it depends on the
    place or is drawn, to clients of the same bucket and slot."""

    key: bytes
    tail: Tail
    by_place: bool = False
    by_slot: bool = False
    bucket: int = 0
    slot: int = 0
    dnssec_ok: bool | None = None
    """Whether it is for those who ask for DNSSEC; None: for all."""
    network_v6: bytes = b""
    """The first six bytes of an IPv6 client: all of this network is in the bucket."""
    scope: int = 0


class _SteeredClass:
    """The answers of one class of hostnames, by type and bucket; each is made when it is first asked for."""

    __slots__ = ("by_place", "by_slot", "tails")

    def __init__(self, by_place: bool, by_slot: bool):
        self.by_place = by_place
        self.by_slot = by_slot
        self.tails: dict[bytes, dict[int, Tail]] = {wire.A: {}, wire.AAAA: {}}


class Responder:
    """Answers for one table, one map and one set of what is in rotation: a change of any makes a new responder.

    But for the time in cookies, what it answers to the same bytes never changes. It is to be used from one thread.
    """

    def __init__(
        self,
        names: Names,
        places: PlaceMap,
        regions: Mapping[str, Region],
        rotation: AbstractSet[TargetKey],
        manners: Manners | None = None,
        orders: Orders | None = None,
        unsteady: AbstractSet[str] = frozenset(),
    ):
        self._orders = orders or Orders()
        self._unsteady = unsteady
        self._manners = manners or Manners()
        self._jar = self._manners.jar
        self._recall = Recall(places, self._jar)
        self.recall = self._recall.answer
        """Answers queries of a batch that are like those that `remember` was told of."""
        self._names = names
        self._entries = names.entries
        self._places = places
        self._regions = regions
        self._rotation = self._orders.rotation(rotation, regions)
        signer = self._manners.signer
        self._signed = None if signer is None else SignedAnswers(names, signer)
        draining = bool(self._orders.drains)
        self._steered = tuple(
            _SteeredClass(depends_on_place(hostname), draining or hostname.policy is Policy.WEIGHTED)
            for hostname in names.classes
        )

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
        option = options_of(data, end, kind)
        if option is None:
            return None
        if kind < 2:
            found, _ = self._find(entry, qtype, source)
            limit, ending = wire.UDP_SIZE_PLAIN, b""
        else:
            dnssec_ok = data[end + 7] >> 7
            if dnssec_ok and (entry.zone.keys or entry.alias):
                return None
            if not option:
                found, _ = self._find(entry, qtype, source)
                ending = _OPT_PLAIN[dnssec_ok]
            elif len(option) in _COMMON_OPTIONS:
                fields = subnet_and_client(option)
                if fields is None:
                    return None
                network, client = fields
                found, scope = self._find(entry, qtype, address_in(network) if network else source)
                ending = _SUBNET_REPLIES[len(network)] + bytes((scope,)) + network if network else b""
                if client:
                    if self._jar is None:
                        return None
                    ending += self._jar.reply(client, source)
                ending = _OPT_REPLY[dnssec_ok] + len(ending).to_bytes(2, "big") + ending
            else:
                return None
            limit = min(max(data[end + 3] << 8 | data[end + 4], wire.UDP_SIZE_PLAIN), wire.UDP_SIZE)
        if found.error is not None:
            return None
        bodies = found.bodies
        body = bodies[data[1] % len(bodies)]
        answer = data[:2] + found.heads[kind] + data[12:end] + body + ending
        return answer if tcp or len(answer) <= limit else None

    def remember(self, data: bytes, source: bytes) -> None:
        """Lets the like of a query that was just answered be answered by `recall`."""
        end = data.find(0, 12) + 5
        # Names in mixed case are written anew in each query (0x20): they would only fill the memory.
        if data[12 : end - 4].islower():
            lesson = self.lesson(data, source)
            if lesson is not None and not lesson.by_slot:
                self._recall.learn(data, source, end, lesson.tail, lesson.by_place)

    def forget(self) -> None:
        """Recalls nothing any more of what it was told so far: signatures are made anew."""
        self._recall = Recall(self._places, self._jar)
        self.recall = self._recall.answer

    def lesson(self, data: bytes, source: bytes) -> Lesson | None:
        """What can be learnt from a query that was just answered; None when it is not a common one."""
        kind = _COMMON.get(data[2:12])
        end = data.find(0, 12) + 5
        key = data[12 : end - 4].lower() + data[end - 4 : end - 2]
        entry = self._entries.get(key[:-2])
        qtype = key[-2:]
        if kind is None or entry is None or entry.alias or qtype in _SPECIAL or data[end - 2 : end] != wire.IN:
            return None
        option = options_of(data, end, kind)
        fields = None if option is None else subnet_and_client(option)
        if fields is None:
            return None
        address = address_in(fields[0]) if fields[0] else source
        found, _ = self._find(entry, qtype, address)
        if found.error is not None:
            return None
        steered = self._steered[entry.steered] if entry.steered >= 0 and qtype in _FAMILIES else None
        lesson = Lesson(key, found)
        if steered is not None and found is not entry.nodata:
            bucket, scope = self._bucket(address) if steered.by_place else (0, 0)
            network = address[:6] if len(address) == 16 else b""
            if network and scope > _LEARNT_V6_BITS:
                return None
            slot = slot_of(address) if steered.by_slot else 0
            lesson = Lesson(key, found, steered.by_place, steered.by_slot, bucket, slot, None, network, scope)
        if self._signed is None or not entry.zone.keys:
            return lesson
        if kind < 2 or not data[end + 7] >> 7:
            return replace(lesson, dnssec_ok=False)
        return replace(lesson, dnssec_ok=True, tail=self._signed.sign(found, key[:-2], qtype, False))

    def _bucket(self, address: bytes) -> tuple[int, int]:
        return self._places.bucket_v4(address) if len(address) == 4 else self._places.bucket_v6(address)

    def _find(self, entry: Entry, qtype: bytes, address: bytes) -> tuple[Tail, int]:
        """The answer for a client at the packed `address`, and the scope in which it holds."""
        if entry.alias and qtype not in (wire.CNAME, wire.ANY):
            return self._follow(entry, qtype, address)
        if entry.steered >= 0:
            steered = self._steered[entry.steered]
            tails = steered.tails.get(qtype)
            if tails is not None:
                bucket, scope = 0, 0
                if steered.by_place:
                    bucket, scope = self._bucket(address)
                if steered.by_slot:
                    bucket = bucket * SLOTS + slot_of(address)
                    scope = max(scope, 24 if len(address) == 4 else 48)
                found = tails.get(bucket)
                if found is None:
                    found = tails[bucket] = self._steer(entry.steered, qtype, bucket)
                return (entry.nodata, 0) if found is _NO_ADDRESS else (found, scope)
        return entry.fixed.get(qtype) or entry.nodata, 0

    def _follow(self, entry: Entry, qtype: bytes, address: bytes) -> tuple[Tail, int]:
        """A CNAME and what its target has, as far as that is ours to know (RFC 1034, section 4.3.2, step 3a)."""
        body, answers, owner, scope = b"", 0, wire.QUESTION_NAME, 0
        for _ in range(_ALIASES_MAX):
            alias = entry.fixed[wire.CNAME].records[0]
            body += wire.record(owner, *alias)
            answers, owner = answers + 1, entry.alias
            holder = self._names.zone_of(owner)
            if holder is None:
                break
            cut = self._names.cut_of(owner, holder[0])
            if cut is not None and qtype == wire.DS and owner == cut.owner:
                signers = b"".join(wire.record(owner, *record) for record in cut.signers)
                negative = b"" if signers else holder[0].negative_soa(holder[0].wire_name)
                count = len(cut.signers)
                return zone.tail(Rcode.NOERROR, (body + signers + negative,), answers + count, int(not count)), scope
            if cut is not None:
                if holder[0].keys:
                    # Its name servers would need a proof that the child is not signed.
                    break
                return cut.behind(body, answers, aa=True), scope
            target = self._names.find(owner, holder[0])
            if target is None:
                # The code speaks of the last name in the chain (RFC 6604, section 2.1).
                negative = holder[0].negative_soa(holder[0].wire_name)
                return zone.tail(Rcode.NXDOMAIN, (body + negative,), answers, authorities=1), scope
            if not target.alias:
                return self._end_of_chain(body, answers, owner, target, qtype, address)
            entry = target
        return zone.tail(Rcode.NOERROR, (body,), answers), scope

    def _end_of_chain(
        self, body: bytes, answers: int, owner: bytes, target: Entry, qtype: bytes, address: bytes
    ) -> tuple[Tail, int]:
        found, scope = self._find(target, qtype, address)
        if found.error is not None:
            return found, scope
        if not found.records:
            negative = target.zone.negative_soa(target.zone.wire_name)
            return zone.tail(Rcode.NOERROR, (body + negative,), answers, authorities=1), scope
        records = [wire.record(owner, *record) for record in found.records]
        turns = tuple(body + b"".join(records[t:] + records[:t]) for t in range(len(records)))
        return zone.tail(Rcode.NOERROR, turns, answers + len(records)), scope

    def _steer(self, number: int, qtype: bytes, bucket: int) -> Tail:
        slot = 0
        if self._steered[number].by_slot:
            bucket, slot = divmod(bucket, SLOTS)
        decision = self._decide(number, bucket, slot, _FAMILIES[qtype])
        hostname = self._names.classes[number]
        match decision.outcome:
            case Outcome.NO_ADDRESS:
                return _NO_ADDRESS
            case Outcome.FAIL_CLOSED:
                # Not NODATA, which would be cached as a fact: another name server may know better (RFC 8767).
                return zone.SERVFAIL
            case _:
                packed = [ipaddress.ip_address(address).packed for address in decision.addresses]
                return zone.address_tail(qtype, packed, ttl_s(hostname, self._unsteady))

    def _decide(self, number: int, bucket: int, slot: int, family: Family) -> Decision:
        spot = self._places.spot(bucket)
        where = spot.order, spot.country, spot.continent, slot, spot.subdivision
        client = Client(*where, spot.latencies, spot.distances_km)
        drained = self._orders.drained(slot, SLOTS)
        return decide(self._names.classes[number], self._regions, client, self._rotation, family, drained)

    def respond_with_care(self, data: bytes, source: bytes, tcp: bool = False) -> bytes | None:
        """The same as `respond` for any bytes, slower."""
        query = wire.parse_query(data)
        if query is None:
            return None
        if not query.qname and not query.problem:
            return self._only_a_cookie(data, query, source)
        if query.qclass == wire.CHAOS and not query.problem:
            return self._about_itself(data, query, source)
        problem = query.problem or _refusal(query)
        if problem:
            return self._error(data, query, problem, source)
        found, scope = self._answer(query, source)
        if self._signed is not None and self._signed.any and query.edns is not None and query.edns.dnssec_ok:
            found = self._signed.sign(found, query.qname, query.qtype, query.edns.compact_ok)
        subnet = query.edns.subnet if query.edns else None
        return self._finish(data, query, found, scope if subnet and subnet.source_bits else 0, source, tcp)

    def _answer(self, query: Query, source: bytes) -> tuple[Tail, int]:
        holder = self._names.zone_of(query.qname)
        if holder is None:
            return zone.REFUSED, 0
        if query.qtype in (wire.AXFR, wire.IXFR):
            return zone.NO_TRANSFER, 0
        within, offset = holder
        above = self._names.zone_above(within) if query.qtype == wire.DS and query.qname == within.wire_name else None
        if above is not None:
            # The parent speaks for its child's DS records (RFC 4035, section 3.1.4.1), and here it is ours too.
            within, offset = above, wire.HEADER_BYTES + len(query.qname) - len(above.wire_name)
        cut = self._names.cut_of(query.qname, within)
        if cut is not None:
            return _beyond(cut, query, within, offset), 0
        if above is not None:
            return within.negative(Rcode.NOERROR, offset), 0
        if within.keys and self._signed is not None and query.qtype in (wire.NSEC, wire.RRSIG):
            return self._signed.about(within, query.qname, query.qtype), 0
        entry = self._names.find(query.qname, within)
        if entry is None:
            return within.negative(Rcode.NXDOMAIN, offset), 0
        return self._find(entry, query.qtype, _client(query, source))

    def _options(
        self,
        query: Query,
        scope: int,
        source: bytes,
        error: tuple[ExtendedError, str] | None,
        tcp: bool = False,
    ) -> bytes:
        edns = query.edns
        if edns is None:
            return b""
        options = edns.subnet.echo(scope) if edns.subnet else b""
        if self._jar is not None and edns.cookie:
            options += self._jar.reply(edns.cookie[:CLIENT_BYTES], source)
        if edns.nsid and self._manners.identity:
            options += wire.nsid(self._manners.identity.encode())
        if tcp and edns.keepalive and self._manners.tcp_idle_s:
            options += wire.keepalive(self._manners.tcp_idle_s)
        return options if error is None else options + wire.extended_error(*error)

    def _finish(self, data: bytes, query: Query, found: Tail, scope: int, source: bytes, tcp: bool) -> bytes:
        kind, ending, limit = data[2] & 1, b"", wire.UDP_SIZE_PLAIN
        if query.edns is not None:
            kind += 2
            ending = wire.opt(query.edns, Rcode.NOERROR, self._options(query, scope, source, found.error, tcp))
            limit = min(max(query.edns.udp_size, wire.UDP_SIZE_PLAIN), wire.UDP_SIZE)
        limit = _TCP_SIZE if tcp else limit
        question = data[12 : query.end]
        for form in (found, found.slim):
            if form is not None:
                body = form.bodies[data[1] % len(form.bodies)]
                answer = data[:2] + form.heads[kind] + question + body + ending
                if len(answer) <= limit:
                    return answer
        return data[:2] + zone.truncated(found.heads[kind], kind >= 2) + question + ending

    def cut_short(self, data: bytes, source: bytes) -> bytes | None:
        """The least answer that lets a real client come back: BADCOOKIE when it knows cookies, else TC (RFC 7873,
        section 5.2.3)."""
        query = wire.parse_query(data)
        if query is None or query.problem or query.end == wire.HEADER_BYTES:
            return None
        if self._jar is not None and query.edns is not None and query.edns.cookie:
            return self._error(data, query, Rcode.BADCOOKIE, source)
        ending = b"" if query.edns is None else wire.opt(query.edns, Rcode.NOERROR)
        edns = query.edns is not None
        head = zone.truncated(_NO_ADDRESS.heads[2 * edns + (data[2] & 1)], edns)
        return data[:2] + head + data[12 : query.end] + ending

    def kind_of(self, data: bytes) -> bytes:
        """What an answer with NOERROR, or with NXDOMAIN, is counted as: by its name, but all names that do not exist
        together, whether they are denied or a wildcard stands for them: anybody can make up any number of those."""
        name = data[HEADER_BYTES : data.find(0, HEADER_BYTES) + 1].lower()
        return name[:-1] if name in self._entries else NO_NAME

    def has_our_cookie(self, data: bytes, source: bytes) -> bool:
        """Whether the query proves that its source address is real."""
        query = wire.parse_query(data)
        if self._jar is None or query is None or query.edns is None:
            return False
        cookie = query.edns.cookie
        return self._jar.is_ours(cookie[:CLIENT_BYTES], cookie[CLIENT_BYTES:], source)

    def _only_a_cookie(self, data: bytes, query: Query, source: bytes) -> bytes:
        """The answer to a query without a question (RFC 7873, section 5.4)."""
        assert query.edns is not None
        if self._jar is None:
            return self._error(data, query, Rcode.FORMERR, source)
        stale = len(query.edns.cookie) > CLIENT_BYTES and not self.has_our_cookie(data, source)
        return self._error(data, query, Rcode.BADCOOKIE if stale else Rcode.NOERROR, source)

    def _about_itself(self, data: bytes, query: Query, source: bytes) -> bytes:
        """`version.bind`, `id.server` and the like, class CHAOS (RFC 4892)."""
        text = self._manners.version if query.qname.startswith(b"\x07version") else self._manners.identity
        if query.qname not in _CHAOS_NAMES or query.qtype not in (wire.TXT, wire.ANY) or not text:
            return self._error(data, query, Rcode.REFUSED, source)
        content = text.encode()[:255]
        body = wire.QUESTION_NAME + wire.TXT + wire.CHAOS + bytes(4) + (len(content) + 1).to_bytes(2, "big")
        found = zone.tail(Rcode.NOERROR, (body + bytes((len(content),)) + content,), answers=1)
        return self._finish(data, query, found, 0, source, tcp=False)

    def _error(self, data: bytes, query: Query, rcode: Rcode, source: bytes) -> bytes:
        """An answer that is nothing but a code; the question is in it when there was one that could be read."""
        flags = wire.QR | query.opcode << 11 | (wire.RD if data[2] & 1 else 0) | rcode & 15
        counts = (int(query.end > wire.HEADER_BYTES), 0, 0, int(query.edns is not None))
        ending = b""
        if query.edns is not None:
            options = self._options(query, 0, source, _why(query, rcode))
            ending = wire.opt(query.edns, rcode, options)
        return data[:2] + wire.head(flags, counts) + data[12 : query.end] + ending

    def explain(self, hostname: str, address: bytes, family: Family) -> Decision | None:
        """The reasoning for a client at `address`; None when no such hostname is answered by steering."""
        entry = self._entries.get(wire.name(hostname))
        if entry is None or entry.steered < 0:
            return None
        bucket, _ = self._bucket(address)
        return self._decide(entry.steered, bucket, slot_of(address), family)


def _refusal(query: Query) -> Rcode:
    """What is wrong with a well-formed question, whatever the zones are."""
    if query.qtype in _NO_QUESTIONS:
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


def _beyond(cut: zone.Cut, query: Query, within: CompiledZone, offset: int) -> Tail:
    """What this side of a delegation says: DS is the parent's (RFC 4035, section 3.1.4.1), all else is the child's."""
    if query.qtype != wire.DS or query.qname != cut.owner:
        return cut.referral(query.qname)
    if not cut.signers:
        return within.negative(Rcode.NOERROR, offset)
    return zone.rrset_tail(cut.signers)


def _why(query: Query, rcode: Rcode) -> tuple[ExtendedError, str] | None:
    if rcode == Rcode.NOTIMP:
        return ExtendedError.NOT_SUPPORTED, "this server answers questions, nothing else"
    if rcode == Rcode.FORMERR and not query.problem and query.qtype in _NO_QUESTIONS:
        # RFC 9824, section 3.5.
        return ExtendedError.INVALID_QUERY_TYPE, "no record of this type can be asked for"
    return None
