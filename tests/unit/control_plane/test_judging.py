"""Judging what has changed finds what judging all would find."""

from __future__ import annotations

import copy

from hypothesis import given
from hypothesis import strategies as st

from control_plane import decode
from control_plane.core.pace import Pace
from control_plane.judging import DISCONNECTS_AT_ONCE, Judging
from control_plane.observed import Observed
from control_plane.pacing import Pacing
from control_plane.sessions import Hub, Session
from control_plane.state import Batch, State
from control_plane.views import Manifests, Views
from fleet.clock import Clock
from locci.v1 import agent_pb2, node_pb2, region_pb2
from tests.fakes.clock import ManualClock
from tests.fakes.store import MemoryStore

NODES = [f"n{number}" for number in range(6)]
EDGE = node_pb2.NODE_ROLE_EDGE

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["connect", "leave", "hear", "beat", "label", "cordon", "remove", "join", "wait", "restart"]),
        st.sampled_from(NODES),
        st.sampled_from([0.1, 1.0, 3.0, 40.0]),
    ),
    max_size=40,
)


class Fleet:
    """A hub with sessions, a fleet in a store, and the time."""

    def __init__(self) -> None:
        self.now = 100.0
        self.state = State(MemoryStore())
        self.observed = Observed(0.0, 0.0)
        self.manifests = Manifests(self.state)
        self.pacing = Pacing(self.state, self.manifests, Pace(1.0, 2.0), 30.0)
        self.hub = Hub(self.observed, lambda: self.now, self.pacing)
        self.clock: Clock = ManualClock()
        self.judging = self.judge()
        self.sessions: dict[str, Session] = {}

    def judge(self, observed: Observed | None = None) -> Judging:
        return Judging(self.state, observed or self.observed, self.pacing, self.clock, 2.5)

    async def join(self, node: str) -> None:
        row = node_pb2.Node(name=f"nodes/{node}", region="regions/eu", roles=[EDGE])
        row.condition = node_pb2.NODE_CONDITION_JOINING
        await self.state.transact(lambda batch: batch.put(self.state.nodes, row.name, row))

    async def act(self, what: str, node: str, amount: float) -> None:
        name, session = f"nodes/{node}", self.sessions.get(node)
        known = name in self.state.nodes
        if what == "join" and not known:
            await self.join(node)
        elif what == "connect" and known:
            await self.connect(node)
        elif what == "leave" and session is not None:
            self.hub.leave(session)
        elif what == "hear" and session is not None:
            self.observed.session(node, EDGE).heard_at = self.now
        elif what == "beat" and session is not None:
            session.heartbeat_s = amount
            self.hub.beat(session, agent_pb2.Heartbeat(sequence=1))
        elif what in ("label", "cordon") and known:
            row = self.state.nodes.copy(name)
            row.labels["x"], row.cordoned = str(amount), what == "cordon"
            await self.state.transact(lambda batch: batch.put(self.state.nodes, name, row))
        elif what == "remove" and known:
            await self.state.transact(lambda batch: batch.delete(self.state.nodes, name))
            self.observed.forget(node)
            self.sessions.pop(node, None)
        elif what == "wait":
            self.now += amount
        elif what == "restart":
            self.observed.judged_from = self.now + amount

    async def connect(self, node: str) -> None:
        session = Session(node, agent_pb2.Hello(role=EDGE, resource_types=["replicas"]), 1)
        session.heartbeat_s = 1.0
        row = self.state.nodes.copy(f"nodes/{node}")
        del row.sessions[:]
        row.sessions.add(role=EDGE, epoch=1, connected=True)
        await self.state.transact(lambda batch: batch.put(self.state.nodes, row.name, row))
        self.hub.enter(session)
        self.observed.session(node, EDGE).heard_at = self.now
        self.sessions[node] = session


@given(STEPS)
async def test_nothing_is_overlooked(steps: list[tuple[str, str, float]]) -> None:
    fleet = Fleet()
    for node in NODES[:4]:
        await fleet.join(node)
    for what, node, amount in steps:
        await fleet.act(what, node, amount)
        fresh = copy.deepcopy(fleet.observed)
        expected, found = Batch(), Batch()
        fleet.judge(fresh).step(expected, fleet.now)
        fleet.judging.step(found, fleet.now)
        assert found == expected
        assert fleet.observed.dark_since == fresh.dark_since

        def commit(batch: Batch, made: Batch = found) -> None:
            batch.changes.extend(made.changes)
            batch.events.extend(made.events)

        await fleet.state.transact(commit)
        kept = Views(fleet.state, fleet.observed, fleet.manifests, fleet.now)
        anew = Views(fleet.state, fleet.observed, Manifests(fleet.state), fleet.now)
        assert list(kept.nodes.items()) == list(anew.nodes.items())
        assert list(kept.node_rows.items()) == list(anew.node_rows.items())


async def test_a_fleet_that_goes_away_at_once_is_noted_in_parts() -> None:
    fleet = Fleet()
    count = DISCONNECTS_AT_ONCE + 10

    def build(batch: Batch) -> None:
        batch.put(fleet.state.regions, "regions/eu", region_pb2.Region(name="regions/eu"))
        for number in range(count):
            row = node_pb2.Node(name=f"nodes/m{number:04}", region="regions/eu", roles=[EDGE])
            row.condition = node_pb2.NODE_CONDITION_READY
            row.condition_time.CopyFrom(decode.timestamp(1.0))
            row.sessions.add(role=EDGE, epoch=1, connected=True)
            fleet.observed.session(f"m{number:04}", EDGE).heard_at = fleet.now
            batch.put(fleet.state.nodes, row.name, row)

    await fleet.state.transact(build)
    for expected in (DISCONNECTS_AT_ONCE, 10, 0):
        batch = Batch()
        fleet.judging.step(batch, fleet.now)
        assert len(batch.changes) == expected

        def commit(into: Batch, made: Batch = batch) -> None:
            into.changes.extend(made.changes)

        await fleet.state.transact(commit)
