"""The order in which other nodes are tried: the own region first, then region by region, nearest first."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, Protocol, TypeVar
from zlib import crc32

EARTH_RADIUS_KM: Final = 6371.0088
NEAR_MAX: Final = 16
"""So many others of its own region an edge may ask."""
FEW_MAX: Final = 8
"""So many of each other region."""
REGIONS_MAX: Final = 6
"""So many other regions, the nearest that have an app."""


@dataclass(frozen=True, slots=True)
class Place:
    """Degrees north and east."""

    latitude: float
    longitude: float


def distance_km(a: Place, b: Place) -> float:
    """Great-circle distance (haversine formula)."""
    north_a, north_b = math.radians(a.latitude), math.radians(b.latitude)
    half_north = (north_b - north_a) / 2
    half_east = math.radians(b.longitude - a.longitude) / 2
    h = math.sin(half_north) ** 2 + math.cos(north_a) * math.cos(north_b) * math.sin(half_east) ** 2
    return 2 * EARTH_RADIUS_KM * math.asin(min(1.0, math.sqrt(h)))


def region_order(own: str, places: Mapping[str, Place]) -> dict[str, int]:
    """Each region's rank as seen from `own`: 0 for itself, then by distance, then by id."""
    here = places.get(own, Place(0.0, 0.0))
    ordered = sorted(places, key=lambda region: (region != own, distance_km(here, places[region]), region))
    return {region: rank for rank, region in enumerate(ordered)}


class _Named(Protocol):
    @property
    def node(self) -> str: ...


P = TypeVar("P", bound=_Named)


def some_of(peers: Sequence[P], salt: str, count: int, but: str = "") -> Iterator[P]:
    """At most `count` of the peers, which are in the order of their nodes' ids, without the one of the node `but`.

    All of them, in their order, when they are so few; else those that follow `but`, or a place that `salt` gives, in a
    ring: everyone is asked by as many others, and one that comes or goes concerns only these.
    """
    if len(peers) <= count:
        yield from (peer for peer in peers if peer.node != but)
        return
    at = bisect_right(peers, but, key=lambda peer: peer.node) if but else crc32(salt.encode()) % len(peers)
    ring = (peers[(at + step) % len(peers)] for step in range(len(peers)))
    yield from islice((peer for peer in ring if peer.node != but), count)
