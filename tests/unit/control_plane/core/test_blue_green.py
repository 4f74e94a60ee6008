"""Blue/green: both releases whole beside each other, requests go over at once, and back as fast."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.core.manifest import Placement, RolloutPolicy
from control_plane.core.model import Condition, Demand
from control_plane.core.rollout import TERMINAL, State, turn_back
from tests.unit.control_plane.core.fleet import PLACEMENT, POLICY, Fleet, node, release

BESIDE = replace(POLICY, strategy="blue-green", hold_s=20.0)
TWO = replace(PLACEMENT, per_region=2)


def stable(policy: RolloutPolicy = BESIDE, placement: Placement = TWO, hosts: int = 3) -> Fleet:
    fleet = Fleet([node(f"n{i}") for i in range(hosts)], placement, policy)
    fleet.apply(release(1))
    fleet.advance(10)
    assert fleet.state is State.SUCCEEDED, "the first release has nothing to run beside"
    fleet.serving_min = 10**9
    return fleet


def releases(fleet: Fleet) -> list[int]:
    return sorted(number for _, number, _ in fleet.live())


def routed(fleet: Fleet) -> int | None:
    assert fleet.rollout is not None
    return fleet.rollout.routed.number if fleet.rollout.routed else None


def end(fleet: Fleet) -> None:
    assert fleet.rollout is not None
    fleet.rollout = turn_back(fleet.rollout, "ended", fleet.now, automatic=False)
    fleet.target = fleet.rollout.heading


def test_all_are_started_beside_then_requests_go_over_and_the_old_ones_are_held() -> None:
    fleet = stable()
    fleet.apply(release(2))
    fleet.look()
    assert releases(fleet) == [1, 1, 2, 2]
    assert routed(fleet) == 1
    fleet.advance(5)
    assert routed(fleet) == 2
    assert releases(fleet) == [1, 1, 2, 2]
    assert fleet.rollout is not None
    assert fleet.rollout.reason == "requests go to release 2; release 1 is held for 20 s"
    fleet.advance(25)
    assert fleet.state is State.SUCCEEDED
    assert releases(fleet) == [2, 2]
    assert fleet.serving_min == 2


def test_one_that_never_gets_healthy_keeps_all_requests_where_they_are() -> None:
    fleet = stable(replace(BESIDE, auto_rollback=False))
    fleet.broken = {"hash-2"}
    fleet.apply(release(2))
    fleet.advance(9)
    assert routed(fleet) == 1
    fleet.advance(10)
    assert fleet.state is State.ROLLED_BACK, "also without automatic rollback: it never served"
    assert releases(fleet) == [1, 1]
    assert fleet.serving_min == 2


def test_while_the_old_ones_are_held_going_back_takes_no_time() -> None:
    fleet = stable()
    fleet.apply(release(2))
    fleet.advance(8)
    assert routed(fleet) == 2
    before = fleet.live()
    end(fleet)
    assert routed(fleet) == 1
    fleet.look()
    assert fleet.live() == [entry for entry in before if entry[1] == 1], "nothing starts: it is all there"
    fleet.advance(5)
    assert fleet.state is State.ABORTED
    assert fleet.serving_min == 2


def test_a_release_that_breaks_while_the_old_one_is_held_goes_back_by_itself() -> None:
    fleet = stable()
    fleet.apply(release(2))
    fleet.advance(6)
    for key, replica in list(fleet.replicas.items()):
        if replica.release == 2 and replica.ordinal == 0:
            fleet.replicas[key] = replace(replica, ready=False, since=fleet.now, reason="exit code 1")
    fleet.broken = {"hash-2"}
    fleet.advance(12)
    assert fleet.state is State.ROLLED_BACK
    assert fleet.rollout is not None
    assert "exit code 1" in fleet.rollout.reason
    assert releases(fleet) == [1, 1]


def test_someone_says_when_requests_go_over() -> None:
    fleet = stable(replace(BESIDE, manual_promotion=True))
    fleet.apply(release(2))
    fleet.advance(300)
    assert (fleet.state, routed(fleet)) == (State.RUNNING, 1), "no deadline runs while it waits for someone"
    assert fleet.rollout is not None
    assert "promote the rollout" in fleet.rollout.reason
    fleet.rollout = replace(fleet.rollout, promoted=True)
    fleet.look()
    assert routed(fleet) == 2
    fleet.advance(25)
    assert fleet.state is State.SUCCEEDED


def test_without_room_it_ends_and_says_why() -> None:
    fleet = stable(hosts=1)
    fleet.demand = Demand(cpu_millis=400)
    fleet.set("n0", cpu_millis=1000)
    fleet.apply(release(2))
    fleet.advance(70)
    assert fleet.state is State.ROLLED_BACK
    assert fleet.rollout is not None
    assert "thousandths of a processor" in fleet.rollout.reason
    assert fleet.serving_min == 2


def test_a_node_that_drains_meanwhile_loses_both_each_to_its_like() -> None:
    fleet = stable(replace(BESIDE, manual_promotion=True))
    fleet.apply(release(2))
    fleet.advance(5)
    drained = fleet.live()[0][2]
    fleet.set(drained, condition=Condition.DRAINING, cordoned=True, drain_until=fleet.now + 100)
    fleet.advance(10)
    assert releases(fleet) == [1, 1, 2, 2]
    assert drained not in {on for _, _, on in fleet.live()}
    assert fleet.serving_min == 2


def test_a_newer_release_takes_over_from_the_one_that_serves_least_surprisingly() -> None:
    fleet = stable()
    fleet.apply(release(2))
    fleet.advance(6)
    fleet.apply(release(3))
    assert routed(fleet) == 1, "the last good one has all requests until the newest is whole"
    fleet.advance(4)
    assert releases(fleet) == [1, 1, 3, 3]
    fleet.advance(30)
    assert fleet.state is State.SUCCEEDED
    assert releases(fleet) == [3, 3]
    assert fleet.serving_min == 2


def test_fewer_and_more_replicas_come_with_the_release() -> None:
    for count in (1, 4):
        fleet = stable()
        fleet.placement = replace(PLACEMENT, per_region=count)
        fleet.apply(release(2))
        fleet.advance(40)
        assert fleet.state is State.SUCCEEDED
        assert releases(fleet) == [2] * count
        assert fleet.serving_min >= min(2, count)


events = st.lists(
    st.tuples(st.integers(1, 15), st.sampled_from(["lose", "back", "pause", "resume", "abort", "newer", "drain"])),
    max_size=6,
)


@settings(max_examples=80, deadline=None)
@given(per_region=st.integers(1, 3), hosts=st.integers(2, 4), broken=st.booleans(), happenings=events)
def test_whatever_happens_it_ends_and_what_serves_never_goes_by_our_own_doing(
    per_region: int, hosts: int, broken: bool, happenings: list[tuple[int, str]]
) -> None:
    fleet = stable(placement=replace(PLACEMENT, per_region=per_region, lost_after_s=5.0), hosts=hosts)
    if broken:
        fleet.broken = {"hash-2"}
    fleet.apply(release(2))
    number, lossless = 2, True
    for seconds, what in happenings:
        fleet.advance(seconds)
        assert fleet.rollout is not None
        state = fleet.rollout.state
        if what == "lose":
            lossless = False
            fleet.set("n0", condition=Condition.LOST, silent_s=6.0)
        elif what == "back":
            fleet.set("n0", condition=Condition.READY, silent_s=0.0, since=fleet.now)
        elif what == "drain" and fleet.nodes["n1"].condition is Condition.READY:
            fleet.set("n1", condition=Condition.DRAINING, cordoned=True, drain_until=fleet.now + 1000)
        elif what == "pause" and state is State.RUNNING:
            fleet.rollout = replace(fleet.rollout, state=State.PAUSED)
        elif what == "resume" and state is State.PAUSED:
            fleet.rollout = replace(fleet.rollout, state=State.RUNNING, progress_at=fleet.now, resumed_at=fleet.now)
        elif what == "abort" and state not in TERMINAL:
            end(fleet)
        elif what == "newer":
            number += 1
            fleet.apply(release(number))
    assert fleet.rollout is not None
    if fleet.rollout.state is State.PAUSED:
        fleet.rollout = replace(fleet.rollout, state=State.RUNNING, progress_at=fleet.now, resumed_at=fleet.now)
    fleet.set("n0", condition=Condition.READY, silent_s=0.0, since=fleet.now)
    fleet.advance(250)
    assert fleet.rollout.state in TERMINAL
    assert len(fleet.live()) == per_region
    assert len({release for _, release, _ in fleet.live()}) == 1
    if lossless:
        assert fleet.serving_min >= per_region
