"""A real edge tells its agent how far its clients are, and what came of requests that it passed on."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.edge import config_link
from locci.v1 import edge_pb2
from tests.fakes.edge_agent import route
from tests.fakes.origin import Origin
from tests.integration.edge.client import fetch, until
from tests.integration.edge.conftest import Edge, MakeEdge
from tests.integration.edge.test_failover import closed_port
from tests.integration.edge.test_peers import joined


def seen(edge: Edge) -> list[edge_pb2.EdgeSightings]:
    return edge.agent.sightings


async def test_round_trips_of_clients(make_edge: MakeEdge, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_link, "ROUND_TRIPS_INTERVAL_S", 0.0)
    edge = await make_edge()
    await edge.serve(route("hello", ["hello.test"], [origin.address]))
    for _ in range(5):
        assert (await fetch(edge.port)).status == 200
    await until(lambda: sum(trip.samples for one in seen(edge) for trip in one.round_trips) == 5)
    trips = [trip for one in seen(edge) for trip in one.round_trips]
    assert {trip.network for trip in trips} == {"127.0.0.0/24"}
    assert all(0 < trip.round_trip_us < 1_000_000 for trip in trips)


async def test_requests_passed_to_other_nodes(make_edge: MakeEdge, origin: Origin, tmp_path: Path) -> None:
    near = await joined(make_edge, tmp_path, "eu-1", "eu")
    far = await joined(make_edge, tmp_path, "us-1", "us")
    await far.serve(route("hello", ["hello.test"], [origin.address]))
    peers = [("us", "us-1", f"127.0.0.1:{far.worker.peer_port}"), ("ap", "ap-1", closed_port())]
    await near.serve(route("hello", ["hello.test"], [], peers=peers[::-1]))
    for _ in range(4):
        assert (await fetch(near.port)).status == 200

    def counts() -> dict[str, tuple[int, int]]:
        found: dict[str, tuple[int, int]] = {}
        for one in seen(near):
            for passed in one.passes:
                answered, failed = found.get(passed.node, (0, 0))
                found[passed.node] = answered + passed.answered, failed + passed.failed
        return found

    await until(lambda: counts().get("us-1") == (4, 0))
    await until(lambda: counts().get("ap-1", (0, 0))[1] >= 1)
    reasons = [passed.reason for one in seen(near) for passed in one.passes if passed.node == "ap-1"]
    assert any("refused" in reason.lower() or "connect" in reason.lower() for reason in reasons), reasons
