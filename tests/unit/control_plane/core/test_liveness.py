"""Silence and the brake."""

from __future__ import annotations

from control_plane.core.brake import AT_ONCE_S, Brake, Sight, step
from control_plane.core.liveness import Judgement, Silence, judge
from control_plane.core.model import Condition


def at(now: float, heard_at: float | None, current: Condition = Condition.READY, judged_from: float = 0.0) -> Condition:
    result: Judgement | None = judge(
        current, Silence(heard_at, judged_from), now, suspect_after_s=2.5, lost_after_s=30.0, program="agent"
    )
    return result.condition if result else current


def test_silence_has_two_speeds() -> None:
    assert at(102.0, 100.0) is Condition.READY
    assert at(102.5, 100.0) is Condition.SUSPECT
    assert at(130.0, 100.0) is Condition.LOST
    assert at(130.1, 130.0, Condition.LOST) is Condition.READY


def test_nobody_is_judged_before_the_grace_is_over() -> None:
    assert at(109.0, None, judged_from=110.0) is Condition.READY
    assert at(112.0, None, judged_from=110.0) is Condition.READY
    assert at(112.6, None, judged_from=110.0) is Condition.SUSPECT
    assert at(109.0, None, Condition.SUSPECT, judged_from=110.0) is Condition.SUSPECT
    assert at(109.0, 108.0, Condition.SUSPECT, judged_from=110.0) is Condition.READY


def test_some_conditions_are_not_for_silence_to_change() -> None:
    assert at(900.0, None, Condition.JOINING) is Condition.JOINING
    assert at(1.0, 1.0, Condition.JOINING) is Condition.READY
    assert at(900.0, 1.0, Condition.REVOKED) is Condition.REVOKED


def sights(*dark: float | None, per_region: int = 1) -> list[Sight]:
    return [Sight(f"n{i}", f"r{i // per_region}", since) for i, since in enumerate(dark)]


def test_one_dark_node_of_three_does_not_engage_it() -> None:
    assert not step(Brake(), sights(1.0, None, None), 5.0).engaged
    assert not step(Brake(), sights(1.0), 5.0).engaged


def test_most_nodes_at_once_engage_it_until_enough_are_back() -> None:
    brake = step(Brake(), sights(1.0, 2.0, None), 5.0)
    assert brake.engaged
    assert "2 of 3" in brake.reason
    assert step(brake, sights(1.0, 2.0, None), 500.0).engaged
    assert not step(brake, sights(1.0, None, None), 500.0).engaged


def test_one_after_the_other_does_not_engage_it() -> None:
    assert not step(Brake(), sights(1.0, 2.0 + AT_ONCE_S, None), 100.0).engaged


def test_two_whole_regions_engage_it() -> None:
    dark: list[float | None] = [1.0] * 4 + [None] * 10
    assert "regions r0, r1" in step(Brake(), sights(*dark, per_region=2), 5.0).reason
    dark = [1.0] * 2 + [None] * 10
    assert not step(Brake(), sights(*dark, per_region=2), 5.0).engaged
