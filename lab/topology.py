"""What a lab consists of: regions, hosts, addresses, names. Pure: the same arguments give the same plan.

Every lab uses the same addresses, because its network is closed; only names carry the lab's name:

    10.77.0.10            cp, the control plane and the registry
    10.77.R.11, .12, …    nodes of the R-th region (R counts from 1); in IPv6 fd00:10:77:R::11, …
    10.77.R.100           the client host of the R-th region
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from fleet.errors import invalid, not_found

ZONE: Final = "lab.test"
CONTROL_HOST: Final = "cp"
REGISTRY_PORT: Final = 5000
HTTPS_PORT: Final = 7443
GRPC_PORT: Final = 7444
NODES_PER_REGION_MAX: Final = 8
NAME_SERVERS_MAX: Final = 2

# No '-' in a lab's name: `locci-{lab}-{host}` must never be read as the name of another lab's host.
_LAB_NAME = re.compile(r"[a-z][a-z0-9]{0,15}")


@dataclass(frozen=True, slots=True)
class RegionPlan:
    """A region with its real place on the globe; `number` counts from 1."""

    id: str
    display_name: str
    latitude: float
    longitude: float
    continent: str
    country: str
    jurisdictions: tuple[str, ...] = ()
    number: int = 0

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks (CIDR) of the region's clients and nodes."""
        return (f"10.77.{self.number}.0/24", f"fd00:10:77:{self.number}::/64")


_PLACES: Final = (
    RegionPlan("eu", "Frankfurt", 50.11, 8.68, "EU", "DE", ("eu", "gdpr")),
    RegionPlan("us", "Virginia", 38.95, -77.45, "NA", "US", ("us",)),
    RegionPlan("ap", "Singapore", 1.35, 103.82, "AS", "SG", ("sg",)),
    RegionPlan("sa", "São Paulo", -23.55, -46.63, "SA", "BR", ("br",)),
    RegionPlan("oc", "Sydney", -33.87, 151.21, "OC", "AU", ("au",)),
    RegionPlan("af", "Johannesburg", -26.20, 28.05, "AF", "ZA", ("za",)),
    RegionPlan("jp", "Tokyo", 35.68, 139.69, "AS", "JP", ("jp",)),
    RegionPlan("in", "Mumbai", 19.08, 72.88, "AS", "IN", ("in",)),
)
REGIONS_MAX: Final = len(_PLACES)


class HostKind(Enum):
    """What a host is for."""

    CONTROL = "control"
    NODE = "node"
    CLIENT = "client"


@dataclass(frozen=True, slots=True)
class Host:
    """A host of the lab; `number` is unique in the lab and counts from 1."""

    name: str
    kind: HostKind
    region: str
    number: int
    ipv4: str
    ipv6: str
    serves_dns: bool = False

    @property
    def addresses(self) -> tuple[str, str]:
        """IPv4 and IPv6 address."""
        return (self.ipv4, self.ipv6)

    @property
    def link(self) -> str:
        """Name of the hub's end of the host's link; the host's own end is `eth0`."""
        return f"h{self.number}"


@dataclass(frozen=True, slots=True)
class Topology:
    """A lab's regions and hosts."""

    lab: str
    regions: tuple[RegionPlan, ...]
    hosts: tuple[Host, ...]

    @property
    def hub(self) -> str:
        """Network namespace that holds the bridge between all hosts."""
        return namespace(self.lab, "hub")

    @property
    def control(self) -> Host:
        """The host of the control plane and the registry."""
        return self.hosts[0]

    @property
    def nodes(self) -> tuple[Host, ...]:
        """The hosts that join the fleet."""
        return tuple(host for host in self.hosts if host.kind is HostKind.NODE)

    @property
    def clients(self) -> tuple[Host, ...]:
        """The hosts that only ask."""
        return tuple(host for host in self.hosts if host.kind is HostKind.CLIENT)

    @property
    def name_servers(self) -> tuple[Host, ...]:
        """The hosts that answer DNS."""
        return tuple(host for host in self.hosts if host.serves_dns)

    def namespace(self, host: Host) -> str:
        """Name of the host's network namespace."""
        return namespace(self.lab, host.name)

    def host(self, name: str) -> Host:
        """The host of that name, or NOT_FOUND with the names there are."""
        for host in self.hosts:
            if host.name == name:
                return host
        known = ", ".join(host.name for host in self.hosts)
        raise not_found(name, f"lab {self.lab} has no host {name!r}; it has {known}")

    def expand(self, target: str) -> tuple[Host, ...]:
        """The hosts that a host's name or a region's id stands for; of a region its nodes, not its client.

        Raises NOT_FOUND with the names there are.
        """
        if any(region.id == target for region in self.regions):
            return tuple(host for host in self.nodes if host.region == target)
        if any(host.name == target for host in self.hosts):
            return (self.host(target),)
        known = ", ".join([region.id for region in self.regions] + [host.name for host in self.hosts])
        raise not_found(target, f"lab {self.lab} has no host or region {target!r}; it has {known}")


def namespace(lab: str, host: str) -> str:
    """Name of a host's network namespace."""
    return f"locci-{lab}-{host}"


def check_lab_name(name: str) -> str:
    """`name`, or INVALID_ARGUMENT when it cannot be a lab's name."""
    if not _LAB_NAME.fullmatch(name):
        raise invalid("name", f"name: {name!r} is no name for a lab: use 1-16 of a-z and 0-9, starting with a letter")
    return name


def plan(lab: str, regions: int, nodes_per_region: int) -> Topology:
    """The lab `lab` with so many regions and nodes, or INVALID_ARGUMENT when that cannot be."""
    check_lab_name(lab)
    if not 1 <= regions <= REGIONS_MAX:
        raise invalid("regions", f"regions: {regions} is not from 1 to {REGIONS_MAX}")
    if not 1 <= nodes_per_region <= NODES_PER_REGION_MAX:
        raise invalid(
            "nodes-per-region", f"nodes-per-region: {nodes_per_region} is not from 1 to {NODES_PER_REGION_MAX}"
        )
    places = tuple(replace(place, number=number) for number, place in enumerate(_PLACES[:regions], 1))
    hosts = [_host(CONTROL_HOST, HostKind.CONTROL, "", 0, 10)]
    for place in places:
        for node in range(1, nodes_per_region + 1):
            answers = node == 1 and place.number <= NAME_SERVERS_MAX
            hosts.append(_host(f"{place.id}-{node}", HostKind.NODE, place.id, place.number, 10 + node, answers))
    hosts += [_host(f"client-{place.id}", HostKind.CLIENT, place.id, place.number, 100) for place in places]
    return Topology(lab, places, tuple(replace(host, number=number) for number, host in enumerate(hosts, 1)))


def _host(name: str, kind: HostKind, region: str, network: int, last: int, serves_dns: bool = False) -> Host:
    return Host(name, kind, region, 0, f"10.77.{network}.{last}", f"fd00:10:77:{network}::{last}", serves_dns)
