"""What DNS steers by: regions with their edges, hostnames, zones. Plain values, checked before they get here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Final


class Family(IntEnum):
    """Version of the internet protocol."""

    IPV4 = 4
    IPV6 = 6


class Condition(Enum):
    """How the control plane sees a node; evidence, not a verdict."""

    UNKNOWN = "unknown"
    JOINING = "joining"
    READY = "ready"
    SUSPECT = "suspect"
    LOST = "lost"
    DRAINING = "draining"
    REVOKED = "revoked"


class Policy(Enum):
    """How a region is chosen."""

    NEAREST = "nearest"
    FAILOVER = "failover"
    ALL = "all"
    WEIGHTED = "weighted"
    GEO = "geo"
    LATENCY = "latency"


SHARE_STEP: Final = 5
"""By so many of a hundred a share grows and shrinks."""


class OverrideMode(Enum):
    """What an operator orders of an edge."""

    IN = "in"
    OUT = "out"
    DRAIN = "drain"


@dataclass(frozen=True, slots=True)
class Override:
    """An operator's order; it ends at `expire_at`, in seconds since 1970. `percent` of clients are sent elsewhere by a
    drain: from `begin_at` on their share grows for `over_s`, and shrinks as long before the end."""

    mode: OverrideMode
    expire_at: float
    percent: int = 100
    reason: str = ""
    begin_at: float = 0.0
    over_s: float = 0.0

    def share_at(self, now_s: float) -> int:
        """How many of a hundred clients a drain sends elsewhere at a time within it; in steps, for each moves some."""
        if self.over_s <= 0:
            return self.percent
        grown = min(1.0, (now_s - self.begin_at) / self.over_s, (self.expire_at - now_s) / self.over_s)
        return self.percent if grown == 1.0 else int(self.percent * max(0.0, grown)) // SHARE_STEP * SHARE_STEP


@dataclass(frozen=True, slots=True)
class ForeignEvidence:
    """What another vantage found at an endpoint. `vantage` is a node id."""

    vantage: str
    healthy: bool
    in_rotation: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class EdgeEndpoint:
    """An edge that answers may name. Addresses are in their usual text form."""

    node: str
    ipv4: tuple[str, ...] = ()
    ipv6: tuple[str, ...] = ()
    condition: Condition = Condition.UNKNOWN
    probe_port: int = 80
    evidence: tuple[ForeignEvidence, ...] = ()
    override: Override | None = None

    def addresses(self, family: Family) -> tuple[str, ...]:
        """Its addresses of one family."""
        return self.ipv4 if family is Family.IPV4 else self.ipv6


@dataclass(frozen=True, slots=True)
class Region:
    """A named place with its edges. Degrees north and east; networks in CIDR form."""

    id: str
    latitude: float
    longitude: float
    continent: str = ""
    country: str = ""
    jurisdictions: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    edges: tuple[EdgeEndpoint, ...] = ()
    bias_km: float = 0.0


@dataclass(frozen=True, slots=True)
class GeoRule:
    """Places (countries as in "DE", subdivisions as in "US-CA", continents as in "continent:EU", `*` for everywhere)
    and the regions that serve their clients, most wanted first."""

    places: tuple[str, ...]
    regions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Hostname:
    """A name that is answered by steering. `replicas` are the healthy ones per region where any are wanted."""

    name: str
    app: str = ""
    policy: Policy = Policy.NEAREST
    ttl_s: int = 5
    order: tuple[str, ...] = ()
    fail_closed: bool = False
    jurisdictions: tuple[str, ...] = ()
    replicas: tuple[tuple[str, int], ...] = ()
    weights: tuple[tuple[str, int], ...] = ()
    geo: tuple[GeoRule, ...] = ()
    filters: tuple[Policy, ...] = ()
    latency_within_ms: int = 10
    nearest_within_km: int = 500

    def uses(self, policy: Policy) -> bool:
        """Whether a policy chooses, or narrows what another chooses from."""
        return self.policy is policy or policy in self.filters


Latencies = tuple[tuple[str, int], ...]
"""Milliseconds of round trip between a client network and regions, by region id; only those that were measured."""


@dataclass(frozen=True, slots=True)
class NameServer:
    """A name server of a zone with its addresses."""

    name: str
    ipv4: tuple[str, ...] = ()
    ipv6: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key of a zone: ECDSA P-256 (RFC 6605). `public` are 64 bytes, `private` 32. One that is not active is only
    published."""

    public: bytes
    private: bytes = field(repr=False)
    active: bool = True


ALIAS: Final = 0
"""The type of a record set that has the addresses of another name of ours; no type of the DNS itself."""


@dataclass(frozen=True, slots=True)
class RecordSet:
    """The records of one owner and type that an operator has declared.

    `name` is absolute, lower case, without the last dot; its first label may be `*`. `data` are in wire form without
    compression. `target` is the name that a CNAME or an alias points to, in the form of `name`.
    """

    name: str
    type: int
    ttl_s: int
    data: tuple[bytes, ...] = ()
    target: str = ""


@dataclass(frozen=True, slots=True)
class Zone:
    """A part of the DNS that is answered with authority."""

    origin: str
    serial: int
    contact: str = ""
    ttl_s: int = 3600
    negative_ttl_s: int = 10
    name_servers: tuple[NameServer, ...] = ()
    records: tuple[RecordSet, ...] = ()


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """Everything at one revision of the control plane's store."""

    revision: int = 0
    zones: Mapping[str, Zone] = field(default_factory=dict)
    regions: Mapping[str, Region] = field(default_factory=dict)
    hostnames: Mapping[str, Hostname] = field(default_factory=dict)
    keys: Mapping[str, tuple[SigningKey, ...]] = field(default_factory=dict)
    """By origin, for zones that are signed."""
    latencies: Mapping[str, tuple[tuple[str, Latencies], ...]] = field(default_factory=dict)
    """By part of the table: client networks in CIDR form, and what was measured of each."""


TargetKey = tuple[str, Family]
"""What is probed and put in or out of rotation: a node's edge over one family."""
