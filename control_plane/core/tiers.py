"""The order in which other nodes are tried: the own region first, then region by region, nearest first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

EARTH_RADIUS_KM: Final = 6371.0088


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
