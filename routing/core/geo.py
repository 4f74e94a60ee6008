"""From a client's address to its place, and from places to buckets: clients of one bucket get one answer.

Known networks of regions win (longest prefix first), then what a geo database says, then nothing. The scope of an
answer (RFC 7871, section 7.2.1) is the largest block around the address in which this map says the same.
"""

from __future__ import annotations

import ipaddress
import mmap
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from routing.core.model import Family, Latencies, Region
from routing.core.steering import distance_km, nearest_first

_BITS: Final = {Family.IPV4: 32, Family.IPV6: 128}
_CACHED_BITS: Final = {Family.IPV4: 24, Family.IPV6: 48}
_BUCKETS_MAX: Final = 60_000
_MEMO_MAX: Final = 100_000
_FILL_MAX: Final = 1 << 12
_TOP: Final = 1 << 16
_PAGE_ENTRIES: Final = 1 << 8
PAGE: Final = 1 << 31
MIXED: Final = 0xFFFF
_KM_STEP: Final = 100
"""Distances are told apart by so much: finer would only make more buckets."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a client is: degrees north and east, and how that is known."""

    latitude: float
    longitude: float
    country: str = ""
    region: str = ""
    source: str = ""
    continent: str = ""
    subdivision: str = ""
    """Of the country, by ISO 3166-2, as in US-CA."""


@dataclass(frozen=True, slots=True)
class Spot:
    """What a bucket stands for: its regions, nearest first, and, as far as the map tells that apart, its country,
    continent and subdivision, what was measured of it, and how far regions are, in the order of `order`."""

    order: tuple[str, ...] | None = None
    country: str = ""
    continent: str = ""
    subdivision: str = ""
    latencies: Latencies = ()
    distances_km: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Detail:
    """What a map tells apart besides the order of regions: no more than policies ask for, for it makes buckets."""

    by_country: bool = False
    by_distance: bool = False
    latencies: tuple[tuple[tuple[str, Latencies], ...], ...] = ()
    """Client networks and what was measured of them, part by part."""


GeoLookup = Callable[[str], tuple[Place | None, int]]
"""The place of an address in text form, None when unknown, and the prefix length of the block that it holds for."""


def no_geo(address: str) -> tuple[Place | None, int]:
    """The lookup of a server without a geo database."""
    return None, 0


@dataclass(frozen=True, slots=True)
class Locus:
    """What the map says of an address: its place, the prefix length of the block in which all of this holds, and what
    was measured of it."""

    place: Place | None
    scope_bits: int
    latencies: Latencies = ()


