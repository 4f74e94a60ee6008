"""From the resources of a node snapshot to the routing table; what cannot be served is named precisely."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

import dns.exception
import dns.rdata
import dns.rdatatype
from google.protobuf import duration_pb2

from fleet.errors import LocciError, invalid
from fleet.ids import check_hostname
from fleet.snapshot import Snapshot
from locci.v1 import agent_pb2, manifest_pb2, node_pb2, resource_pb2
from routing.adapters import zone_keys
from routing.adapters.resource_body import body_of
from routing.core.model import (
    ALIAS,
    Condition,
    EdgeEndpoint,
    ForeignEvidence,
    GeoRule,
    Hostname,
    Latencies,
    NameServer,
    Override,
    OverrideMode,
    Policy,
    RecordSet,
    Region,
    RoutingTable,
    Zone,
)

RESOURCE_TYPES: Final = ("hostnames", "latencies", "regions", "zonekeys", "zones")

_CONDITIONS: Final = {
    node_pb2.NODE_CONDITION_JOINING: Condition.JOINING,
    node_pb2.NODE_CONDITION_READY: Condition.READY,
    node_pb2.NODE_CONDITION_SUSPECT: Condition.SUSPECT,
    node_pb2.NODE_CONDITION_LOST: Condition.LOST,
    node_pb2.NODE_CONDITION_DRAINING: Condition.DRAINING,
    node_pb2.NODE_CONDITION_REVOKED: Condition.REVOKED,
}
_POLICIES: Final = {
    manifest_pb2.STEERING_POLICY_UNSPECIFIED: Policy.NEAREST,
    manifest_pb2.STEERING_POLICY_NEAREST: Policy.NEAREST,
    manifest_pb2.STEERING_POLICY_FAILOVER: Policy.FAILOVER,
    manifest_pb2.STEERING_POLICY_ALL: Policy.ALL,
    manifest_pb2.STEERING_POLICY_WEIGHTED: Policy.WEIGHTED,
    manifest_pb2.STEERING_POLICY_GEO: Policy.GEO,
    manifest_pb2.STEERING_POLICY_LATENCY: Policy.LATENCY,
}
_MODES: Final = {
    resource_pb2.OVERRIDE_MODE_IN: OverrideMode.IN,
    resource_pb2.OVERRIDE_MODE_OUT: OverrideMode.OUT,
    resource_pb2.OVERRIDE_MODE_DRAIN: OverrideMode.DRAIN,
}
_TTL_S_MAX: Final = 2**31 - 1
_TTL_S: Final = 5
_ZONE_TTL_S: Final = 3600
_NEGATIVE_TTL_S: Final = 10
_PROBE_PORT: Final = 80
_LATENCY_WITHIN_MS: Final = 10
_NEAREST_WITHIN_KM: Final = 500

T = TypeVar("T")


class TableReader:
    """Reads snapshots; what did not change since the last one is not read again."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Any] = {}

    def read(self, snapshot: Snapshot) -> tuple[RoutingTable, list[agent_pb2.ResourceProblem]]:
        """The table of all resources that are in order, and what is wrong with the others."""
        problems: list[agent_pb2.ResourceProblem] = []
        known: dict[tuple[str, str], Any] = {}

        def collect(kind: str, read: Callable[[str, resource_pb2.Resource], T]) -> dict[str, T]:
            found = {}
            for name, resource in sorted(snapshot.of_type(kind).items()):
                key = (name, resource.version)
                try:
                    value = known[key] = self._known.get(key) or read(name, resource)
                except LocciError as error:
                    problems.append(agent_pb2.ResourceProblem(name=name, message=error.message))
                else:
                    found[name.removeprefix(kind + "/")] = value
            return found

        zones = collect("zones", read_zone)
        regions = collect("regions", read_region)
        hostnames = collect("hostnames", read_hostname)
        keys = collect("zonekeys", zone_keys.read)
        latencies = collect("latencies", read_latencies)
        problems += _twice(regions)
        self._known = known
        return RoutingTable(snapshot.revision, zones, regions, hostnames, keys, latencies), problems


def _twice(regions: Mapping[str, Region]) -> Iterable[agent_pb2.ResourceProblem]:
    """Nodes that are in two regions."""
    homes: dict[str, str] = {}
    for region in regions.values():
        for edge in region.edges:
            other = homes.setdefault(edge.node, region.id)
            if other != region.id:
                message = f"edges: node {edge.node} is in regions {other} and {region.id}; a node is in one"
                yield agent_pb2.ResourceProblem(name=f"regions/{region.id}", message=message)


