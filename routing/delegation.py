"""`locci-dns check`: asks a zone's parent and its servers, as any resolver would, and says what is wrong."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import dns.asyncquery
import dns.asyncresolver
import dns.dnssec
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.resolver
import dns.rrset

from fleet.errors import failed_precondition, invalid, not_found
from fleet.snapshot import Snapshot
from routing.core.delegation import Expected, Finding, ParentSaid, ServerSaid, findings

_TIMEOUT_S: Final = 3.0
_TRIES: Final = 2
_PARENTS_MAX: Final = 13


@dataclass(frozen=True, slots=True)
class Around:
    """How to ask: at which port name servers are, which servers of the parent zone (none: found by the resolver),
    and which resolver (empty: the system's)."""

    port: int = 53
    parents: tuple[str, ...] = ()
    resolver: str = ""


def expected_of(snapshot: Snapshot, origins: Sequence[str]) -> list[Expected]:
    """The zones that this host serves, all or those that are named. Raises NOT_FOUND, FAILED_PRECONDITION."""
    signed = {name.partition("/")[2] for name in snapshot.resources if name.startswith("zonekeys/")}
    found = {
        resource.zone.origin: Expected(
            resource.zone.origin,
            {server.hostname: frozenset(server.addresses) for server in resource.zone.name_servers},
            resource.zone.origin in signed,
        )
        for resource in snapshot.resources.values()
        if resource.WhichOneof("body") == "zone"
    }
    if not found:
        message = "this host serves no zone yet: join it (`locci-dns join`), or make one (`locci zones create`)"
        raise failed_precondition("NO_ZONES", message)
    wanted = [origin.rstrip(".").lower() for origin in origins] or sorted(found)
    for origin in wanted:
        if origin not in found:
            raise not_found(f"zones/{origin}")
    return [found[origin] for origin in wanted]


async def check(expected: Expected, around: Around) -> list[Finding]:
    """Asks everybody, and judges."""
    places = [(name, address) for name, found in expected.name_servers.items() for address in sorted(found)]
    parents = around.parents or await _parents_of(expected.origin, around)
    asked_parents = asyncio.gather(*(_ask_parent(expected.origin, one, around.port) for one in parents))
    asked_servers = asyncio.gather(*(_ask_server(expected.origin, *place, around.port) for place in places))
    return findings(expected, await asked_parents, await asked_servers)


async def _parents_of(origin: str, around: Around) -> tuple[str, ...]:
    resolver = _resolver(around.resolver)
    try:
        above = await dns.asyncresolver.zone_for_name(dns.name.from_text(origin).parent(), resolver=resolver)
        servers = [record.target for record in await resolver.resolve(above, "NS")]
    except (dns.exception.DNSException, OSError):
        return ()
    found: list[str] = []
    for server, kind in itertools.product(servers, ("A", "AAAA")):
        try:
            found += [record.address for record in await resolver.resolve(server, kind)]
        except (dns.exception.DNSException, OSError):
            continue
    return tuple(found[:_PARENTS_MAX])


def _resolver(address: str) -> dns.asyncresolver.Resolver:
    if not address:
        return dns.asyncresolver.Resolver()
    host, port = _place(address, 53)
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers, resolver.port = [host], port
    return resolver


def _place(text: str, port: int) -> tuple[str, int]:
    """Address and port of `address`, `address:port` or `[v6]:port`. Raises INVALID_ARGUMENT."""
    host, colon, own = text.rpartition(":")
    if text.startswith("[") and text.endswith("]"):
        return text[1:-1], port
    if not colon or (":" in host and not host.startswith("[")):
        return text, port
    if not own.isdigit() or not 0 < int(own) < 65536:
        raise invalid("address", f"{text!r} should read address or address:port")
    return host.strip("[]"), int(own)


async def _ask_parent(origin: str, server: str, port: int) -> ParentSaid:
    host, port = _place(server, port)
    try:
        answer = await _tried(lambda: _asked(origin, "NS", host, port))
        signed = await _tried(lambda: _asked(origin, "DS", host, port))
    except (dns.exception.DNSException, OSError) as error:
        return ParentSaid(server, problem=_reason(error))
    if answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return ParentSaid(server, problem=f"it answers {dns.rcode.to_text(answer.rcode())}")
    name = dns.name.from_text(origin)
    named = frozenset(_targets(name, (*answer.authority, *answer.answer)))
    glue: dict[str, set[str]] = {}
    for rrset in answer.additional:
        if rrset.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA):
            glue.setdefault(_text(rrset.name), set()).update(record.address for record in rrset)
    ds = frozenset(record.to_text() for rrset in signed.answer if rrset.rdtype == dns.rdatatype.DS for record in rrset)
    return ParentSaid(server, "", bool(named), named, {k: frozenset(v) for k, v in glue.items()}, ds)


async def _ask_server(origin: str, name: str, address: str, port: int) -> ServerSaid:
    try:
        soa = await _tried(lambda: _asked(origin, "SOA", address, port))
        names = await _tried(lambda: _asked(origin, "NS", address, port))
        keys = await _tried(lambda: _asked(origin, "DNSKEY", address, port))
    except (dns.exception.DNSException, OSError) as error:
        return ServerSaid(name, address, problem=_reason(error))
    tcp_problem = ""
    try:
        await _tried(lambda: _asked(origin, "SOA", address, port, tcp=True))
    except (dns.exception.DNSException, OSError, EOFError) as error:
        tcp_problem = _reason(error)
    zone = dns.name.from_text(origin)
    serials = [r.serial for rrset in soa.answer if rrset.rdtype == dns.rdatatype.SOA for r in rrset]
    return ServerSaid(
        name,
        address,
        "",
        tcp_problem,
        bool(soa.flags & dns.flags.AA),
        bool(soa.flags & dns.flags.RA),
        soa.edns >= 0,
        serials[0] if serials else None,
        frozenset(_targets(zone, names.answer)),
        frozenset(
            dns.dnssec.make_ds(zone, key, "SHA256").to_text()
            for rrset in keys.answer
            if rrset.rdtype == dns.rdatatype.DNSKEY
            for key in rrset
        ),
    )


async def _asked(origin: str, kind: str, address: str, port: int, *, tcp: bool = False) -> dns.message.Message:
    query = dns.message.make_query(origin, kind, use_edns=0, payload=1232)
    query.flags &= ~dns.flags.RD
    if tcp:
        return await dns.asyncquery.tcp(query, address, timeout=_TIMEOUT_S, port=port)
    answer, _ = await dns.asyncquery.udp_with_fallback(query, address, timeout=_TIMEOUT_S, port=port)
    return answer


async def _tried(ask: Callable[[], Awaitable[dns.message.Message]]) -> dns.message.Message:
    """Once more when a packet was lost."""
    for _ in range(_TRIES - 1):
        try:
            return await ask()
        except dns.exception.Timeout:
            continue
    return await ask()


def _targets(name: dns.name.Name, section: Iterable[dns.rrset.RRset]) -> list[str]:
    return [
        _text(r.target) for rrset in section if rrset.rdtype == dns.rdatatype.NS and rrset.name == name for r in rrset
    ]


def _text(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower()


def _reason(error: BaseException) -> str:
    if isinstance(error, dns.exception.Timeout):
        return f"nothing came within {_TIMEOUT_S:g} s"
    return str(error) or type(error).__name__
