"""The synthetic clients of a drill against what DNS and HTTP on the loopback answer, garbage among it."""

from __future__ import annotations

import asyncio

import pytest

from agent.drill_clients import DrillClients
from fleet.clock import SystemClock
from fleet.snapshot import Snapshot
from locci.v1 import agent_pb2, drill_pb2, resource_pb2
from tests.integration.agent.rig import eventually, named


async def counted(*name_servers: str, address: str = "") -> agent_pb2.DrillClientCounts:
    """What one client has counted after its first request."""
    client = drill_pb2.DrillClient(run="drills/cut/runs/1", hostname="hello.example.net", name_servers=name_servers)
    client.askers.add(region="regions/eu", address=address)
    resource = named(resource_pb2.Resource(name="drillclients/cut/1", drill_client=client))
    clients = DrillClients(SystemClock())
    clients.want(Snapshot(1, {resource.name: resource}))
    try:
        await eventually(lambda: any(row.requests for row in clients.counts()), "a request is counted")
        return clients.counts()[0]
    finally:
        await clients.close()


@pytest.mark.parametrize("text", ["garbage", "", "192.0.2.1.5", "ns.example.net"])
async def test_a_name_server_that_is_no_address_is_a_failure_with_its_reason(text: str) -> None:
    found = await asyncio.wait_for(counted(text), 20)
    assert found.failed == found.requests
    assert "is no address of a DNS server" in found.last_failure
    assert repr(text) in found.last_failure


async def test_a_client_subnet_that_is_no_address_is_a_failure_with_its_reason() -> None:
    found = await asyncio.wait_for(counted("127.0.0.1", address="nonsense"), 20)
    assert found.failed == found.requests
    assert "'nonsense' is no address" in found.last_failure
