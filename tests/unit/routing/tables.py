"""Small routing tables for tests: three regions on three continents, one zone, some hostnames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from routing.core.additional import with_addresses
from routing.core.answer import Manners, Responder
from routing.core.geo import GeoLookup, PlaceMap, no_geo
from routing.core.model import (
    Condition,
    EdgeEndpoint,
    Family,
    Hostname,
    NameServer,
    Policy,
    Region,
    RoutingTable,
    TargetKey,
    Zone,
)
from routing.core.zone import compile_names

EU, US, AP = "eu", "us", "ap"


def region(name: str, latitude: float, longitude: float, number: int, *, edges: int = 1, ipv6: bool = False) -> Region:
    """A region whose clients are in 10.NUMBER.0.0/16 and 2001:db8:NUMBER::/48."""
    endpoints = tuple(
        EdgeEndpoint(
            f"{name}-{e}",
            (f"192.0.2.{10 * number + e}",),
            (f"2001:db8:ff::{10 * number + e:x}",) if ipv6 else (),
            Condition.READY,
        )
        for e in range(1, edges + 1)
    )
    networks = (f"10.{number}.0.0/16", f"2001:db8:{number}::/48")
    return Region(name, latitude, longitude, "XX", "XX", (name, "earth"), networks, endpoints)


def regions(*, edges: int = 1, ipv6: tuple[str, ...] = ()) -> dict[str, Region]:
    """Frankfurt, New York, Tokyo."""
    return {
        AP: region(AP, 35.7, 139.7, 3, edges=edges, ipv6=AP in ipv6),
        EU: region(EU, 50.1, 8.7, 1, edges=edges, ipv6=EU in ipv6),
        US: region(US, 40.7, -74.0, 2, edges=edges, ipv6=US in ipv6),
    }


EVERYWHERE = ((AP, 1), (EU, 1), (US, 1))

HOSTNAMES = (
    Hostname("hello.example.net", "hello", replicas=EVERYWHERE),
    Hostname("www.deep.example.net", "deep", Policy.ALL, 30, replicas=EVERYWHERE),
    Hostname("first.example.net", "first", Policy.FAILOVER, order=(US, EU), replicas=EVERYWHERE),
    Hostname("closed.example.net", "closed", fail_closed=True, replicas=((EU, 1),)),
    Hostname("law.example.net", "law", jurisdictions=(EU,), replicas=EVERYWHERE),
    Hostname("example.net", "apex", replicas=EVERYWHERE),
    Hostname("elsewhere.example.org", "elsewhere", replicas=EVERYWHERE),
)

ZONE = Zone(
    "example.net",
    4711,
    "dns.team@example.net",
    name_servers=(
        NameServer("eu-1.ns.example.net", ("192.0.2.11",), ("2001:db8:ff::b",)),
        NameServer("us-1.ns.example.net", ("192.0.2.21",)),
    ),
)


def table(**changes: object) -> RoutingTable:
    """A whole table; `changes` replace its fields."""
    basis = RoutingTable(7, {ZONE.origin: ZONE}, regions(ipv6=(EU,)), {h.name: h for h in HOSTNAMES})
    return replace(basis, **changes)  # type: ignore[arg-type]


def everything(of: Mapping[str, Region]) -> frozenset[TargetKey]:
    """All targets of the regions."""
    return frozenset((e.node, f) for r in of.values() for e in r.edges for f in Family if e.addresses(f))


def responder(
    of: RoutingTable | None = None,
    rotation: frozenset[TargetKey] | None = None,
    lookup: GeoLookup = no_geo,
    manners: Manners | None = None,
) -> Responder:
    """A responder with everything in rotation unless told otherwise."""
    of = of or table()
    rotation = everything(of.regions) if rotation is None else rotation
    return Responder(with_addresses(compile_names(of)), PlaceMap(of.regions, lookup), of.regions, rotation, manners)
