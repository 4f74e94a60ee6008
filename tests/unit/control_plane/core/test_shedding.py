"""Clients are sent elsewhere while a region is overloaded, and come back."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from control_plane.core.shedding import PERCENT_MAX, STEP_PERCENT, RegionLoad, shares

EU, US = RegionLoad("eu", 0.5, high=1.0, low=0.7), RegionLoad("us", 0.3)


def test_a_step_more_above_the_high_mark_a_step_fewer_below_the_low_one() -> None:
    assert shares([EU, US]) == {"eu": 0}, "one without marks sends nobody away"
    assert shares([replace(EU, load=1.1), US]) == {"eu": STEP_PERCENT}
    assert shares([replace(EU, load=0.9, percent=30), US]) == {"eu": 30}
    assert shares([replace(EU, load=0.6, percent=30), US]) == {"eu": 20}
    assert shares([replace(EU, load=9.0, percent=PERCENT_MAX), US]) == {"eu": PERCENT_MAX}


def test_load_is_not_passed_around() -> None:
    hot = replace(EU, load=2.0)
    assert shares([hot]) == {"eu": 0}, "there is nobody else"
    assert shares([hot, replace(US, load=0.9)]) == {"eu": 0}, "nobody else has room"
    assert shares([hot, replace(US, load=None)]) == {"eu": 0}, "nothing is known of the others"
    assert shares([hot, replace(US, high=1.0, load=0.5, percent=10)]) == {"eu": 0, "us": 0}
    assert shares([replace(hot, percent=20), replace(US, load=0.9)]) == {"eu": 20}, "those that left stay away"


def test_a_region_that_nobody_tells_of_is_left_to_its_orders() -> None:
    assert shares([replace(EU, load=None, percent=50), US]) == {}


@given(
    st.lists(
        st.builds(
            RegionLoad,
            st.uuids().map(str),
            st.none() | st.floats(0, 10),
            st.sampled_from([0.0, 0.5, 1.0]),
            st.sampled_from([0.0, 0.3]),
            st.integers(0, 9).map(lambda n: n * STEP_PERCENT),
        ),
        max_size=6,
    )
)
def test_one_step_at_a_time_and_never_everybody(regions: list[RegionLoad]) -> None:
    after = shares(regions)
    for region in regions:
        if region.region in after:
            assert abs(after[region.region] - region.percent) in (0, STEP_PERCENT)
            assert 0 <= after[region.region] <= PERCENT_MAX


@given(st.floats(1.0, 3.0), st.integers(0, 9))
def test_it_settles_where_the_load_is_between_the_marks(demand: float, percent: int) -> None:
    """`demand` is the load that all of its clients would make; the other region takes what leaves."""
    here = replace(EU, percent=percent * STEP_PERCENT)
    seen = []
    for _ in range(40):
        here = replace(here, load=demand * (100 - here.percent) / 100)
        here = replace(here, percent=shares([here, US])["eu"])
        seen.append(here.percent)
    assert len(set(seen[-10:])) == 1, seen
    assert demand * (100 - here.percent) / 100 <= 1.0
