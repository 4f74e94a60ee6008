"""Which regions an answer names, and why: a chain of filters, the same for answering and for explaining.

Jurisdiction is a hard rule: a region outside is never answered, not even when all inside are down. Health and
replicas are soft: when they would leave nothing, they give way in a fixed order, so that an answer is empty only
when a hostname has no address of that family at all, wherever the client is.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import Enum
from typing import Final, assert_never

from routing.core.latency import expected, fast_enough
from routing.core.model import (
    Condition,
    Family,
    GeoRule,
    Hostname,
    Latencies,
    OverrideMode,
    Policy,
    Region,
    TargetKey,
)

_EARTH_RADIUS_KM: Final = 6371.0


class Outcome(Enum):
    """How an answer came about."""

    STEERED = "steered"
    WITHOUT_REPLICAS = "without-replicas"
    FAIL_OPEN = "fail-open"
    FAIL_CLOSED = "fail-closed"
    NO_ADDRESS = "no-address"


@dataclass(frozen=True, slots=True)
class Step:
    """One filter: what it kept, in order, and what it dropped and why."""

    filter: str
    kept: tuple[str, ...]
    dropped: tuple[tuple[str, str], ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """The regions of an answer, most wanted first, their addresses, and the whole reasoning."""

    outcome: Outcome
    regions: tuple[str, ...]
    addresses: tuple[str, ...]
    steps: tuple[Step, ...]


def distance_km(latitude: float, longitude: float, region: Region) -> float:
    """Great-circle distance from a place to a region (haversine formula)."""
    north = math.radians(region.latitude - latitude)
    east = math.radians(region.longitude - longitude)
    cosines = math.cos(math.radians(latitude)) * math.cos(math.radians(region.latitude))
    half_chord = math.sin(north / 2) ** 2 + cosines * math.sin(east / 2) ** 2
    return 2 * _EARTH_RADIUS_KM * math.asin(min(1.0, math.sqrt(half_chord)))


def nearest_first(latitude: float, longitude: float, regions: Mapping[str, Region], home: str = "") -> tuple[str, ...]:
    """Region ids by distance less bias; `home` comes before others at the same distance, then the id decides."""

    def rank(region: str) -> tuple[float, bool, str]:
        here = regions[region]
        return distance_km(latitude, longitude, here) - here.bias_km, region != home, region

    return tuple(sorted(regions, key=rank))


def depends_on_place(hostname: Hostname) -> bool:
    """Whether clients at different places may get different answers; never by live health (RFC 7871, section 7.2.1)."""
    return any(hostname.uses(policy) for policy in (Policy.NEAREST, Policy.GEO, Policy.LATENCY))


UNSTEADY_TTL_S: Final = 2
"""Resolvers keep an answer no longer than this while a region that it could name comes or goes."""


def ttl_s(hostname: Hostname, unsteady: AbstractSet[str]) -> int:
    """How long resolvers may keep an answer, in seconds; `unsteady` are regions of which an edge went in or out of
    rotation a moment ago."""
    wanted = {region for region, _ in hostname.replicas} or unsteady
    return min(hostname.ttl_s, UNSTEADY_TTL_S) if wanted & unsteady else hostname.ttl_s


SLOTS: Final = 256
"""Client networks fall into so many slots; those of one slot are drawn alike."""


def slot_of(address: bytes) -> int:
    """The slot of the network (/24, /48) of a packed address."""
    return zlib.crc32(address[:3] if len(address) == 4 else address[:6]) % SLOTS


@dataclass(frozen=True, slots=True)
class Client:
    """What is known of a client: its regions, nearest first (None when its place is unknown), where it is, its slot,
    what was measured of its network, and how far the regions are, in the order of `order`."""

    order: tuple[str, ...] | None = None
    country: str = ""
    continent: str = ""
    slot: int = 0
    subdivision: str = ""
    latencies: Latencies = ()
    distances_km: tuple[int, ...] = ()

    @property
    def km(self) -> dict[str, int]:
        """How far each region is, where that is known."""
        return dict(zip(self.order or (), self.distances_km, strict=False))


def drawn(slot: int, weights: Mapping[str, int], candidates: Sequence[str]) -> tuple[str, ...]:
    """The candidates in the order in which a slot is drawn to them: weighted rendezvous hashing, so that a slot moves
    only when the region that it was drawn to comes or goes."""

    def score(region: str) -> float:
        weight = weights.get(region, 1)
        digest = hashlib.blake2b(f"{region}/{slot}".encode(), digest_size=6).digest()
        point = (int.from_bytes(digest, "big") + 1) / (2**48 + 1)
        return -weight / math.log(point)

    return tuple(sorted(candidates, key=lambda region: (-score(region), region)))


def decide(
    hostname: Hostname,
    regions: Mapping[str, Region],
    client: Client,
    rotation: AbstractSet[TargetKey],
    family: Family,
    drained: AbstractSet[str] = frozenset(),
) -> Decision:
    """The answer for a client. Edges in `drained` are for others, unless nothing else is in order."""
    spared = frozenset(key for key in rotation if key[0] not in drained)
    steps = [_wanted(hostname, regions)]
    steps.append(_filter("jurisdiction", steps[-1].kept, lambda r: _outside(hostname, regions[r])))
    steps.append(_filter("address", steps[-1].kept, lambda r: _without_address(regions[r], family)))
    steps.append(_order(hostname, steps[-1].kept, client))
    candidates = steps[-1].kept
    if not candidates:
        return Decision(Outcome.NO_ADDRESS, (), (), tuple(steps))
    replicas = dict(hostname.replicas)
    filled = _filter("replicas", candidates, lambda r: "" if replicas.get(r) else "no healthy replica")
    if not filled.kept:
        filled = Step("replicas", candidates, (), "no region has a healthy replica: ignored")
    steps.append(filled)
    healthy = _filter("health", filled.kept, lambda r: _out(regions[r], rotation, family))
    steps.append(healthy)
    outcome = Outcome.STEERED
    kept = healthy.kept
    if not kept:
        beside = _filter("health-without-replicas", candidates, lambda r: _out(regions[r], rotation, family))
        outcome, kept = Outcome.WITHOUT_REPLICAS, beside.kept
        steps.append(beside)
    if not kept:
        return _all_down(hostname, regions, filled.kept, family, steps)
    if drained:
        steps.append(_filter("drain", kept, lambda r: _away(regions[r], spared, family)))
        kept = steps[-1].kept or kept
        rotation = spared if steps[-1].kept else rotation
    for policy in hostname.filters:
        steps.append(_narrowed(policy, hostname, kept, client))
        kept = steps[-1].kept
    steps.append(_pick(hostname, kept, client))
    chosen = steps[-1].kept
    addresses = tuple(
        address
        for region in chosen
        for edge in regions[region].edges
        if (edge.node, family) in rotation
        for address in edge.addresses(family)
    )
    return Decision(outcome, chosen, addresses, tuple(steps))


def _away(region: Region, spared: AbstractSet[TargetKey], family: Family) -> str:
    return "" if any((edge.node, family) in spared for edge in region.edges) else "this client is sent elsewhere"


def _wanted(hostname: Hostname, regions: Mapping[str, Region]) -> Step:
    """Regions where replicas are wanted; all of them when that is not known."""
    wanted = {region for region, _ in hostname.replicas}
    kept = tuple(region for region in sorted(regions) if region in wanted)
    if not kept:
        return Step("placement", tuple(sorted(regions)), (), "no placement is known: every region is a candidate")
    dropped = tuple((region, "no replica is wanted there") for region in sorted(regions) if region not in wanted)
    return Step("placement", kept, dropped)


def _filter(title: str, candidates: Sequence[str], objection: Callable[[str], str]) -> Step:
    kept, dropped = [], []
    for region in candidates:
        reason = objection(region)
        if reason:
            dropped.append((region, reason))
        else:
            kept.append(region)
    return Step(title, tuple(kept), tuple(dropped))


def _outside(hostname: Hostname, region: Region) -> str:
    if not hostname.jurisdictions or set(hostname.jurisdictions) & set(region.jurisdictions):
        return ""
    return f"lies in {', '.join(region.jurisdictions) or 'no jurisdiction'}, not in {', '.join(hostname.jurisdictions)}"


def _without_address(region: Region, family: Family) -> str:
    has = any(edge.addresses(family) and edge.condition is not Condition.REVOKED for edge in region.edges)
    return "" if has else f"no edge with an IPv{family.value} address"


def _out(region: Region, rotation: AbstractSet[TargetKey], family: Family) -> str:
    return "" if any((edge.node, family) in rotation for edge in region.edges) else "no edge in rotation"


def _order(hostname: Hostname, candidates: Sequence[str], client: Client) -> Step:
    match hostname.policy:
        case Policy.FAILOVER:
            return Step("order", _listed_first(hostname.order, candidates), (), "by the declared order")
        case Policy.WEIGHTED:
            weights = dict(hostname.weights)
            listed = drawn(client.slot, weights, [r for r in candidates if weights.get(r, 1)])
            return Step("order", _listed_first(listed, candidates), (), f"drawn by weight for slot {client.slot}")
        case Policy.GEO:
            rule = _rule_for(hostname, client)
            nearest = _listed_first(client.order or (), candidates)
            if rule is None:
                return Step("order", nearest, (), "no rule for the client's place: nearest first")
            return Step("order", _listed_first(rule.regions, nearest), (), f"by the rule for {', '.join(rule.places)}")
        case Policy.LATENCY:
            return _fastest_first(hostname, candidates, client)
        case Policy.NEAREST | Policy.ALL:
            if client.order is None:
                return Step("order", tuple(candidates), (), "the client's place is unknown")
            return Step("order", tuple(region for region in client.order if region in candidates), (), "nearest first")
        case _:
            assert_never(hostname.policy)


def _fastest_first(hostname: Hostname, candidates: Sequence[str], client: Client) -> Step:
    nearest = _listed_first(client.order or (), candidates)
    if not client.latencies:
        return Step("order", nearest, (), "nothing was measured of the client's network: nearest first")
    times = expected(client.latencies, client.km)
    fast = fast_enough(times, candidates, hostname.latency_within_ms)
    slower = sorted((r for r in nearest if r not in fast and r in times), key=lambda r: times[r].milliseconds)
    order = _listed_first([*(region for region in nearest if region in fast), *slower], nearest)
    return Step("order", order, (), "fastest first: " + ", ".join(f"{r} {times[r]}" for r in order if r in times))


def _narrowed(policy: Policy, hostname: Hostname, kept: tuple[str, ...], client: Client) -> Step:
    """What a filter leaves of the regions that are in order; all of them when it would leave none or knows nothing."""
    title, reason = f"filter {policy.value}", ""
    fit: frozenset[str] = frozenset()
    match policy:
        case Policy.GEO:
            rule = _rule_for(hostname, client)
            fit, reason = frozenset(rule.regions if rule else ()), "not in the rule for the client's place"
        case Policy.LATENCY:
            fit = fast_enough(expected(client.latencies, client.km), kept, hostname.latency_within_ms)
            fit, reason = (fit if client.latencies else frozenset()), "slower than the fastest"
        case Policy.NEAREST:
            km = {region: far for region, far in client.km.items() if region in kept}
            most = min(km.values(), default=0) + hostname.nearest_within_km
            fit, reason = frozenset(r for r, far in km.items() if far <= most), "farther than the nearest"
        case Policy.WEIGHTED:
            weights = dict(hostname.weights)
            fit, reason = frozenset(r for r in kept if weights.get(r, 1)), "has no weight"
        case Policy.FAILOVER | Policy.ALL:
            return Step(title, kept, (), "narrows nothing")
        case _:
            assert_never(policy)
    narrowed = _filter(title, kept, lambda region: "" if region in fit else reason)
    return narrowed if narrowed.kept else Step(title, kept, (), "nothing to go by: passed over")


def _listed_first(listed: Sequence[str], candidates: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*(region for region in listed if region in candidates), *candidates]))


def _rule_for(hostname: Hostname, client: Client) -> GeoRule | None:
    here = {"*", client.subdivision, client.country, f"continent:{client.continent}"} - {"", "continent:"}
    return next((rule for rule in hostname.geo if here & set(rule.places)), None)


def _pick(hostname: Hostname, kept: tuple[str, ...], client: Client) -> Step:
    if hostname.policy is Policy.ALL:
        return Step("pick", kept, (), "policy all: every healthy region")
    placeless = (
        hostname.policy is Policy.NEAREST
        or (hostname.policy is Policy.GEO and _rule_for(hostname, client) is None)
        or (hostname.policy is Policy.LATENCY and not client.latencies)
    )
    if placeless and client.order is None:
        return Step("pick", kept, (), "place unknown: every healthy region")
    return Step(
        "pick", kept[:1], tuple((region, "not first") for region in kept[1:]), f"policy {hostname.policy.value}"
    )


def _all_down(
    hostname: Hostname, regions: Mapping[str, Region], kept: tuple[str, ...], family: Family, steps: list[Step]
) -> Decision:
    if hostname.fail_closed:
        steps.append(Step("pick", (), (), "nothing is in rotation and the policy is to fail closed"))
        return Decision(Outcome.FAIL_CLOSED, (), (), tuple(steps))
    steps.append(Step("pick", kept, (), "nothing is in rotation: fail open with every candidate"))
    edges = [
        edge
        for region in kept
        for edge in regions[region].edges
        if edge.condition is not Condition.REVOKED and edge.addresses(family)
    ]
    wanted = [e for e in edges if e.override is None or e.override.mode is not OverrideMode.OUT] or edges
    addresses = tuple(address for edge in wanted for address in edge.addresses(family))
    return Decision(Outcome.FAIL_OPEN, kept, addresses, tuple(steps))