def read_region(name: str, resource: resource_pb2.Resource) -> Region:
    """The region in a resource, or INVALID_ARGUMENT."""
    body = body_of(name, resource, "region", resource.region.region)
    _check_degrees(body.latitude, 90, "latitude")
    _check_degrees(body.longitude, 180, "longitude")
    for network in body.networks:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            raise invalid("networks", f"networks: {error}; write it like 198.51.100.0/24") from error
    return Region(
        id=body.region,
        latitude=body.latitude,
        longitude=body.longitude,
        continent=body.continent,
        country=body.country,
        jurisdictions=tuple(body.jurisdictions),
        networks=tuple(body.networks),
        edges=tuple(_edge(edge) for edge in body.edges),
        bias_km=body.bias_km if math.isfinite(body.bias_km) else 0.0,
    )


def _edge(body: resource_pb2.EdgeEndpoint) -> EdgeEndpoint:
    if not body.node:
        raise invalid("edges", "edges: one has no node")
    if body.probe_port > 65_535:
        raise invalid("edges", f"edges: {body.node}: probe_port: {body.probe_port} is no port")
    ipv4, ipv6 = _addresses(body.addresses, f"edges: {body.node}: addresses")
    evidence = tuple(
        ForeignEvidence(said.vantage.removeprefix("nodes/"), said.healthy, said.in_rotation, said.reason)
        for said in body.evidence
    )
    condition = _CONDITIONS.get(body.condition, Condition.UNKNOWN)
    return EdgeEndpoint(body.node, ipv4, ipv6, condition, body.probe_port or _PROBE_PORT, evidence, _override(body))


def _override(body: resource_pb2.EdgeEndpoint) -> Override | None:
    """The order about an edge; one of a kind that is not known here is none."""
    order = body.override
    mode = _MODES.get(order.mode)
    if mode is None:
        return None
    expire_at = order.expire_time.seconds + order.expire_time.nanos / 1e9
    begin_at = order.create_time.seconds + order.create_time.nanos / 1e9
    over_s = order.over.seconds + order.over.nanos / 1e9
    return Override(mode, expire_at, min(order.percent or 100, 100), order.reason, begin_at, over_s)


def read_hostname(name: str, resource: resource_pb2.Resource) -> Hostname:
    """The hostname in a resource, or INVALID_ARGUMENT."""
    body = body_of(name, resource, "hostname", resource.hostname.hostname)
    _check_lower(body.hostname, "hostname")
    policy = _policy(body.routing.policy, "routing.policy")
    replicas: dict[str, int] = {}
    for endpoint in body.endpoints:
        replicas[endpoint.region] = replicas.get(endpoint.region, 0) + endpoint.healthy_replicas
    return Hostname(
        name=body.hostname,
        app=body.app,
        policy=policy,
        ttl_s=_seconds(body.routing.ttl, _TTL_S, "routing.ttl"),
        order=tuple(body.routing.order),
        fail_closed=body.routing.fail_closed,
        jurisdictions=tuple(body.routing.jurisdictions),
        replicas=tuple(sorted(replicas.items())),
        weights=tuple((weight.region, weight.weight) for weight in body.routing.weights),
        geo=tuple(GeoRule(tuple(rule.places), tuple(rule.regions)) for rule in body.routing.geo),
        filters=tuple(_policy(number, "routing.filters") for number in body.routing.filters),
        latency_within_ms=body.routing.latency_within.ToMilliseconds() or _LATENCY_WITHIN_MS,
        nearest_within_km=body.routing.nearest_within_km or _NEAREST_WITHIN_KM,
    )


def _policy(number: manifest_pb2.SteeringPolicy.ValueType, field: str) -> Policy:
    policy = _POLICIES.get(number)
    if policy is None:
        raise invalid(field, f"{field}: {number} is not known here; upgrade this program")
    return policy


