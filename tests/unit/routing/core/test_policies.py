"""Weights, rules by place, bias, and what operators order."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.core.geo import Detail, Place, PlaceMap
from routing.core.model import (
    Family,
    GeoRule,
    Hostname,
    Override,
    OverrideMode,
    Policy,
    Region,
    TargetKey,
)
from routing.core.overrides import Orders, orders_at, with_returning
from routing.core.steering import SLOTS, Client, Outcome, decide, nearest_first, slot_of
from tests.unit.routing.tables import AP, EU, EVERYWHERE, US, everything, regions

ALL = regions()
ROTATION = everything(ALL)


def answer(
    hostname: Hostname, client: Client, rotation: frozenset[TargetKey] = ROTATION, **more: frozenset[str]
) -> str:
    """The one region of an answer."""
    (region,) = decide(hostname, ALL, client, rotation, Family.IPV4, **more).regions
    return region


def shares(hostname: Hostname, rotation: frozenset[TargetKey] = ROTATION) -> Counter[str]:
    return Counter(answer(hostname, Client(slot=slot), rotation) for slot in range(SLOTS))


def weighted(**weights: int) -> Hostname:
    return Hostname("h", policy=Policy.WEIGHTED, replicas=EVERYWHERE, weights=tuple(weights.items()))


def without(region: str) -> frozenset[TargetKey]:
    return frozenset(key for key in ROTATION if not key[0].startswith(region))


def test_shares_follow_weights() -> None:
    found = shares(weighted(eu=2, us=1, ap=1))
    assert 95 <= found[EU] <= 161
    assert 40 <= found[US] <= 90
    assert sum(found.values()) == SLOTS


def test_weight_0_is_for_when_nothing_else_is_left() -> None:
    hostname = weighted(eu=0, us=1, ap=1)
    assert shares(hostname)[EU] == 0
    only_eu = frozenset(key for key in ROTATION if key[0].startswith(EU))
    assert shares(hostname, only_eu) == {EU: SLOTS}


@given(st.sampled_from([EU, US, AP]), st.integers(0, SLOTS - 1))
def test_only_clients_of_a_lost_region_move(lost: str, slot: int) -> None:
    hostname = weighted(eu=3, us=2, ap=1)
    before, after = answer(hostname, Client(slot=slot)), answer(hostname, Client(slot=slot), without(lost))
    assert after != lost
    assert before in (after, lost)


RULES = (
    GeoRule(("DE", "FR"), (EU, US)),
    GeoRule(("continent:AS",), (AP,)),
    GeoRule(("*",), (US,)),
)
GEO = Hostname("h", policy=Policy.GEO, replicas=EVERYWHERE, geo=RULES)


@pytest.mark.parametrize(
    ("country", "continent", "lost", "expected"),
    [
        ("DE", "EU", "", EU),
        ("DE", "EU", EU, US),
        ("JP", "AS", "", AP),
        ("JP", "AS", AP, EU),
        ("BR", "SA", "", US),
        ("", "", "", US),
    ],
)
def test_the_first_rule_that_matches_counts(country: str, continent: str, lost: str, expected: str) -> None:
    client = Client((EU, US, AP), country, continent)
    assert answer(GEO, client, without(lost) if lost else ROTATION) == expected


def test_a_subdivision_is_told_from_its_country() -> None:
    hostname = replace(GEO, geo=(GeoRule(("US-CA",), (AP,)), GeoRule(("US",), (US,)), GeoRule(("*",), (EU,))))
    assert answer(hostname, Client((EU, US, AP), "US", "NA", subdivision="US-CA")) == AP
    assert answer(hostname, Client((EU, US, AP), "US", "NA", subdivision="US-NY")) == US
    assert answer(hostname, Client((EU, US, AP), "US", "NA")) == US
    assert answer(hostname, Client((EU, US, AP), "CA", "NA")) == EU


def test_without_a_rule_the_nearest_serves() -> None:
    hostname = replace(GEO, geo=RULES[:1])
    assert answer(hostname, Client((AP, US, EU), "JP", "AS")) == AP
    assert len(decide(hostname, ALL, Client(), ROTATION, Family.IPV4).regions) == 3


def test_a_map_by_country_tells_neighbours_apart() -> None:
    def lookup(address: str) -> tuple[Place | None, int]:
        return Place(50.0, 8.0, "DE" if address.startswith("198.") else "FR", "", "test", "EU"), 24

    by_country = PlaceMap(ALL, lookup, Detail(by_country=True))
    german, french = (by_country.bucket_v4(bytes((n, 0, 0, 1)))[0] for n in (198, 199))
    assert by_country.spot(german).country == "DE"
    assert by_country.spot(french).country == "FR"
    plain = PlaceMap(ALL, lookup)
    assert len({plain.bucket_v4(bytes((n, 0, 0, 1)))[0] for n in (198, 199)}) == 1


def test_bias_makes_a_region_nearer() -> None:
    assert nearest_first(50.0, 8.0, ALL)[0] == EU
    biased = ALL | {US: replace(ALL[US], bias_km=10_000)}
    assert nearest_first(50.0, 8.0, biased)[0] == US


def ordered(mode: OverrideMode, *nodes: str, percent: int = 100, until_s: float = 100.0) -> dict[str, Region]:
    """The regions, with an order about some nodes."""
    order = Override(mode, until_s, percent)
    return {
        name: replace(r, edges=tuple(replace(e, override=order if e.node in nodes else None) for e in r.edges))
        for name, r in ALL.items()
    }


NEAR_EU = Hostname("h", replicas=EVERYWHERE)


def test_an_order_holds_until_its_time_is_over() -> None:
    out = ordered(OverrideMode.OUT, "eu-1")
    assert orders_at(out, 99.9).outs == {"eu-1"}
    assert orders_at(out, 100.0) == Orders()
    rotation = orders_at(out, 0).rotation(ROTATION, out)
    assert decide(NEAR_EU, out, Client((EU, US, AP)), rotation, Family.IPV4).regions == (US,)


def test_in_overrules_probes() -> None:
    forced = ordered(OverrideMode.IN, "eu-1")
    rotation = orders_at(forced, 0).rotation(without(EU), forced)
    assert decide(NEAR_EU, forced, Client((EU, US, AP)), rotation, Family.IPV4).regions == (EU,)


def test_everything_ordered_out_is_answered_all_the_same() -> None:
    nothing = ordered(OverrideMode.OUT, "eu-1", "us-1", "ap-1")
    rotation = orders_at(nothing, 0).rotation(ROTATION, nothing)
    decision = decide(NEAR_EU, nothing, Client((EU, US, AP)), rotation, Family.IPV4)
    assert decision.outcome is Outcome.FAIL_OPEN
    assert len(decision.addresses) == 3
    two = ordered(OverrideMode.OUT, "eu-1", "us-1")
    only_ap_failing = orders_at(two, 0).rotation(without(AP), two)
    decision = decide(NEAR_EU, two, Client((EU, US, AP)), only_ap_failing, Family.IPV4)
    assert decision.addresses == ("192.0.2.31",)


@given(st.integers(1, 99))
def test_a_drain_moves_its_share_and_grows_over_the_same_clients(percent: int) -> None:
    def moved(share: int) -> set[int]:
        orders = orders_at(ordered(OverrideMode.DRAIN, "eu-1", percent=share), 0)
        client = Client((EU, US, AP))
        return {slot for slot in range(SLOTS) if answer(NEAR_EU, client, drained=orders.drained(slot, SLOTS)) != EU}

    assert abs(len(moved(percent)) - percent * SLOTS / 100) <= 1
    assert moved(percent) <= moved(percent + 1)


def test_a_drained_region_serves_when_nothing_else_can() -> None:
    only_eu = frozenset(key for key in ROTATION if key[0].startswith(EU))
    assert answer(NEAR_EU, Client((EU, US, AP)), only_eu, drained=frozenset({"eu-1"})) == EU


def test_slots_go_by_network() -> None:
    assert slot_of(bytes((198, 51, 100, 1))) == slot_of(bytes((198, 51, 100, 200)))
    assert len({slot_of(n.to_bytes(4, "big")) for n in range(0, 1 << 20, 256)}) == SLOTS


@pytest.mark.parametrize(
    ("at_s", "share"),
    [(1000, 0), (1001, 0), (1030, 15), (1100, 50), (1199, 95), (1200, 100), (1400, 100), (1500, 50), (1599, 0)],
)
def test_a_slow_drain_grows_and_ends_bit_by_bit(at_s: float, share: int) -> None:
    order = Override(OverrideMode.DRAIN, 1600, 100, begin_at=1000, over_s=200)
    assert order.share_at(at_s) == share
    assert replace(order, over_s=0).share_at(at_s) == 100
    of = {EU: replace(ALL[EU], edges=tuple(replace(edge, override=order) for edge in ALL[EU].edges))}
    assert orders_at(of, at_s).drains == (((f"{EU}-1", share),) if share else ())


def test_an_edge_that_returns_is_spared_unless_an_order_is_about_it() -> None:
    assert with_returning(Orders(), {"a": 90}).drains == (("a", 90),)
    assert with_returning(Orders(drains=(("a", 20),)), {"a": 90, "b": 10}).drains == (("a", 20), ("b", 10))
    assert with_returning(Orders(ins=frozenset({"a"})), {"a": 90}).drains == ()
