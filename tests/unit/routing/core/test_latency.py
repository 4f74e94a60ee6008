"""The policy `latency`, filters in a row, and the map that tells measured networks apart."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.core.geo import Detail, Place, PlaceMap, no_geo
from routing.core.latency import expected, fast_enough
from routing.core.model import Family, GeoRule, Hostname, Latencies, Policy, TargetKey
from routing.core.steering import Client, Decision, decide
from tests.unit.routing.tables import AP, EU, EVERYWHERE, US, everything, regions

ALL = regions()
ROTATION = everything(ALL)
LATENCY = Hostname("h", policy=Policy.LATENCY, replicas=EVERYWHERE)
BERLIN = Client((EU, US, AP), latencies=((EU, 90), (US, 30), (AP, 250)), distances_km=(400, 6400, 8900))
"""Near Frankfurt, and its packets go by New York."""


def without(*lost: str) -> frozenset[TargetKey]:
    return frozenset(key for key in ROTATION if not key[0].startswith(lost))


def chosen(hostname: Hostname, client: Client, rotation: frozenset[TargetKey] = ROTATION) -> tuple[str, ...]:
    return decide(hostname, ALL, client, rotation, Family.IPV4).regions


def notes(decision: Decision) -> str:
    return "\n".join(f"{step.filter}: {step.note} {step.dropped}" for step in decision.steps)


def test_the_fastest_region_is_answered() -> None:
    assert chosen(LATENCY, BERLIN) == (US,)
    assert chosen(LATENCY, BERLIN, without(US)) == (EU,)
    assert chosen(LATENCY, BERLIN, without(US, EU)) == (AP,)
    assert "fastest first: us 30 ms, eu 90 ms, ap 250 ms" in notes(decide(LATENCY, ALL, BERLIN, ROTATION, Family.IPV4))


def test_where_nothing_was_measured_the_nearest_serves() -> None:
    assert chosen(LATENCY, replace(BERLIN, latencies=())) == (EU,)
    assert set(chosen(LATENCY, Client())) == {EU, US, AP}


@pytest.mark.parametrize(("eu_ms", "expected_region"), [(30, EU), (39, EU), (40, EU), (41, US)])
def test_of_regions_about_as_fast_the_nearest_serves(eu_ms: int, expected_region: str) -> None:
    client = replace(BERLIN, latencies=((EU, eu_ms), (US, 30), (AP, 250)))
    assert chosen(LATENCY, client) == (expected_region,)


def test_a_region_that_was_not_measured_is_tried_where_it_may_be_the_fastest() -> None:
    """Measured only where it was sent to: 250 ms, though it is said to be 89 ms of light from AP and 4 from EU."""
    client = replace(BERLIN, latencies=((AP, 250),))
    assert chosen(LATENCY, client) == (EU,)
    # Once measured it keeps its clients: New York, 64 ms away at least, cannot be so much faster.
    assert chosen(LATENCY, replace(BERLIN, latencies=((AP, 250), (EU, 70)))) == (EU,)
    assert chosen(LATENCY, replace(BERLIN, latencies=((AP, 250), (EU, 200)))) == (US,)


@given(
    st.lists(st.tuples(st.sampled_from([EU, US, AP]), st.integers(1, 400)), max_size=3, unique_by=lambda x: x[0]),
    st.dictionaries(st.sampled_from([EU, US, AP]), st.integers(0, 20_000)),
    st.sets(st.sampled_from([EU, US, AP]), min_size=1),
    st.integers(0, 50),
)
def test_there_is_always_one_that_is_fast_enough(
    latencies: list[tuple[str, int]], km: dict[str, int], candidates: set[str], within_ms: int
) -> None:
    times = expected(tuple(latencies), km)
    fit = fast_enough(times, candidates, within_ms)
    assert fit <= candidates
    assert bool(fit) == bool(candidates & times.keys())


def test_jitter_within_the_margin_moves_nobody() -> None:
    """What is measured wanders by a few milliseconds each hour; answers must not."""
    answers = {
        chosen(LATENCY, replace(BERLIN, latencies=((EU, 31 + n % 7), (US, 33 - n % 5), (AP, 250)))) for n in range(35)
    }
    assert answers == {(EU,)}


RULES = (GeoRule(("continent:EU",), (EU, US)), GeoRule(("*",), (AP,)))
CHAIN = Hostname(
    "h",
    policy=Policy.WEIGHTED,
    replicas=EVERYWHERE,
    weights=((EU, 1), (US, 1)),
    geo=RULES,
    filters=(Policy.GEO, Policy.LATENCY),
)


def test_filters_narrow_what_the_policy_draws_from() -> None:
    client = replace(BERLIN, continent="EU", latencies=((EU, 30), (US, 35), (AP, 20)))
    drawn = {chosen(CHAIN, replace(client, slot=slot)) for slot in range(64)}
    assert drawn == {(EU,), (US,)}
    slow = replace(client, latencies=((EU, 30), (US, 90)))
    assert {chosen(CHAIN, replace(slow, slot=slot)) for slot in range(64)} == {(EU,)}
    # What a filter would leave is out of rotation: it is passed over, and somebody is answered.
    assert chosen(CHAIN, client, without(EU, US)) == (AP,)
    explained = notes(decide(CHAIN, ALL, slow, ROTATION, Family.IPV4))
    assert "filter geo:  (('ap', \"not in the rule for the client's place\"),)" in explained
    assert "filter latency:  (('us', 'slower than the fastest'),)" in explained


def test_jurisdiction_comes_before_every_filter() -> None:
    law = replace(CHAIN, jurisdictions=(AP,))
    assert {chosen(law, replace(BERLIN, continent="EU", slot=slot)) for slot in range(16)} == {(AP,)}
    assert chosen(law, BERLIN, without(AP)) == (AP,)


def test_about_as_near() -> None:
    near = Hostname("h", policy=Policy.ALL, replicas=EVERYWHERE, filters=(Policy.NEAREST,), nearest_within_km=6000)
    assert set(chosen(near, BERLIN)) == {EU, US}
    assert set(chosen(replace(near, nearest_within_km=500), BERLIN)) == {EU}
    assert set(chosen(near, BERLIN, without(EU))) == {US, AP}
    assert set(chosen(near, Client())) == {EU, US, AP}


def test_without_a_weight_a_region_is_left_out_until_nothing_else_is_left() -> None:
    hostname = replace(CHAIN, policy=Policy.ALL, filters=(Policy.WEIGHTED,), weights=((EU, 0),))
    assert set(chosen(hostname, BERLIN)) == {US, AP}
    assert set(chosen(hostname, BERLIN, without(US, AP))) == {EU}


MEASURED: Latencies = ((EU, 30), (US, 90))


def test_the_map_tells_measured_networks_apart() -> None:
    detail = Detail(
        latencies=((("10.1.7.0/24", MEASURED),), (("2001:db8:1:100::/56", MEASURED), ("203.0.113.0/24", ())))
    )
    of = PlaceMap(ALL, no_geo, detail)
    inside = of.locate(bytes((10, 1, 7, 9)))
    assert (inside.latencies, inside.scope_bits, inside.place is not None) == (MEASURED, 24, True)
    # The block around a neighbour ends where the measured network begins.
    assert of.locate(bytes((10, 1, 6, 9))).scope_bits == 24
    assert of.locate(bytes((10, 1, 200, 1))).scope_bits == 17
    bucket, scope = of.bucket_v4(bytes((10, 1, 7, 0)))
    assert (of.spot(bucket).latencies, scope) == (MEASURED, 24)
    assert of.spot(bucket).distances_km[0] == 0
    assert of.spot(of.bucket_v4(bytes((10, 1, 8, 0)))[0]).latencies == ()
    six = bytes.fromhex("20010db8000101ff") + bytes(8)
    assert (of.locate(six).latencies, of.locate(six).scope_bits) == (MEASURED, 56)
    assert of.spot(of.bucket_v6(six)[0]).latencies == MEASURED


def test_measured_where_no_place_is_known() -> None:
    detail = Detail(latencies=((("203.0.113.0/24", ((EU, 30), ("gone", 1))),),))
    of = PlaceMap(ALL, lambda _: (None, 0), detail)
    spot = of.spot(of.bucket_v4(bytes((203, 0, 113, 5)))[0])
    assert (spot.order, spot.latencies) == (None, ((EU, 30),))
    assert chosen(LATENCY, Client(spot.order, latencies=spot.latencies)) == (EU,)
    assert of.bucket_v4(bytes((203, 0, 114, 5)))[0] == 0


def test_distances_are_told_apart_only_where_a_filter_asks() -> None:
    paris, lyon = Place(48.9, 2.3), Place(45.8, 4.8)

    def lookup(address: str) -> tuple[Place | None, int]:
        return (paris if address.startswith("198.") else lyon), 8

    plain, told = PlaceMap(ALL, lookup), PlaceMap(ALL, lookup, Detail(by_distance=True))
    assert plain.bucket_v4(bytes((198, 0, 0, 0)))[0] == plain.bucket_v4(bytes((199, 0, 0, 0)))[0]
    assert told.bucket_v4(bytes((198, 0, 0, 0)))[0] != told.bucket_v4(bytes((199, 0, 0, 0)))[0]
