"""What keeps a fleet of thousands quick: publications in slices, arrivals noted together, tables in order."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.core.brake import AT_ONCE_S, Sight, _at_once
from control_plane.core.pace import Pace
from control_plane.core.tiers import FEW_MAX, NEAR_MAX
from control_plane.observed import Observed
from control_plane.pacing import Pacing
from control_plane.ports import Committed, Transaction
from control_plane.reports import ARRIVALS_AT_ONCE, Arrivals
from control_plane.resources import Publication
from control_plane.sessions import _SLICE, Hub, Session
from control_plane.state import Batch, State
from control_plane.views import Manifests, Views
from fleet.errors import Code, LocciError
from locci.v1 import agent_pb2, app_pb2, manifest_pb2, node_pb2, region_pb2, release_pb2, replica_pb2
from tests.fakes.store import MemoryStore

COUNT = 3 * _SLICE + 5


async def fleet(store: MemoryStore | None = None) -> State:
    """Many nodes of two regions, one app."""
    state = State(store or MemoryStore())
    await state.transact(lambda batch: build(state, batch))
    return state


def build(state: State, batch: Batch) -> None:
    for region in ("eu", "us"):
        batch.put(state.regions, f"regions/{region}", region_pb2.Region(name=f"regions/{region}"))
    for number in range(COUNT):
        row = node_pb2.Node(name=f"nodes/n{number:04}", region=f"regions/{'eu' if number % 2 else 'us'}")
        row.roles.append(node_pb2.NODE_ROLE_EDGE)
        batch.put(state.nodes, row.name, row)
    put_release(state, batch, 1, "one.test")


def put_release(state: State, batch: Batch, number: int, hostname: str) -> None:
    manifest = manifest_pb2.AppManifest(name="app", image="registry.test/app:1", hostnames=[hostname])
    manifest.ports.add(container_port=80)
    name = f"apps/app/releases/{number}"
    release = release_pb2.Release(name=name, number=number, manifest=manifest, spec_hash=str(number))
    batch.put(state.releases, name, release)
    batch.put(state.apps, "apps/app", app_pb2.App(name="apps/app", target_release=name))


def publication(state: State, observed: Observed) -> Publication:
    manifests = Manifests(state)
    return Publication(state, observed, manifests, Views(state, observed, manifests, 1.0))


def pacing(state: State, beats_per_s: float = 1e6) -> Pacing:
    return Pacing(state, Manifests(state), Pace(1.0, beats_per_s), 30.0)


def hello() -> agent_pb2.Hello:
    return agent_pb2.Hello(role=node_pb2.NODE_ROLE_EDGE, resource_types=["replicas", "routes"])


async def test_a_publication_reaches_everyone_in_slices_and_the_newest_counts() -> None:
    state, observed = await fleet(), Observed(0.0, 0.0)
    hub = Hub(observed, lambda: 1.0, pacing(state))
    sessions = [Session(f"n{number:04}", hello(), 1) for number in range(COUNT)]
    for session in sessions:
        hub.enter(session)
    hub.publish(publication(state, observed))
    assert sum(1 for s in sessions if not s.outbox.empty()) == _SLICE, "the rest does not hold anyone up"
    await state.transact(lambda batch: put_release(state, batch, 2, "two.test"))
    hub.publish(publication(state, observed))
    for _ in range(COUNT):
        await asyncio.sleep(0)
    hostnames = {}
    for session in sessions:
        delta = session.outbox.get_nowait().delta
        hostnames[session.node] = delta.resources[0].route.hostnames[0]
        hub.answered(session, agent_pb2.Ack(nonce=delta.nonce))
        if not session.outbox.empty():
            hostnames[session.node] = session.outbox.get_nowait().delta.resources[0].route.hostnames[0]
    assert set(hostnames.values()) == {"two.test"}
    assert len(hostnames) == COUNT
    hub.publish(publication(state, observed))
    await asyncio.sleep(0)
    assert all(s.outbox.empty() for s in sessions), "nothing is sent again to who holds it or has it on its way"


async def test_a_node_that_joined_since_waits_for_the_next_publication() -> None:
    state, observed = await fleet(), Observed(0.0, 0.0)
    hub = Hub(observed, lambda: 1.0, pacing(state))
    hub.publish(publication(state, observed))
    row = node_pb2.Node(name="nodes/new", region="regions/eu", roles=[node_pb2.NODE_ROLE_EDGE])
    await state.transact(lambda batch: batch.put(state.nodes, row.name, row))
    session = Session("new", hello(), 1)
    hub.enter(session)
    hub.deliver(session)
    assert session.outbox.empty()
    hub.publish(publication(state, observed))
    assert session.outbox.get_nowait().delta.complete


async def test_nodes_of_a_region_share_what_they_are_to_hold() -> None:
    state, observed = await fleet(), Observed(0.0, 0.0)
    made = publication(state, observed)
    wanted = [made.wanted(f"n{n:04}", node_pb2.NODE_ROLE_EDGE, ("routes", "replicas")) for n in range(COUNT)]
    assert len({id(w) for w in wanted}) == 2


async def test_an_edge_is_told_of_some_others_whatever_the_size_of_the_fleet() -> None:
    state, observed = await fleet(), Observed(0.0, 0.0)

    def put(batch: Batch) -> None:
        for number in range(COUNT - 5):
            row = state.nodes.copy(f"nodes/n{number:04}")
            row.addresses.append(f"192.0.2.{number % 250}")
            row.condition = node_pb2.NODE_CONDITION_READY
            batch.put(state.nodes, row.name, row)
            replica = replica_pb2.Replica(
                name=f"apps/app/replicas/{number}-1", app="app", ordinal=number, release=1, spec_hash="1", healthy=True
            )
            replica.node, replica.region = row.name, row.region
            batch.put(state.assignments, f"{replica.name}@n{number:04}", replica)

    def peers(made: Publication) -> dict[str, list[str]]:
        wanted = {n: made.wanted(n, node_pb2.NODE_ROLE_EDGE, ("routes",)) for n in made._nodes}
        return {n: [p.node for p in w.resources["routes/app"].route.peers] for n, w in wanted.items()}

    await state.transact(put)
    before = peers(publication(state, observed))
    own = {n: [p for p in found if int(p[1:]) % 2 == int(n[1:]) % 2] for n, found in before.items()}
    holders = [f"n{number:04}" for number in range(COUNT - 5)]
    assert all(len(own[n]) == NEAR_MAX and len(before[n]) == NEAR_MAX + FEW_MAX for n in before)
    assert all(n not in before[n] for n in holders)
    asked = Counter(p for n in holders for p in own[n])
    assert set(asked.values()) == {NEAR_MAX}, "the ring burdens everyone alike"
    row = state.nodes.copy("nodes/n0010")
    row.condition = node_pb2.NODE_CONDITION_LOST
    await state.transact(lambda batch: batch.put(state.nodes, row.name, row))
    after = peers(publication(state, observed))
    changed = [n for n in before if before[n] != after[n] and n != "n0010"]
    assert set(changed) >= {n for n in before if "n0010" in before[n]}
    assert len([n for n in changed if int(n[1:]) % 2 == 0 and n in holders]) <= NEAR_MAX + FEW_MAX


def put_replica(state: State, batch: Batch, node: str, *, lost_after_s: int, fence_after_s: int = 0) -> None:
    manifest = manifest_pb2.AppManifest(name="near", image="registry.test/app:1")
    manifest.placement.lost_after.FromSeconds(lost_after_s)
    if fence_after_s:
        manifest.placement.singleton = True
        manifest.placement.fence_after.FromSeconds(fence_after_s)
    name = "apps/near/releases/1"
    release = release_pb2.Release(name=name, number=1, manifest=manifest, spec_hash="1")
    batch.put(state.releases, name, release)
    batch.put(state.apps, "apps/near", app_pb2.App(name="apps/near", target_release=name))
    row = replica_pb2.Replica(name="replicas/near-0", app="near", node=f"nodes/{node}", release=1, spec_hash="1")
    batch.put(state.assignments, "near/0/1/n", row)


def paces(session: Session) -> list[float]:
    """The intervals that it was told."""
    told = []
    while not session.outbox.empty():
        message = session.outbox.get_nowait()
        if message.HasField("pace"):
            told.append(message.pace.heartbeat_interval.ToTimedelta().total_seconds())
    return told


async def test_a_large_fleet_beats_slower_and_what_runs_on_a_node_faster() -> None:
    state, observed = await fleet(), Observed(0.0, 0.0)
    pace = pacing(state, beats_per_s=COUNT / 100)
    hub = Hub(observed, lambda: 1.0, pace)
    greeting = hello()
    greeting.paced = True
    session = Session("n0001", greeting, 1)
    assert hub.welcomed(session) == 10.0, "a third of the time after which it would be lost"
    hub.enter(session)
    facts = observed.session("n0001", node_pb2.NODE_ROLE_EDGE)
    hub.beat(session, agent_pb2.Heartbeat())
    assert paces(session) == [], "nothing has changed"

    await state.transact(lambda batch: put_replica(state, batch, "n0001", lost_after_s=60, fence_after_s=6))
    hub.publish(publication(state, observed))
    assert paces(session) == [2.0], "a third of its lease, with the first that is to run here"
    assert facts.heartbeat_s == 10.0, "until it is heard again it may keep the longer one"
    hub.beat(session, agent_pb2.Heartbeat())
    assert facts.heartbeat_s == 2.0

    hub.beat(session, agent_pb2.Heartbeat(drill_clients=[agent_pb2.DrillClientCounts()]))
    assert paces(session) == [1.0], "much is to be heard of clients of a drill"
    hub.beat(session, agent_pb2.Heartbeat())
    assert paces(session) == [2.0]
    assert facts.heartbeat_s == 2.0


async def test_dns_servers_and_agents_that_know_of_no_pace_keep_theirs() -> None:
    state, observed = await fleet(), Observed(0.0, 0.0)
    hub = Hub(observed, lambda: 1.0, pacing(state, beats_per_s=COUNT / 100))
    dns = Session("n0002", agent_pb2.Hello(role=node_pb2.NODE_ROLE_DNS, paced=True), 1)
    assert hub.welcomed(dns) == 1.0
    old = Session("n0001", hello(), 1)
    assert hub.welcomed(old) == 10.0
    hub.enter(old)
    await state.transact(lambda batch: put_replica(state, batch, "n0001", lost_after_s=6))
    hub.publish(publication(state, observed))
    hub.beat(old, agent_pb2.Heartbeat())
    assert paces(old) == []
    assert observed.session("n0001", node_pb2.NODE_ROLE_EDGE).heartbeat_s == 10.0


class SlowStore(MemoryStore):
    """Commits one transaction after the other, each after others had their turn; counts and may fail."""

    def __init__(self) -> None:
        super().__init__()
        self.commits = 0
        self.fails = False

    async def commit(self, transaction: Transaction) -> Committed:
        await asyncio.sleep(0)
        self.commits += 1
        if self.fails:
            raise LocciError(Code.UNAVAILABLE, "STORE_UNAVAILABLE", "the disk is full")
        return await super().commit(transaction)


async def test_nodes_that_arrive_together_are_noted_together() -> None:
    store = SlowStore()
    state = await fleet(store)
    before = store.commits
    arrivals = Arrivals(state)
    await asyncio.gather(*(arrivals.note(f"n{n:04}", hello(), 7, 1.0) for n in range(COUNT)))
    assert all(node.sessions[0].epoch == 7 and node.sessions[0].connected for node in state.nodes.values())
    assert store.commits - before <= COUNT // ARRIVALS_AT_ONCE + 2


async def test_a_store_that_cannot_be_written_fails_each_of_them_and_is_asked_again() -> None:
    store = SlowStore()
    state = await fleet(store)
    arrivals = Arrivals(state)
    store.fails = True
    ends = await asyncio.gather(*(arrivals.note(f"n{n:04}", hello(), 7, 1.0) for n in range(9)), return_exceptions=True)
    assert all(isinstance(end, LocciError) and end.code is Code.UNAVAILABLE for end in ends)
    assert not any(node.sessions for node in state.nodes.values())
    store.fails = False
    await arrivals.note("n0001", hello(), 8, 1.0)
    assert state.nodes.need("nodes/n0001").sessions[0].epoch == 8
    assert not state.nodes.need("nodes/n0002").sessions


async def test_one_that_goes_away_takes_none_of_the_others_along() -> None:
    store = SlowStore()
    state = await fleet(store)
    arrivals = Arrivals(state)
    waiting = [asyncio.create_task(arrivals.note(f"n{n:04}", hello(), 7, 1.0)) for n in range(9)]
    for _ in range(3):
        await asyncio.sleep(0)
    waiting[0].cancel()
    ends = await asyncio.gather(*waiting, return_exceptions=True)
    assert [end for end in ends[1:] if end is not None] == []
    assert all(state.nodes.need(f"nodes/n{n:04}").sessions for n in range(1, 9))


async def test_a_commit_is_mirrored_also_when_its_caller_goes_away() -> None:
    store = SlowStore()
    state = State(store)
    region = region_pb2.Region(name="regions/a")
    changing = asyncio.create_task(state.transact(lambda batch: batch.put(state.regions, region.name, region)))
    await asyncio.sleep(0)
    for _ in range(2):
        changing.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await changing
    assert [row.name for row in await store.load()] == list(state.regions) == ["regions/a"]
    assert state.revision == await store.revision()


async def test_who_does_not_wait_any_more_is_not_noted() -> None:
    store = SlowStore()
    state = await fleet(store)
    arrivals = Arrivals(state)
    first = asyncio.create_task(arrivals.note("n0001", hello(), 1, 1.0))
    await asyncio.sleep(0)
    second = asyncio.create_task(arrivals.note("n0002", hello(), 1, 1.0))
    await asyncio.sleep(0)
    second.cancel()
    await first
    with pytest.raises(asyncio.CancelledError):
        await second
    await arrivals.note("n0003", hello(), 1, 1.0)
    assert not state.nodes.need("nodes/n0002").sessions


def slow_at_once(dark: list[Sight]) -> int:
    """How many went dark within `AT_ONCE_S`, by looking at every pair."""
    return max(
        (sum(1 for s in dark if 0 <= (s.dark_since or 0) - (d.dark_since or 0) <= AT_ONCE_S) for d in dark), default=0
    )


@given(st.lists(st.integers(0, 200)))
def test_the_brake_finds_the_largest_number_that_went_dark_at_once(times: list[int]) -> None:
    dark = [Sight(f"n{i}", "r", float(at)) for i, at in enumerate(times)]
    found = _at_once(dark)
    assert len(found) == slow_at_once(dark)
    if found:
        moments = [s.dark_since or 0.0 for s in found]
        assert max(moments) - min(moments) <= AT_ONCE_S


async def test_tables_are_in_order_whatever_comes_and_goes() -> None:
    state = State(MemoryStore())
    for name in ("regions/c", "regions/a", "regions/b"):
        await state.transact(lambda batch, n=name: batch.put(state.regions, n, region_pb2.Region(name=n)))  # type: ignore[misc]
    assert [name for name, _ in state.regions.items()] == ["regions/a", "regions/b", "regions/c"]
    assert state.regions.first_name() == "regions/a"
    await state.transact(lambda batch: batch.delete(state.regions, "regions/a"))
    assert list(state.regions) == ["regions/b", "regions/c"]
    last = state.regions.last()
    assert last is not None
    assert last.name == "regions/c"
    changed = region_pb2.Region(name="regions/b", display_name="B")
    await state.transact(lambda batch: batch.put(state.regions, "regions/b", changed))
    assert dict(state.regions.items())["regions/b"].display_name == "B"
