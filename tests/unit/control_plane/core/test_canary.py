"""Canaries and held rollouts, by the same fleet that plays every rollout, in virtual time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from control_plane.core.manifest import RolloutPolicy, Wave
from control_plane.core.model import Condition, NodeView, ReleaseRef, Replica, Slot
from control_plane.core.rollout import AppView, Rollout, State, advance, canary_slots, open_slots

OLD, NEW = ReleaseRef(1, "old"), ReleaseRef(2, "new")
POLICY = RolloutPolicy(
    "canary", healthy_for_s=1, health_deadline_s=20, progress_deadline_s=60, canary_replicas=2, canary_bake_s=30
)
NODES = {f"n{n}": NodeView(f"n{n}", "eu") for n in range(4)}


def view(fresh: set[int], ready: bool = True, policy: RolloutPolicy = POLICY, since: float = 0.0) -> AppView:
    """Four slots; those in `fresh` hold the new release."""
    replicas = []
    for n in range(4):
        release = NEW if n in fresh else OLD
        good = ready or n not in fresh
        replicas.append(Replica(n, release.number, release.spec_hash, "eu", f"n{n}", 0.0, ready=good, since=since))
    return AppView("hello", policy, tuple(Slot(n, "eu") for n in range(4)), tuple(replicas), NODES)


START = Rollout(State.RUNNING, OLD, NEW, 0.0)


def test_only_canaries_are_open_until_they_were_watched() -> None:
    assert open_slots(view(set()), START, 5.0) == {0, 1}
    rollout = advance(START, view({0, 1}), 10.0)
    assert not rollout.promoted
    assert "watched for 30 s" in rollout.reason
    assert open_slots(view({0, 1}), rollout, 10.0) == {0, 1}
    rollout = advance(rollout, view({0, 1}), 31.0)
    assert rollout.promoted
    assert open_slots(view({0, 1}), rollout, 31.0) == {0, 1, 2, 3}
    assert advance(rollout, view({0, 1, 2, 3}), 33.0).state is State.SUCCEEDED


def test_a_bad_canary_goes_back_and_the_others_never_moved() -> None:
    rollout = advance(START, view({0, 1}, ready=False), 10.0)
    assert rollout.state is State.RUNNING
    rollout = advance(rollout, view({0, 1}, ready=False), 21.0)
    assert rollout.state is State.ROLLING_BACK
    assert rollout.heading == OLD


def test_someone_promotes_and_until_then_no_deadline_runs() -> None:
    policy = replace(POLICY, manual_promotion=True)
    rollout = START
    for now in (10.0, 100.0, 10_000.0):
        rollout = advance(rollout, view({0, 1}, policy=policy), now)
        assert (rollout.state, rollout.promoted) == (State.RUNNING, False)
    assert "promote the rollout" in rollout.reason
    assert rollout == advance(rollout, view({0, 1}, policy=policy), 10_001.0)
    promoted = replace(rollout, promoted=True, progress_at=10_002.0)
    assert open_slots(view({0, 1}, policy=policy), promoted, 10_002.0) == {0, 1, 2, 3}


def test_a_canary_that_is_everything_is_watched_as_well() -> None:
    policy = replace(POLICY, canary_replicas=9)
    rollout = advance(START, view({0, 1, 2, 3}, policy=policy), 10.0)
    assert rollout.state is State.RUNNING
    rollout = advance(rollout, view({0, 1, 2, 3}, policy=policy), 31.5)
    rollout = advance(rollout, view({0, 1, 2, 3}, policy=policy), 31.75)
    assert rollout.state is State.SUCCEEDED


@pytest.mark.parametrize("rollout", [replace(START, source=None), replace(START, state=State.ROLLING_BACK)])
def test_the_first_release_and_the_way_back_have_no_canary(rollout: Rollout) -> None:
    assert canary_slots(view(set()), rollout) == frozenset()


def test_a_held_rollout_opens_nothing_and_no_deadline_runs() -> None:
    held = replace(START, state=State.PAUSED)
    assert open_slots(view({0}), held, 5.0) == frozenset()
    assert advance(held, view({0}, ready=False), 1e6) == held


@pytest.mark.parametrize("policy", [replace(POLICY, manual_promotion=True), replace(POLICY, canary_bake_s=7200)])
def test_a_canary_that_was_good_for_long_may_be_out_of_sight_for_a_moment(policy: RolloutPolicy) -> None:
    rollout = START
    for now in range(10, 3600, 10):
        rollout = advance(rollout, view({0, 1}, policy=policy), float(now))
    suspect = {**NODES, "n0": replace(NODES["n0"], condition=Condition.SUSPECT)}
    rollout = advance(rollout, replace(view({0, 1}, policy=policy), nodes=suspect), 3600.0)
    assert rollout.state is State.RUNNING


def test_a_canary_that_never_stays_healthy_ends() -> None:
    suspect = {**NODES, "n0": replace(NODES["n0"], condition=Condition.SUSPECT)}
    unseen = replace(view({0, 1}), nodes=suspect)
    rollout = advance(START, unseen, 5.0)
    assert advance(rollout, unseen, 5.0 + 60.0 + 30.0).state is State.RUNNING
    assert advance(rollout, unseen, 5.0 + 60.0 + 30.5).state is State.ROLLING_BACK


def test_a_wave_may_bake_longer_than_the_progress_deadline() -> None:
    policy = replace(POLICY, strategy="rolling", waves=(Wave(("eu",), 600.0),))
    seen = replace(view({0, 1, 2, 3}, policy=policy), slots=(*(Slot(n, "eu") for n in range(4)), Slot(4, "us")))
    rollout = START
    for now in (5.0, 70.0, 599.0):
        rollout = advance(rollout, seen, now)
        assert rollout.state is State.RUNNING
    assert advance(rollout, seen, 700.0).state is State.ROLLING_BACK


def test_after_a_long_hold_health_deadlines_begin_anew() -> None:
    unhealthy = view({0}, ready=False)
    resumed = replace(START, resumed_at=1000.0, progress_at=1000.0)
    assert advance(resumed, unhealthy, 1015.0).state is State.RUNNING
    assert advance(resumed, unhealthy, 1021.0).state is State.ROLLING_BACK


def test_a_canary_that_falls_ill_is_no_longer_called_healthy() -> None:
    policy = replace(POLICY, manual_promotion=True)
    rollout = advance(START, view({0, 1}, policy=policy), 10.0)
    assert "are healthy" in rollout.reason
    rollout = advance(rollout, view({0, 1}, ready=False, policy=policy, since=11.0), 12.0)
    assert rollout.reason == ""


def test_a_canary_by_percent_and_by_region() -> None:
    slots = tuple(Slot(n, "eu" if n < 6 else "us") for n in range(10))

    def first(**fields: object) -> frozenset[int]:
        policy = replace(POLICY, **{"canary_replicas": 0, **fields})  # type: ignore[arg-type]
        return canary_slots(AppView("hello", policy, slots, (), NODES), START)

    assert first(canary_percent=25) == {0, 1, 2}, "rounded up"
    assert first(canary_percent=100) == set(range(10))
    assert first(canary_regions=("us",)) == {6, 7, 8, 9}
    assert first(canary_regions=("us",), canary_percent=50) == {6, 7}
    assert first(canary_regions=("us",), canary_replicas=1) == {6}
    assert first(canary_regions=("ap",)) == {0}, "never none"
    assert first(canary_percent=10, waves=(Wave(("us",)),)) == {6}