class PlaceMap:
    """The map for one set of regions and one geo database.

    What it answers depends on nothing else; tables and memos only make it fast. Bucket 0 is "place unknown".
    """

    def __init__(self, regions: Mapping[str, Region], lookup: GeoLookup, detail: Detail | None = None):
        self._detail = detail or Detail()
        self._regions = dict(regions)
        self._lookup = lookup
        owned = [(network, region) for region in sorted(regions) for network in regions[region].networks]
        measured = [row for part in self._detail.latencies for row in part]
        self._ranges = {family: _flatten(owned, family, "") for family in Family}
        self._measured = {family: _flatten(measured, family, ()) for family in Family}
        self._spots: list[Spot] = [Spot()]
        self._bucket_of_spot: dict[Spot, int] = {Spot(): 0}
        self._bucket_of_locus: dict[tuple[Place | None, Latencies], int] = {}
        for region in sorted(regions):
            here = regions[region]
            self._intern(Spot(nearest_first(here.latitude, here.longitude, regions, region)))
        ranges = (*self._ranges.values(), *self._measured.values())
        self._trivial = lookup is no_geo and not any(starts for starts, _ in ranges)
        # Zeroed by the kernel page by page, so memory is used only where clients are.
        size = 8 if self._trivial else 4 * _TOP * (1 + _PAGE_ENTRIES)
        self._table = memoryview(mmap.mmap(-1, size)).cast("I")
        self._table_used = _TOP
        self._memo: dict[bytes, tuple[int, int]] = {}

    @property
    def table_v4(self) -> memoryview[int] | None:
        """Entries by /16, and behind them pages of entries by /24; None when every place is alike.

        An entry holds bucket + 1, and the scope above that (16 bits each); it is 0 when it is not known so far, MIXED
        when the /24 is in several places, and, by /16, PAGE + where its page begins. It is filled in place as places
        are asked for: most of the internet is told apart by /16 or less, so that what is in use stays in the
        processor's cache.
        """
        return None if self._trivial else self._table

    def spot(self, bucket: int) -> Spot:
        """What a bucket stands for."""
        return self._spots[bucket]

    def bucket_v4(self, address: bytes) -> tuple[int, int]:
        """Bucket and scope for the 4 bytes of an IPv4 address."""
        if self._trivial:
            return 0, 0
        entry = self._table[address[0] << 8 | address[1]]
        if entry >= PAGE:
            entry = self._table[entry - PAGE + address[2]]
        if entry and entry != MIXED:
            return (entry & 0xFFFF) - 1, entry >> 16
        return self._slow_v4(address)

    def bucket_v6(self, address: bytes) -> tuple[int, int]:
        """The same for the 16 bytes of an IPv6 address."""
        if self._trivial:
            return 0, 0
        found = self._memo.get(address[:6])
        if found is not None:
            return found
        locus = self.locate(address)
        found = self._bucket_of(locus), locus.scope_bits
        if locus.scope_bits <= _CACHED_BITS[Family.IPV6]:
            if len(self._memo) >= _MEMO_MAX:
                self._memo.clear()
            self._memo[address[:6]] = found
        return found

    def locate(self, address: bytes) -> Locus:
        """What the map says of a packed address of 4 or 16 bytes, without any memo."""
        family = Family.IPV4 if len(address) == 4 else Family.IPV6
        number = int.from_bytes(address, "big")
        owner, bits = _look_up(self._ranges[family], number, family, "")
        latencies, measured_bits = _look_up(self._measured[family], number, family, ())
        bits = max(bits, measured_bits)
        if owner:
            here = self._regions[owner]
            known = Place(here.latitude, here.longitude, here.country, owner, "networks", here.continent)
            return Locus(known, bits, latencies)
        place, known_bits = self._lookup(str(ipaddress.ip_address(address)))
        return Locus(place, max(bits, known_bits), latencies)

    def _slow_v4(self, address: bytes) -> tuple[int, int]:
        locus = self.locate(address)
        bucket, bits = self._bucket_of(locus), locus.scope_bits
        top, entry = address[0] << 8 | address[1], bits << 16 | (bucket + 1)
        if bits <= 16:
            count = min(1 << (16 - bits), _FILL_MAX)
            self._fill(top & -count, count, entry)
            return bucket, bits
        if self._table[top] < PAGE:
            self._table[top] = PAGE + self._table_used
            self._table_used += _PAGE_ENTRIES
        page = self._table[top] - PAGE
        if bits > _CACHED_BITS[Family.IPV4]:
            self._table[page + address[2]] = MIXED
        else:
            count = 1 << (24 - bits)
            self._fill(page + (address[2] & -count), count, entry)
        return bucket, bits

    def _fill(self, start: int, count: int, entry: int) -> None:
        self._table[start : start + count] = memoryview(array("I", [entry]) * count)

    def _bucket_of(self, locus: Locus) -> int:
        key = locus.place, locus.latencies
        bucket = self._bucket_of_locus.get(key)
        if bucket is None:
            bucket = self._intern(self._spot_of(locus))
            if len(self._bucket_of_locus) >= _MEMO_MAX:
                self._bucket_of_locus.clear()
            self._bucket_of_locus[key] = bucket
        return bucket

    def _spot_of(self, locus: Locus) -> Spot:
        place, detail = locus.place, self._detail
        latencies = tuple(entry for entry in locus.latencies if entry[0] in self._regions)
        if place is None:
            return Spot(latencies=latencies)
        order = nearest_first(place.latitude, place.longitude, self._regions, place.region)
        km: tuple[int, ...] = ()
        # What was not measured is guessed from the distance, so that both go together.
        if detail.by_distance or latencies:
            far = (distance_km(place.latitude, place.longitude, self._regions[region]) for region in order)
            km = tuple(round(distance / _KM_STEP) * _KM_STEP for distance in far)
        if not detail.by_country:
            return Spot(order, latencies=latencies, distances_km=km)
        return Spot(order, place.country, place.continent, place.subdivision, latencies, km)

    def _intern(self, spot: Spot) -> int:
        """The bucket of a spot; when there are too many, that of the nearest region's own place."""
        bucket = self._bucket_of_spot.get(spot)
        if bucket is not None:
            return bucket
        if len(self._spots) >= _BUCKETS_MAX:
            nearest = (spot.order or ("",))[0]
            alike = (b for b in range(1, len(self._spots)) if (self._spots[b].order or ("",))[0] == nearest)
            return next(alike, 0)
        self._spots.append(spot)
        self._bucket_of_spot[spot] = len(self._spots) - 1
        return len(self._spots) - 1


Ranges = tuple[Sequence[int], Sequence[T]]
"""Adjoining ranges of addresses: where each starts, and what it belongs to."""


def _flatten(rows: Iterable[tuple[str, T]], family: Family, nothing: T) -> Ranges[T]:
    """Networks and what they belong to as adjoining ranges; of networks within each other the longest prefix counts."""
    networks = []
    for text, owner in rows:
        network = ipaddress.ip_network(text)
        if network.version == family.value:
            networks.append((network.prefixlen, int(network.network_address), owner))
    if not networks:
        return [], []
    edges = {0}
    for bits, start, _ in networks:
        edges |= {start, start + (1 << (_BITS[family] - bits))}
    edges.discard(1 << _BITS[family])
    starts = sorted(edges)
    owners = [nothing] * len(starts)
    for bits, start, owner in sorted(networks, key=lambda item: item[0]):
        first = bisect_right(starts, start) - 1
        last = bisect_right(starts, start + (1 << (_BITS[family] - bits)) - 1)
        owners[first:last] = [owner] * (last - first)
    return starts, owners


def _look_up(ranges: Ranges[T], number: int, family: Family, nothing: T) -> tuple[T, int]:
    """What an address belongs to, and the prefix length of the largest block around it within the same range."""
    starts, owners = ranges
    at = bisect_right(starts, number) - 1
    low = starts[at] if at >= 0 else 0
    high = (starts[at + 1] if at + 1 < len(starts) else 1 << _BITS[family]) - 1
    return owners[at] if at >= 0 else nothing, _block_bits(number, low, high, _BITS[family])


def _block_bits(number: int, low: int, high: int, width: int) -> int:
    """Prefix length of the largest block around `number` that lies within `low` and `high`."""
    for bits in range(width + 1):
        size = 1 << (width - bits)
        start = number & -size
        if low <= start and start + size - 1 <= high:
            return bits
    return width
