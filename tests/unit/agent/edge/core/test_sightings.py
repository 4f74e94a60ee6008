"""Round trips by client network, and what came of requests that were passed on."""

from __future__ import annotations

import struct

import pytest

from agent.edge.core import sightings
from agent.edge.core.sightings import Pass, RoundTrip, RoundTrips, passes, round_trip_us


def test_where_the_kernel_keeps_the_round_trip() -> None:
    assert round_trip_us(bytes(68) + struct.pack("<I", 12_345) + bytes(100)) == 12_345
    assert round_trip_us(bytes(70)) == 0


def test_an_average_by_network() -> None:
    trips = RoundTrips()
    for address, micros in ((b"203.0.113.7", 10_000), (b"203.0.113.200", 20_000), (b"198.51.100.1", 5_000)):
        trips.add(address, micros)
    trips.add(b"2001:db8:0:1ff::7", 30_000)
    trips.add(b"2001:db8:0:100::", 30_000)
    trips.add(b"::ffff:203.0.113.9", 15_000)
    assert trips.take(9) == [
        RoundTrip("203.0.113.0/24", 15_000, 3),
        RoundTrip("2001:db8:0:100::/56", 30_000, 2),
        RoundTrip("198.51.100.0/24", 5_000, 1),
    ]
    assert trips.take(9) == []


def test_the_average_follows() -> None:
    trips = RoundTrips()
    for micros in [10_000] * 50 + [90_000] * 20:
        trips.add(b"203.0.113.7", micros)
    (found,) = trips.take(1)
    assert 85_000 < found.microseconds <= 90_000


def test_so_many_networks_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sightings, "NETWORKS_MAX", 3)
    trips = RoundTrips()
    for n in range(9):
        trips.add(b"10.0.%d.1" % n, 1000)
    trips.add(b"10.0.2.9", 1000)
    assert [trip.network for trip in trips.take(2)] == ["10.0.2.0/24", "10.0.0.0/24"]


def test_what_is_new_of_passed_requests() -> None:
    told: dict[str, tuple[int, int]] = {}
    assert passes([("us-1", 3, 0, ""), ("us-2", 0, 2, "refused")], told) == [
        Pass("us-1", 3, 0),
        Pass("us-2", 0, 2, "refused"),
    ]
    assert passes([("us-1", 3, 0, ""), ("us-2", 1, 2, "refused")], told) == [Pass("us-2", 1, 0, "refused")]
    assert passes([("us-1", 1, 0, "")], told) == [Pass("us-1", 1, 0)], "it began anew"
    assert told == {"us-1": (1, 0)}