def read_latencies(name: str, resource: resource_pb2.Resource) -> tuple[tuple[str, Latencies], ...]:
    """What was measured of client networks in a resource, or INVALID_ARGUMENT."""
    body = body_of(name, resource, "client_latencies", name.partition("/")[2])
    rows = []
    for row in body.networks:
        try:
            network = str(ipaddress.ip_network(row.network))
        except ValueError as error:
            raise invalid("networks", f"networks: {error}; write it like 203.0.113.0/24") from error
        rows.append((network, tuple((entry.region, max(1, entry.milliseconds)) for entry in row.regions)))
    return tuple(rows)


def read_zone(name: str, resource: resource_pb2.Resource) -> Zone:
    """The zone in a resource, or INVALID_ARGUMENT."""
    body = body_of(name, resource, "zone", resource.zone.origin)
    _check_lower(body.origin, "origin")
    if body.contact:
        local, at, domain = body.contact.partition("@")
        if not at or not local.isascii() or not 0 < len(local) < 64:
            raise invalid("contact", f"contact: {body.contact!r} is not a mail address such as dns@example.net")
        check_hostname(domain, "contact")
    servers = []
    for server in body.name_servers:
        _check_lower(server.hostname, "name_servers.hostname")
        ipv4, ipv6 = _addresses(server.addresses, f"name_servers: {server.hostname}: addresses")
        servers.append(NameServer(server.hostname, ipv4, ipv6))
    return Zone(
        origin=body.origin,
        serial=body.serial,
        contact=body.contact,
        ttl_s=_seconds(body.ttl, _ZONE_TTL_S, "ttl"),
        negative_ttl_s=_seconds(body.negative_ttl, _NEGATIVE_TTL_S, "negative_ttl"),
        name_servers=tuple(servers),
        records=tuple(_record_set(records, body.origin) for records in body.records),
    )


def _record_set(body: resource_pb2.ZoneRecords, origin: str) -> RecordSet:
    """Records in wire form. Raises INVALID_ARGUMENT when their text is no such record."""
    where = f"records: {body.type} of {body.owner}"
    if not f".{body.owner}".endswith(f".{origin}"):
        raise invalid("records", f"{where}: it is not within {origin}")
    ttl_s = _seconds(body.ttl, _ZONE_TTL_S, where)
    kind = "CNAME" if body.type == "ALIAS" else body.type
    try:
        rdatas = [dns.rdata.from_text("IN", kind, text) for text in body.data]
        # The canonical form (RFC 4034, section 6.2): names in lower case, so that what is signed is what is sent.
        data = tuple(rdata.to_digestable() for rdata in rdatas)
        number = int(rdatas[0].rdtype) if rdatas else int(dns.rdatatype.from_text(kind))
    except (dns.exception.DNSException, ValueError, UnicodeError) as error:
        raise invalid("records", f"{where}: {error}") from error
    target = ""
    if kind == "CNAME":
        if len(rdatas) != 1:
            raise invalid("records", f"{where}: there can be only one")
        target = str(rdatas[0].to_text()).lower().removesuffix(".")
    return RecordSet(body.owner, ALIAS if body.type == "ALIAS" else number, ttl_s, data, target)


def _addresses(texts: Iterable[str], field: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """IPv4 and IPv6 addresses, each once, in the given order."""
    by_version: dict[int, dict[str, None]] = {4: {}, 6: {}}
    for text in texts:
        try:
            address = ipaddress.ip_address(text)
        except ValueError as error:
            raise invalid(field, f"{field}: {error}") from error
        if address.is_unspecified or address.is_multicast or "%" in text:
            raise invalid(field, f"{field}: nobody can be sent to {text}")
        by_version[address.version][str(address)] = None
    return tuple(by_version[4]), tuple(by_version[6])


def _check_lower(text: str, field: str) -> None:
    if check_hostname(text, field) != text:
        raise invalid(field, f"{field}: {text!r} must be in lower case and without the last dot")


def _check_degrees(value: float, most: float, field: str) -> None:
    if not math.isfinite(value) or abs(value) > most:
        raise invalid(field, f"{field}: {value} is not between -{most} and {most} degrees")


def _seconds(duration: duration_pb2.Duration, default_s: int, field: str) -> int:
    """Whole seconds, at least one; `default_s` for 0."""
    if duration.seconds < 0 or duration.nanos < 0 or duration.seconds > _TTL_S_MAX:
        raise invalid(field, f"{field}: {duration.seconds} s is no time to live")
    if not duration.seconds and not duration.nanos:
        return default_s
    return max(1, duration.seconds)
