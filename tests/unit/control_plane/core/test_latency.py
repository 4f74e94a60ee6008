"""Averages that forget, and a table that follows them only when they have really moved."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.core import latency
from control_plane.core.latency import Gathered, Known, Measured, is_network, part_of, published

NET, SIX = "203.0.113.0/24", "2001:db8:0:100::/56"
HERE = frozenset({"eu", "us"})


def gathered(*rows: tuple[str, str, float, int]) -> Gathered:
    result = Gathered()
    for network, region, milliseconds, samples in rows:
        result.add(network, region, milliseconds, samples, 100.0)
    return result


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        (NET, True),
        (SIX, True),
        ("203.0.113.0/25", False),
        ("203.0.113.1/24", False),
        ("2001:db8::/48", False),
        ("2001:DB8:0:100::/56", False),
        ("0.0.0.0/0", False),
        ("nonsense", False),
        ("", False),
    ],
)
def test_what_is_a_client_network(text: str, is_one: bool) -> None:
    assert is_network(text) == is_one


def test_an_average_goes_by_connections_and_forgets() -> None:
    first = Measured(10.0, 10.0, 0.0)
    assert first.with_more(20.0, 10, 0.0).milliseconds == pytest.approx(15.0)
    assert first.with_more(20.0, 10, 600.0).milliseconds == pytest.approx(10 + 10 * 10 / 15)
    assert first.with_more(20.0, 10, 36_000.0).milliseconds == pytest.approx(20.0, abs=0.1)


def test_few_connections_say_nothing() -> None:
    assert published({}, gathered((NET, "eu", 12.0, 2)), HERE, 5, 0.0) == {}
    assert published({}, gathered((NET, "eu", 12.4, 3)), HERE, 5, 0.0) == {NET: {"eu": Known(12, 5)}}


@given(st.lists(st.floats(33, 47), min_size=1, max_size=40))
def test_what_wanders_about_its_usual_place_changes_nothing(found: list[float]) -> None:
    """Within a fifth the table stays as it is: no delta, and no client moves."""
    before = {NET: {"eu": Known(40, 5)}}
    for milliseconds in found:
        before = published(before, gathered((NET, "eu", milliseconds, 50)), HERE, 5, 0.0)
        assert before == {NET: {"eu": Known(40, 5)}}


def test_what_has_moved_is_followed() -> None:
    before = {NET: {"eu": Known(40, 5), "us": Known(2, 5)}}
    after = published(before, gathered((NET, "eu", 90.2, 50), (NET, "us", 4.9, 50)), HERE, 6, 0.0)
    assert after == {NET: {"eu": Known(90, 6), "us": Known(2, 6)}}


def test_what_nobody_measures_any_more_is_forgotten() -> None:
    before = {NET: {"eu": Known(40, 5), "us": Known(90, 3)}, SIX: {"gone": Known(1, 5)}}
    after = published(before, Gathered(), HERE, 6, 0.0)
    assert after == {NET: {"eu": Known(40, 5)}}
    assert published(after, Gathered(), HERE, 8, 0.0) == {}


def test_only_what_is_new_is_looked_at() -> None:
    assert published({}, gathered((NET, "eu", 12.0, 9)), HERE, 5, 101.0) == {}


def test_everything_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "NETWORKS_MAX", 2)
    monkeypatch.setattr(latency, "GATHERED_MAX", 3)
    of = gathered(*((f"198.51.{n}.0/24", "eu", 10.0, 9) for n in range(10)))
    assert len(of) == 3
    after = published({NET: {"eu": Known(40, 4)}}, of, HERE, 5, 0.0)
    assert len(after) == 2
    assert NET not in after, "the one that was found so longest ago goes first"


def test_parts_are_many_and_known_by_the_network() -> None:
    assert (part_of(NET), part_of(SIX)) == ("v4-203", "v6-184")
    assert len({part_of(f"{n}.0.0.0/24") for n in range(256)}) == 256
