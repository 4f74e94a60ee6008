"""A drill goes on when the control plane that leads is killed, and when the database is gone for a while."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from fleet.enrol import join
from fleet.identity import IdentityDirectory
from locci.v1 import node_pb2
from tests.fakes.postgres import Postgres
from tests.integration.control_plane.rig import Host, until
from tests.integration.control_plane.test_registry import real
from tests.integration.control_plane.test_shared import Trio, database, manifest, trio

__all__ = ["database", "real", "trio"]

pytestmark = pytest.mark.drill

PLACES = {"eu": (50, 8), "us": (39, -77), "ap": (1, 104)}
PATIENCE_S = 90.0
_EDGE = ["images", "replicas", "routes", "faults", "drillclients"]
_DNS = ["hostnames", "regions", "zones"]


async def host(trio: Trio, node: str, region: str, *, dns: bool = False) -> Host:
    token = (await trio.post(trio.servers[1], "/v1/joinTokens", {"region": f"regions/{region}"} | _roles(dns)))["token"]
    directory = IdentityDirectory(trio.folder / f"identity-{node}")
    await join(
        server=f"https://{trio.servers[2].endpoints['http']}",
        token=token,
        node_id=node,
        addresses=[f"192.0.2.{1 + len(trio.hosts)}"],
        directory=directory,
        facts=node_pb2.NodeFacts(hostname=node, architecture="amd64"),
    )
    role = node_pb2.NODE_ROLE_DNS if dns else node_pb2.NODE_ROLE_EDGE
    found = Host(directory, trio.folder / f"{node}.snapshot", role, _DNS if dns else _EDGE)
    trio.hosts[node] = found
    found.connect()
    return found


def _roles(dns: bool) -> dict[str, Any]:
    return {"roles": ["NODE_ROLE_DNS"]} if dns else {}


def find(dns: Host, **found: bool) -> None:
    dns.found = dict(found)
    dns.link.wake()


async def run_of(trio: Trio) -> Any:
    alive = next(server for server in trio.servers if server.process is not None)
    return await trio.get(alive, "/v1/drills/cut/runs/1")


async def in_state(trio: Trio, *states: str) -> Any:
    async def reached() -> Any:
        row = await run_of(trio)
        return row if row["state"] in {f"STATE_{state}" for state in states} else None

    return await until(reached, f"a state of {states}", PATIENCE_S)


@pytest.mark.parametrize("trouble", ["leader", "database"])
async def test_a_drill_goes_on(trio: Trio, database: Postgres, real: str, trouble: str) -> None:
    a = trio.servers[0]
    for region, (latitude, longitude) in PLACES.items():
        await trio.post(a, f"/v1/regions?region_id={region}", {"latitude": latitude, "longitude": longitude})
    eu, us = await host(trio, "eu-1", "eu"), await host(trio, "us-1", "us")
    dns = await host(trio, "ap-dns", "ap", dns=True)
    await trio.condition(a, "READY")
    app = manifest(real, "1")
    app["manifest"]["placement"] = {"regions": ["eu", "us"], "replicas_per_region": 1}
    await trio.post(a, "/v1/apps:apply", app)
    await until(lambda: len(eu.running) == len(us.running) == 1, "the app runs", PATIENCE_S)
    spec = {
        "fault": "FAULT_KIND_NODE_CUT",
        "target": "nodes/eu-1",
        "hostname": "hello.example.net",
        "fault_duration": "20s",
        "withdraw_objective": "19s",
    }
    await trio.post(a, "/v1/drills?drill_id=cut", {"spec": spec})
    find(dns, **{"eu-1": True, "us-1": True})

    async def begun() -> bool:
        return (await trio.ask(a, "POST", "/v1/drills/cut:run", {}))[0] == 200

    await until(begun, "it begins", PATIENCE_S)
    await until(lambda: "faults/cut/1" in eu.resources, "the target is asked")
    eu.tell("FaultBegan", "drills/cut/runs/1", "it began")
    await in_state(trio, "FAULTY")
    find(dns, **{"eu-1": False, "us-1": True})

    if trouble == "leader":
        await (await trio.leader()).end(signal.SIGKILL)
    else:
        database.stop()
        database.start()
    row = await in_state(trio, "RECOVERING")
    assert row["abort_reason"] == "", row["abort_reason"]
    await until(lambda: "faults/cut/1" not in eu.resources, "the target is no longer asked", PATIENCE_S)
    eu.tell("FaultEnded", "drills/cut/runs/1", "it was undone")
    find(dns, **{"eu-1": True, "us-1": True})
    ended = await in_state(trio, "PASSED", "FAILED", "ABORTED")
    assert ended["state"] == "STATE_PASSED", ended
    assert [mark["stage"] for mark in ended["marks"]] == ["fault", "detected", "withdrawn", "healed", "restored"]
    alive = next(server for server in trio.servers if server.process is not None)
    for kind in ("DrillRunStarting", "DrillRunFaulty", "DrillRunRecovering", "DrillRunPassed"):
        assert len(await trio.events(alive, kind)) == 1, kind
    assert len(eu.started) == len(us.started) == 1, "no container was started anew"
