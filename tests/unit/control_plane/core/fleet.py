"""Builders for the cores' views."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from control_plane.core.converge import Plan, Target, converge
from control_plane.core.ledger import Ledger
from control_plane.core.manifest import Placement, RolloutPolicy
from control_plane.core.model import (
    NOTHING,
    Condition,
    DisplaceReplica,
    KeepReplica,
    LeaveReplica,
    NodeView,
    ReleaseRef,
    Replica,
    StartReplica,
    StopReplica,
)
from control_plane.core.placement import wanted_slots
from control_plane.core.rollout import AppView, Rollout, State, advance

POLICY = RolloutPolicy(healthy_for_s=1.0, health_deadline_s=10.0, progress_deadline_s=60.0, drain_s=2.0)
PLACEMENT = Placement(per_region=1, lost_after_s=30.0)


def release(number: int, shape: str = "") -> ReleaseRef:
    """A release; equal shapes need no restart."""
    return ReleaseRef(number, shape or f"hash-{number}")


def node(name: str, region: str = "eu", **fields: Any) -> NodeView:
    """A node in order."""
    return NodeView(name, region, **fields)


class Fleet:
    """An app in virtual time: takes the steps that the cores decide, and plays the nodes."""

    def __init__(
        self,
        nodes: list[NodeView],
        placement: Placement = PLACEMENT,
        policy: RolloutPolicy = POLICY,
        kind: Any = "service",
    ):
        self.nodes = {n.id: n for n in nodes}
        self.placement, self.policy, self.kind = placement, policy, kind
        self.replicas: dict[tuple[int, int, str], Replica] = {}
        self.now = 100.0
        self.rollout: Rollout | None = None
        self.stable: ReleaseRef | None = None
        self.target: ReleaseRef | None = None
        self.broken: set[str] = set()
        self.start_s = 1.0
        self.problems: tuple[str, ...] = ()
        self.moves = 0
        self.demand = NOTHING
        self.rebalance_moves = 0
        self.others: dict[str, int] = {}
        self.serving_min = 10**9

    def apply(self, target: ReleaseRef) -> None:
        """A new release; a rollout in progress is superseded."""
        beside = self.policy.strategy == "blue-green" and self.stable not in (None, target)
        self.rollout = Rollout(State.RUNNING, self.stable, target, self.now, side_by_side=beside)
        self.target = target

    def view(self) -> AppView:
        regions = {n.region for n in self.nodes.values()}
        replicas = tuple(self.replicas[key] for key in sorted(self.replicas))
        slots = wanted_slots(self.placement, self.kind, regions, list(self.nodes.values()), replicas)
        return AppView("app", self.policy, slots, replicas, self.nodes, self.problems, self.placement.singleton)

    def look(self) -> Plan:
        """One look of the controller."""
        if self.rollout is not None:
            before = self.rollout
            self.rollout = advance(before, self.view(), self.now)
            if before.state is not self.rollout.state:
                if self.rollout.state is State.SUCCEEDED:
                    self.stable = self.rollout.target
                elif self.rollout.state is State.ROLLING_BACK:
                    self.target = self.rollout.source
        assert self.target is not None
        target = Target(self.target, self.rollout, self.placement, self.ledger(), self.demand, self.rebalance_moves)
        plan = converge(self.view(), target, self.now)
        if plan.balanced:
            self.rebalance_moves = 0
        self.problems = plan.problems
        for step in plan.steps:
            self._take(step)
        return plan

    def ledger(self) -> Ledger:
        """What nodes hold of this app and of others."""
        ledger = Ledger(self.others)
        for replica in self.replicas.values():
            ledger.add(replica.node, "app", self.demand, counts=not replica.stopping)
        return ledger

    def _take(self, step: Any) -> None:
        self.moves += 1
        match step:
            case StartReplica():
                key = (step.ordinal, step.release.number, step.node)
                assert key not in self.replicas, "the same replica twice"
                self.replicas[key] = Replica(
                    *(step.ordinal, step.release.number, step.release.spec_hash, step.region, step.node, self.now),
                    since=self.now,
                )
            case StopReplica():
                self._change(step.replica, stopping=True)
            case DisplaceReplica():
                self._change(step.replica, displaced=True)
            case LeaveReplica():
                self._change(step.replica, leaving=True)
            case KeepReplica():
                self._change(step.replica, displaced=False, leaving=False)
                if step.replica.leaving:
                    self.rebalance_moves = 0

    def _change(self, replica: Replica, **fields: Any) -> None:
        key = (replica.ordinal, replica.release, replica.node)
        self.replicas[key] = replace(self.replicas[key], **fields)

    def play(self) -> None:
        """The nodes that are up bring containers up and down."""
        for key, replica in list(self.replicas.items()):
            host = self.nodes.get(replica.node)
            if host is None or host.condition is not Condition.READY:
                continue
            if replica.stopping:
                del self.replicas[key]
            elif not replica.ready and replica.spec_hash not in self.broken and self._started(replica):
                self.replicas[key] = replace(replica, ready=True, since=self.now)

    def _started(self, replica: Replica) -> bool:
        return self.now - replica.assigned_at >= self.start_s

    def advance(self, seconds: float, step_s: float = 0.5) -> None:
        """Looks and plays for so long."""
        end = self.now + seconds
        while self.now < end:
            self.look()
            view = self.view()
            only = self.rollout.routed if self.rollout else None
            serving = sum(
                1
                for s in view.slots
                if any(view.serves(r) and (only is None or r.spec_hash == only.spec_hash) for r in view.of(s))
            )
            self.serving_min = min(self.serving_min, serving)
            self.play()
            self.now += step_s

    def set(self, name: str, **fields: Any) -> None:
        """Changes a node."""
        self.nodes[name] = replace(self.nodes[name], **fields)

    def live(self) -> list[tuple[int, int, str]]:
        """Ordinal, release and node of what is wanted."""
        return sorted(k for k, r in self.replicas.items() if not r.stopping and not r.displaced)

    @property
    def state(self) -> State:
        assert self.rollout is not None
        return self.rollout.state
