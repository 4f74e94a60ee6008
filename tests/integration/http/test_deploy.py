"""`locci apply --wait` and its kin as processes, against a control plane with simulated hosts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from control_plane.app import server_context, services
from control_plane.http.listener import HttpListener, start_http
from tests.integration.control_plane.rig import Rig, running
from tests.integration.http.conftest import CommandLine

MANIFEST = """\
name: hello
image: registry.test:5000/hello:1
ports:
  - container_port: 80
placement: {replicas_per_region: 1}
rollout: {healthy_for: 0.2s, health_deadline: 2s}
"""


@dataclass
class Fleet:
    """A control plane with two hosts, its HTTPS side, and a command line for it."""

    rig: Rig
    listener: HttpListener
    line: CommandLine

    async def locci(self, *arguments: str, stdin: str = "") -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            *self.line.command(*arguments),
            env=self.line.env(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(40):
            out, err = await process.communicate(stdin.encode())
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    async def serve(self, port: int = 0) -> None:
        plane = self.rig.plane
        tls = server_context(plane.authority.server_pem)
        listen = f"127.0.0.1:{port}"
        self.listener = await start_http(
            services(plane.context), plane.authenticate, listen, tls, lambda: plane.is_ready
        )


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with running(tmp_path) as rig:
        fleet = Fleet(rig, None, CommandLine(tmp_path, tmp_path / "context.json"))  # type: ignore[arg-type]
        await fleet.serve()
        context = json.loads((rig.settings.data_dir / "context.json").read_text())
        context["server"] = f"https://127.0.0.1:{fleet.listener.port}"
        fleet.line.context.write_text(json.dumps(context))
        await rig.region("eu", 50.1, 8.7)
        await rig.region("us", 40.7, -74.0)
        await rig.host("eu-1", "eu", address="192.0.2.1")
        await rig.host("us-1", "us", address="192.0.2.2")
        yield fleet
        await fleet.listener.close()


async def test_a_deployment_from_plan_to_rollback(fleet: Fleet) -> None:
    code, out, err = await fleet.locci("plan", "-f", "-", "-o", "json", stdin=MANIFEST)
    assert code == 0, err
    assert {change["node"] for change in json.loads(out)[0]["changes"]} == {"nodes/eu-1", "nodes/us-1"}
    code, out, err = await fleet.locci("apply", "-f", "-", "--wait", stdin=MANIFEST)
    assert code == 0, err
    assert out.startswith("hello: release 1 succeeded, registry.test:5000/hello@sha256:")
    assert "hello: release 1 succeeded, 2 of 2 healthy" in err
    code, out, _ = await fleet.locci("apply", "-f", "-", "--wait", stdin=MANIFEST)
    assert (code, out) == (0, "hello: unchanged, release 1\n")
    code, out, err = await fleet.locci("deploy", "-f", "-", stdin=f"{MANIFEST}env: {{A: b}}\n")
    assert code == 0, err
    code, out, err = await fleet.locci("rollback", "hello", "--to", "1", "--wait")
    assert code == 0, err
    assert "succeeded" in out
    _, out, _ = await fleet.locci("ps", "hello", "-o", "json")
    assert [(r["node"], r["release"], r["healthy"]) for r in json.loads(out)] == [
        ("nodes/eu-1", "1", True),
        ("nodes/us-1", "1", True),
    ]
    _, out, _ = await fleet.locci("releases", "hello")
    assert [line.split()[0] for line in out.splitlines()] == ["RELEASE", "2", "1"]
    code, out, _ = await fleet.locci("status", "hello")
    assert (code, "2/2" in out) == (0, True)
    assert (await fleet.locci("status"))[0] == 0


async def test_a_release_that_fails_ends_with_7_and_the_reason(fleet: Fleet) -> None:
    assert (await fleet.locci("deploy", "-f", "-", stdin=MANIFEST))[0] == 0
    for host in fleet.rig.hosts.values():
        host.behave = lambda replica: (replica.release == 1, "" if replica.release == 1 else "probe got 500")
    code, out, err = await fleet.locci("deploy", "-f", "-", stdin=f"{MANIFEST}env: {{BROKEN: '1'}}\n")
    assert (code, out) == (7, "")
    assert "error: hello: release 2 failed; every replica is back on the last good release: " in err
    assert "probe got 500" in err
    assert "sh: it broke" in err
    assert "hint: `locci ps hello`" in err


async def test_following_goes_on_over_a_restart_of_the_listener(fleet: Fleet) -> None:
    for host in fleet.rig.hosts.values():
        host.behave = lambda replica: (False, "still starting")
    manifest = MANIFEST.replace("health_deadline: 2s", "health_deadline: 60s")
    deploying = asyncio.create_task(fleet.locci("deploy", "-f", "-", stdin=manifest))
    async with asyncio.timeout(60):
        while not fleet.rig.hosts["eu-1"].running:
            await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)
    port = fleet.listener.port
    await fleet.listener.close()
    await fleet.serve(port)
    for host in fleet.rig.hosts.values():
        host.behave = lambda replica: (True, "")
        host.act()
    code, out, err = await deploying
    assert code == 0, err
    assert "connection lost, trying again" in err
    assert out.startswith("hello: release 1 succeeded")


async def test_nodes_are_cordoned_labelled_revoked_and_removed(fleet: Fleet) -> None:
    assert (await fleet.locci("nodes", "cordon", "eu-1"))[0] == 0
    _, out, _ = await fleet.locci("nodes", "ls", "--region", "eu", "-o", "json")
    assert [(node["name"], node["cordoned"]) for node in json.loads(out)] == [("nodes/eu-1", True)]
    assert (await fleet.locci("nodes", "uncordon", "eu-1"))[0] == 0
    assert (await fleet.locci("nodes", "label", "eu-1", "disk=ssd", "old=1"))[0] == 0
    code, out, err = await fleet.locci("nodes", "label", "eu-1", "rack=7", "old-")
    assert code == 0, err
    assert "disk=ssd,rack=7" in out
    assert (await fleet.locci("nodes", "revoke", "us-1", "--reason", "stolen"))[0] == 0
    _, out, _ = await fleet.locci("nodes", "show", "us-1")
    assert "revoked" in out
    code, _, err = await fleet.locci("nodes", "rm", "eu-1")
    assert code == 1, err
    assert (await fleet.locci("nodes", "rm", "us-1", "--force"))[0] == 0
    assert (await fleet.locci("nodes", "show", "us-1"))[0] == 4
