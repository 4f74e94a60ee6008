"""Images come first: nothing is exchanged before they are there, and waiting for them ends."""

from __future__ import annotations

from dataclasses import replace

from control_plane.core.manifest import RolloutPolicy
from control_plane.core.model import NodeView, ReleaseRef, Replica, Slot
from control_plane.core.rollout import AppView, Rollout, State, advance, open_slots

OLD, NEW = ReleaseRef(1, "old"), ReleaseRef(2, "new")
POLICY = RolloutPolicy(
    healthy_for_s=1, health_deadline_s=20, progress_deadline_s=60, prefetch_deadline_s=100, auto_rollback=False
)
VIEW = AppView(
    "hello",
    POLICY,
    (Slot(0, "eu"), Slot(1, "eu")),
    tuple(Replica(n, 1, "old", "eu", f"n{n}", 0.0, ready=True) for n in range(2)),
    {f"n{n}": NodeView(f"n{n}", "eu") for n in range(2)},
)
START = Rollout(State.RUNNING, OLD, NEW, 0.0, prefetched=False)


def test_no_slot_opens_before_every_node_has_the_image() -> None:
    waits = replace(VIEW, unfetched=(("n1", "it is being pulled"),))
    rollout = advance(START, waits, 90.0)
    assert rollout.reason == "1 nodes pull the image first: n1"
    assert open_slots(waits, rollout, 90.0) == frozenset()
    rollout = advance(rollout, VIEW, 91.0)
    assert (rollout.prefetched, rollout.progress_at) == (True, 91.0), "the other deadlines run from now on"
    assert open_slots(VIEW, rollout, 91.0) == {0, 1}


def test_waiting_ends_where_it_began_with_the_reason() -> None:
    waits = replace(VIEW, unfetched=(("n0", "no space left"), ("n1", "no space left")))
    rollout = advance(START, waits, 101.0)
    assert rollout.state is State.ROLLING_BACK, "nothing was exchanged: going back is free"
    assert rollout.reason.startswith("node n0 and 1 others did not have the image within 100 s")
    assert "no space left" in rollout.reason
    assert advance(rollout, waits, 102.0).state is State.ROLLED_BACK


def test_a_held_rollout_waits_without_a_deadline() -> None:
    waits = replace(VIEW, unfetched=(("n0", ""),))
    held = replace(START, state=State.PAUSED)
    assert advance(held, waits, 1e6) == held
