"""Which slots an app wants."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from control_plane.core.manifest import Placement
from control_plane.core.model import Replica
from control_plane.core.placement import wanted_slots
from control_plane.core.tiers import Place, distance_km, region_order
from tests.unit.control_plane.core.fleet import node


def replica(ordinal: int, region: str, on: str = "n") -> Replica:
    return Replica(ordinal, 1, "h", region, on, 0.0)


def test_total_is_spread_over_regions_that_have_nodes() -> None:
    nodes = [node("a", "eu"), node("b", "us"), node("c", "ap", cordoned=True)]
    slots = wanted_slots(Placement(total=3, lost_after_s=30.0), "service", ["ap", "eu", "us"], nodes, [])
    assert Counter(s.region for s in slots) == {"eu": 2, "us": 1}


def test_a_new_region_takes_the_lowest_free_ordinal() -> None:
    held = [replica(0, "eu"), replica(2, "us")]
    slots = wanted_slots(Placement(per_region=1), "service", ["eu", "us", "ap"], [], held)
    assert [(s.ordinal, s.region) for s in slots] == [(0, "eu"), (1, "ap"), (2, "us")]


regions = st.sampled_from(["eu", "us", "ap"])


@given(
    held=st.dictionaries(st.integers(0, 12), regions, max_size=12),
    allowed=st.sets(regions, min_size=1),
    count=st.integers(1, 4),
)
def test_slots_are_exact_stable_and_keep_ordinals(held: dict[int, str], allowed: set[str], count: int) -> None:
    replicas = [replica(ordinal, region) for ordinal, region in held.items()]
    placement = Placement(per_region=count)
    slots = wanted_slots(placement, "service", allowed, [], replicas)
    assert Counter(s.region for s in slots) == dict.fromkeys(allowed, count)
    assert len({s.ordinal for s in slots}) == len(slots)
    kept = [s for s in slots if held.get(s.ordinal) == s.region]
    possible = sum(min(count, sum(1 for r in held.values() if r == region)) for region in allowed)
    assert len(kept) == possible
    again = wanted_slots(placement, "service", allowed, [], [replica(s.ordinal, s.region) for s in slots])
    assert again == slots
    assert wanted_slots(placement, "service", allowed, [], list(reversed(replicas))) == slots


def test_regions_are_ordered_by_distance() -> None:
    places = {"fra": Place(50.1, 8.7), "nyc": Place(40.7, -74.0), "sin": Place(1.35, 103.8), "lon": Place(51.5, -0.1)}
    assert region_order("fra", places) == {"fra": 0, "lon": 1, "nyc": 2, "sin": 3}
    assert 6180 < distance_km(places["fra"], places["nyc"]) < 6230
