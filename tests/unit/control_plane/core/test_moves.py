"""Balance on request: bounded, make-before-break, and it comes to an end."""

from __future__ import annotations

from control_plane.core.manifest import Affinity, Placement
from control_plane.core.model import Condition, NodeView
from tests.unit.control_plane.core.fleet import POLICY, Fleet, node, release


def stable(nodes: list[NodeView], placement: Placement) -> Fleet:
    fleet = Fleet(nodes, placement)
    fleet.apply(release(1))
    fleet.advance(20)
    assert fleet.state.value == "succeeded"
    return fleet


def spread_of(fleet: Fleet) -> list[str]:
    return sorted(on for _, _, on in fleet.live())


def test_a_node_that_is_new_gets_its_share_and_nothing_stops_serving() -> None:
    fleet = stable([node("a"), node("b")], Placement(per_region=6, lost_after_s=30.0))
    assert spread_of(fleet) == ["a"] * 3 + ["b"] * 3
    fleet.nodes["c"] = node("c")
    fleet.advance(30)
    assert spread_of(fleet) == ["a"] * 3 + ["b"] * 3, "nothing moves unasked"
    fleet.rebalance_moves, fleet.serving_min = 1, 10**9
    fleet.advance(60)
    assert spread_of(fleet) == ["a"] * 2 + ["b"] * 2 + ["c"] * 2
    assert fleet.serving_min == 6
    assert fleet.rebalance_moves == 0, "it has ended"
    assert not any(r.leaving for r in fleet.replicas.values())


def test_moves_are_bounded() -> None:
    fleet = stable([node("a")], Placement(per_region=8, lost_after_s=30.0))
    fleet.nodes["b"] = node("b")
    fleet.rebalance_moves = 2
    most = 0
    for _ in range(120):
        fleet.advance(0.5)
        most = max(most, sum(1 for r in fleet.replicas.values() if r.leaving and not r.stopping))
    assert most == 2
    assert spread_of(fleet) == ["a"] * 4 + ["b"] * 4


def test_a_move_that_fails_is_given_up() -> None:
    fleet = stable([node("a")], Placement(per_region=2, lost_after_s=30.0))
    fleet.nodes["b"] = node("b")
    fleet.start_s = 1_000.0
    fleet.rebalance_moves, fleet.serving_min = 1, 10**9
    fleet.advance(POLICY.health_deadline_s / 2)
    assert len(fleet.live()) == 3
    fleet.advance(POLICY.health_deadline_s)
    assert spread_of(fleet) == ["a", "a"]
    assert fleet.serving_min == 2
    assert fleet.rebalance_moves == 0
    assert not any(r.leaving for r in fleet.replicas.values())


def test_the_load_of_other_apps_and_wishes_count() -> None:
    fleet = stable([node("a"), node("b")], Placement(per_region=1, lost_after_s=30.0))
    assert spread_of(fleet) == ["a"]
    fleet.others = {"a": 5}
    fleet.rebalance_moves = 1
    fleet.advance(20)
    assert spread_of(fleet) == ["b"]
    fleet.others = {}
    fleet.placement = Placement(per_region=1, lost_after_s=30.0, affinities=(Affinity("disk", ("ssd",), weight=10),))
    fleet.set("a", labels={"disk": "ssd"})
    fleet.rebalance_moves = 1
    fleet.advance(20)
    assert spread_of(fleet) == ["a"]


def test_singletons_and_what_has_no_better_place_stay() -> None:
    alone = stable([node("a")], Placement(total=1, lost_after_s=30.0, singleton=True))
    alone.nodes["b"] = node("b")
    alone.others = {"a": 9}
    alone.rebalance_moves = 1
    alone.advance(20)
    assert spread_of(alone) == ["a"]
    fleet = stable([node("a"), node("b")], Placement(per_region=3, lost_after_s=30.0))
    before = fleet.live()
    fleet.rebalance_moves = 3
    fleet.advance(20)
    assert fleet.live() == before
    fleet.nodes["c"] = node("c", condition=Condition.SUSPECT)
    fleet.nodes["d"] = node("d", cordoned=True)
    fleet.rebalance_moves = 3
    fleet.advance(20)
    assert fleet.live() == before
