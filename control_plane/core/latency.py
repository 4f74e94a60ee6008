"""From what edges measure of client networks to what DNS servers go by: few, steady numbers that rarely change.

Measures are averaged by connections, and the average forgets. What is published follows only when the average has
moved by more than its usual wandering, so that a round trip that goes up and down moves no client, and a table of
thousands of networks makes small deltas.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

NETWORKS_MAX: Final = 20_000
"""Published at most."""
GATHERED_MAX: Final = 40_000
SAMPLES_MIN: Final = 3
"""Connections before anything is said of a network."""
DAYS_MAX: Final = 2
"""So long a measure counts that nobody repeats; then the region is tried again."""
_HALF_LIFE_S: Final = 600.0
_WEIGHT_MAX: Final = 256.0
_MOVED_MS: Final = 3
_MOVED_SHARE: Final = 0.2
_PREFIX_BITS: Final = {4: 24, 6: 56}


@dataclass(frozen=True, slots=True)
class Measured:
    """The average of a network's round trips to a region in milliseconds, the connections that it stands for, and when
    the last of them was (steady clock)."""

    milliseconds: float
    weight: float
    at: float

    def with_more(self, milliseconds: float, samples: int, now: float) -> Measured:
        """The average with new measures; old ones weigh half after ten minutes."""
        kept = self.weight * 0.5 ** (max(0.0, now - self.at) / _HALF_LIFE_S)
        weight = kept + samples
        average = self.milliseconds + (milliseconds - self.milliseconds) * samples / weight
        return Measured(average, min(_WEIGHT_MAX, weight), now)


@dataclass(frozen=True, slots=True)
class Known:
    """What is published of a network and a region: milliseconds, and the day when it was last found so."""

    milliseconds: int
    day: int


Published = Mapping[str, Mapping[str, Known]]
"""By network, then by region id."""


def is_network(text: str) -> bool:
    """Whether it is a client network as edges tell them: an IPv4 /24 or an IPv6 /56, in its usual form."""
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        return False
    return network.prefixlen == _PREFIX_BITS[network.version] and str(network) == text


def part_of(network: str) -> str:
    """The part of the table that a network is in: of at most 512, so that a change sends a small part only."""
    address = ipaddress.ip_network(network).network_address
    return f"v{address.version}-{address.packed[0 if address.version == 4 else 3]}"


class Gathered:
    """What edges have said so far; the networks that were heard of last stay."""

    def __init__(self) -> None:
        self._networks: dict[str, dict[str, Measured]] = {}

    def __len__(self) -> int:
        return len(self._networks)

    def add(self, network: str, region: str, milliseconds: float, samples: int, now: float) -> None:
        """Clients of a network were measured at a region's edges."""
        regions = self._networks.pop(network, {})
        before = regions.get(region)
        samples = min(samples, int(_WEIGHT_MAX))
        fresh = Measured(milliseconds, float(samples), now)
        regions[region] = fresh if before is None else before.with_more(milliseconds, samples, now)
        self._networks[network] = regions
        if len(self._networks) > GATHERED_MAX:
            del self._networks[next(iter(self._networks))]

    def items(self) -> Iterator[tuple[str, Mapping[str, Measured]]]:
        """Networks and what was measured of them, heard of longest ago first."""
        return iter(self._networks.items())


def published(
    before: Published, gathered: Gathered, regions: frozenset[str], today: int, heard_since: float
) -> dict[str, dict[str, Known]]:
    """What is to be published now. `today` counts days from 1970; only measures since `heard_since` (steady clock) make
    something new of it."""
    result: dict[str, dict[str, Known]] = {}
    for network, known in before.items():
        held = {r: k for r, k in known.items() if r in regions and today - k.day <= DAYS_MAX}
        if held:
            result[network] = held
    for network, measured in gathered.items():
        for region, average in measured.items():
            if region in regions and average.weight >= SAMPLES_MIN and average.at >= heard_since:
                row = result.setdefault(network, {})
                row[region] = _moved(row.get(region), average.milliseconds, today)
    if len(result) > NETWORKS_MAX:
        newest = sorted(result, key=lambda network: max(known.day for known in result[network].values()), reverse=True)
        result = {network: result[network] for network in newest[:NETWORKS_MAX]}
    return result


def _moved(before: Known | None, milliseconds: float, today: int) -> Known:
    rounded = max(1, round(milliseconds))
    if before is None:
        return Known(rounded, today)
    margin = max(_MOVED_MS, _MOVED_SHARE * before.milliseconds)
    return Known(rounded if abs(milliseconds - before.milliseconds) > margin else before.milliseconds, today)
