"""Placement and rollouts together, in virtual time."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.core.converge import Plan, Target, _Planner, is_at_rest
from control_plane.core.manifest import Constraint, Placement, RolloutPolicy, Wave
from control_plane.core.model import Condition
from control_plane.core.rollout import TERMINAL, State, turn_back
from tests.unit.control_plane.core.fleet import PLACEMENT, POLICY, Fleet, node, release

THREE = [node("eu-1", "eu"), node("us-1", "us"), node("ap-1", "ap")]


def stable(fleet: Fleet) -> Fleet:
    fleet.apply(release(1))
    fleet.advance(10)
    assert fleet.state is State.SUCCEEDED, fleet.rollout
    fleet.serving_min = 10**9
    return fleet


def test_the_first_release_fills_every_region() -> None:
    fleet = stable(Fleet(THREE))
    assert fleet.live() == [(0, 1, "ap-1"), (1, 1, "eu-1"), (2, 1, "us-1")]


def test_nothing_moves_once_converged() -> None:
    fleet = stable(Fleet(THREE))
    moves = fleet.moves
    fleet.advance(50)
    assert fleet.moves == moves


def test_a_new_release_replaces_replica_by_replica_without_a_gap() -> None:
    fleet = stable(Fleet(THREE))
    fleet.apply(release(2))
    fleet.advance(10)
    assert fleet.state is State.SUCCEEDED
    assert [(o, r) for o, r, _ in fleet.live()] == [(0, 2), (1, 2), (2, 2)]
    assert fleet.serving_min == 3


def test_equal_containers_are_not_touched() -> None:
    fleet = stable(Fleet(THREE))
    moves = fleet.moves
    fleet.apply(release(2, shape="hash-1"))
    fleet.advance(3)
    assert fleet.state is State.SUCCEEDED
    assert fleet.moves == moves


def test_a_release_that_never_gets_healthy_is_rolled_back() -> None:
    fleet = stable(Fleet(THREE))
    fleet.broken = {"hash-2"}
    fleet.apply(release(2))
    fleet.advance(20)
    assert fleet.state is State.ROLLED_BACK
    assert fleet.rollout is not None
    assert "not healthy within 10 s" in fleet.rollout.reason
    assert fleet.live() == [(0, 1, "ap-1"), (1, 1, "eu-1"), (2, 1, "us-1")]
    assert fleet.serving_min == 3


def test_the_first_release_has_nowhere_to_go_back_to() -> None:
    fleet = Fleet(THREE)
    fleet.broken = {"hash-1"}
    fleet.apply(release(1))
    fleet.advance(20)
    assert fleet.state is State.FAILED
    assert fleet.rollout is not None
    assert "no earlier good release" in fleet.rollout.reason


def test_without_automatic_rollback_it_stays() -> None:
    fleet = stable(Fleet(THREE, policy=replace(POLICY, auto_rollback=False)))
    fleet.broken = {"hash-2"}
    fleet.apply(release(2))
    fleet.advance(20)
    assert fleet.state is State.FAILED
    moves = fleet.moves
    fleet.advance(20)
    assert fleet.moves == moves


def test_a_newer_release_takes_over() -> None:
    fleet = stable(Fleet(THREE))
    fleet.broken = {"hash-2"}
    fleet.apply(release(2))
    fleet.advance(3)
    fleet.apply(release(3))
    fleet.advance(10)
    assert fleet.state is State.SUCCEEDED
    assert {r for _, r, _ in fleet.live()} == {3}
    assert fleet.serving_min == 3


def test_an_operator_ends_a_rollout() -> None:
    fleet = stable(Fleet(THREE))
    fleet.apply(release(2))
    fleet.advance(2)
    assert fleet.rollout is not None
    fleet.rollout = turn_back(fleet.rollout, "ended", fleet.now, automatic=False)
    fleet.target = fleet.rollout.source
    fleet.advance(10)
    assert fleet.state is State.ABORTED
    assert {r for _, r, _ in fleet.live()} == {1}


def test_waves_wait_for_the_one_before_and_its_bake_time() -> None:
    policy = replace(POLICY, waves=(Wave(("eu",), 20.0),))
    fleet = Fleet(THREE, policy=policy)
    fleet.apply(release(1))
    fleet.advance(15)
    assert [n for _, _, n in fleet.live()] == ["eu-1"]
    fleet.advance(20)
    assert fleet.state is State.SUCCEEDED
    fleet.apply(release(2))
    fleet.advance(15)
    assert [(r, n) for _, r, n in fleet.live()] == [(1, "ap-1"), (2, "eu-1"), (1, "us-1")]
    fleet.advance(20)
    assert fleet.state is State.SUCCEEDED


def test_no_node_at_all_ends_at_the_progress_deadline() -> None:
    fleet = Fleet([node("eu-1", condition=Condition.SUSPECT)])
    fleet.apply(release(1))
    fleet.advance(70)
    assert fleet.state is State.FAILED
    assert fleet.rollout is not None
    assert "1 is suspect" in fleet.rollout.reason


def test_no_region_at_all_ends_at_the_progress_deadline() -> None:
    fleet = Fleet([])
    fleet.apply(release(1))
    fleet.advance(70)
    assert fleet.state is State.FAILED
    assert fleet.rollout is not None
    assert "no region" in fleet.rollout.reason


def test_a_lost_node_is_replaced_in_its_region_and_a_suspect_one_is_not() -> None:
    fleet = stable(Fleet([node("eu-1"), node("eu-2")]))
    fleet.set("eu-1", condition=Condition.SUSPECT, silent_s=10.0)
    fleet.advance(5)
    assert fleet.live() == [(0, 1, "eu-1")]
    fleet.set("eu-1", condition=Condition.LOST, silent_s=31.0)
    fleet.advance(5)
    assert fleet.live() == [(0, 1, "eu-2")]


def test_without_another_node_a_lost_replica_stays_assigned() -> None:
    fleet = stable(Fleet(THREE))
    fleet.set("eu-1", condition=Condition.LOST, silent_s=99.0)
    fleet.advance(5)
    assert (1, 1, "eu-1") in fleet.live()
    assert "which is lost" in fleet.problems[0]


def rejoined(choice: str) -> Fleet:
    fleet = stable(Fleet([node("eu-1"), node("eu-2")], replace(PLACEMENT, on_rejoin=choice)))  # type: ignore[arg-type]
    fleet.set("eu-1", condition=Condition.LOST, silent_s=31.0)
    fleet.advance(5)
    fleet.set("eu-1", condition=Condition.READY, silent_s=0.0)
    fleet.advance(5)
    return fleet


def test_after_a_rejoin_the_declared_one_is_kept() -> None:
    assert rejoined("replacement").live() == [(0, 1, "eu-2")]
    assert rejoined("original").live() == [(0, 1, "eu-1")]
    assert rejoined("best").live() == [(0, 1, "eu-1")]


def test_a_singleton_is_stopped_before_the_next_starts() -> None:
    policy = replace(POLICY, max_unavailable=1)
    fleet = stable(Fleet([node("eu-1"), node("eu-2")], Placement(total=1, lost_after_s=30.0, singleton=True), policy))
    fleet.apply(release(2))
    for _ in range(20):
        fleet.advance(0.5)
        assert len([r for r in fleet.replicas.values() if not r.displaced]) <= 1
    assert fleet.state is State.SUCCEEDED


def test_a_daemon_runs_on_every_node_that_matches() -> None:
    only = Placement(constraints=(Constraint("disk", ("ssd",)),), lost_after_s=30.0)
    fleet = Fleet(
        [node("a", labels={"disk": "ssd"}), node("b"), node("c", labels={"disk": "ssd"})], only, kind="daemon"
    )
    stable(fleet)
    assert [n for _, _, n in fleet.live()] == ["a", "c"]
    fleet.nodes["d"] = node("d", labels={"disk": "ssd"})
    fleet.advance(5)
    assert fleet.live() == [(0, 1, "a"), (1, 1, "c"), (2, 1, "d")]


def test_scaling_down_keeps_what_serves() -> None:
    fleet = stable(Fleet([node("eu-1"), node("eu-2")], replace(PLACEMENT, per_region=4)))
    fleet.placement = replace(PLACEMENT, per_region=2)
    fleet.apply(release(2, shape="hash-1"))
    fleet.advance(5)
    assert [o for o, _, _ in fleet.live()] == [0, 1]
    assert fleet.state is State.SUCCEEDED


bounds = st.builds(
    lambda surge, unavailable: replace(POLICY, max_surge=surge, max_unavailable=unavailable),
    st.integers(0, 3),
    st.integers(0, 2),
)


@settings(max_examples=60, deadline=None)
@given(
    policy=bounds,
    per_region=st.integers(1, 4),
    per_node=st.integers(1, 3),
    broken=st.booleans(),
    start_s=st.sampled_from([0.5, 2.0, 5.0]),
)
def test_a_rollout_ends_and_never_goes_below_its_bound(
    policy: RolloutPolicy, per_region: int, per_node: int, broken: bool, start_s: float
) -> None:
    nodes = [node(f"{region}-{i}", region) for region in ("eu", "us") for i in range(per_node)]
    fleet = Fleet(nodes, replace(PLACEMENT, per_region=per_region), policy)
    fleet.start_s = start_s
    fleet.apply(release(1))
    fleet.advance(30)
    assert fleet.state is State.SUCCEEDED
    fleet.serving_min = 10**9
    if broken:
        fleet.broken = {"hash-2"}
    fleet.apply(release(2))
    fleet.advance(300)
    assert fleet.state in TERMINAL
    assert fleet.state is (State.ROLLED_BACK if broken else State.SUCCEEDED)
    assert fleet.serving_min >= 2 * per_region - policy.max_unavailable
    assert len(fleet.live()) == 2 * per_region
    moves = fleet.moves
    fleet.advance(20)
    assert fleet.moves == moves


@settings(max_examples=40, deadline=None)
@given(lost=st.integers(0, 5), per_region=st.integers(1, 8))
def test_losing_one_node_moves_only_its_replicas(lost: int, per_region: int) -> None:
    nodes = [node(f"eu-{i}") for i in range(6)]
    fleet = stable(Fleet(nodes, replace(PLACEMENT, per_region=per_region)))
    before = {o: n for o, _, n in fleet.live()}
    fleet.set(f"eu-{lost}", condition=Condition.LOST, silent_s=31.0)
    fleet.advance(5)
    after = {o: n for o, _, n in fleet.live()}
    assert before.keys() == after.keys()
    assert all(after[o] == n for o, n in before.items() if n != f"eu-{lost}")
    assert f"eu-{lost}" not in after.values()


@settings(max_examples=60, deadline=None)
@given(
    happenings=st.lists(
        st.tuples(st.integers(0, 6), st.sampled_from(["lose", "back", "drain", "apply", "scale", "unready"])),
        max_size=5,
    )
)
def test_what_is_at_rest_at_a_glance_is_at_rest(happenings: list[tuple[int, str]]) -> None:
    fleet = stable(Fleet([node(f"eu-{i}") for i in range(3)], replace(PLACEMENT, per_region=3)))
    number = 1
    for seconds, what in [*happenings, (40, "back")]:
        if what == "lose":
            fleet.set("eu-0", condition=Condition.LOST, silent_s=31.0)
        elif what == "back":
            fleet.set("eu-0", condition=Condition.READY, silent_s=0.0, since=fleet.now)
        elif what == "drain":
            fleet.set("eu-1", condition=Condition.DRAINING, cordoned=True, drain_until=fleet.now + 20)
        elif what == "scale":
            fleet.placement = replace(PLACEMENT, per_region=seconds + 1)
        elif what == "apply":
            number += 1
            fleet.apply(release(number))
        else:
            key = min(fleet.replicas)
            fleet.replicas[key] = replace(fleet.replicas[key], ready=False, since=fleet.now)
        for _ in range(2 * seconds):
            view = fleet.view()
            assert fleet.target is not None
            target = Target(fleet.target, fleet.rollout, fleet.placement, fleet.ledger())
            if is_at_rest(view, target, fleet.now):
                assert _Planner(view, target, fleet.now).plan() == Plan((), ())
            fleet.advance(0.5)
