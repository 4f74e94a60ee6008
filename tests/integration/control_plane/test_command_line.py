"""`locci` as operators call it, against a real control plane with simulated hosts over mTLS."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from control_plane.http.listener import HttpListener, start_http
from tests.integration.control_plane.rig import DEADLINE_S, Rig, running

MANIFEST = """
name: hello
image: registry.test:5000/hello:{tag}
ports:
  - name: http
    container_port: 8080
placement:
  replicas_per_region: {replicas}
rollout:
  healthy_for: 0.2s
  health_deadline: 5s
"""


@dataclass(frozen=True)
class Said:
    """What a command wrote, and its exit code."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Terminal:
    """A control plane, and the context file by which it is reached."""

    rig: Rig
    context: Path

    def manifest(self, tag: str, replicas: int = 2) -> str:
        """A file with a manifest."""
        path = self.context.with_name(f"app-{tag}-{replicas}.yaml")
        path.write_text(MANIFEST.format(tag=tag, replicas=replicas))
        return str(path)


async def locci(terminal: Terminal, *arguments: str) -> Said:
    """Runs the program itself."""
    env = {**os.environ, "LOCCI_CONTEXT": str(terminal.context), "NO_COLOR": "1"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli.main", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=env,
    )
    async with asyncio.timeout(DEADLINE_S):
        out, err = await process.communicate()
    return Said(process.returncode or 0, out.decode(), err.decode())


async def done(terminal: Terminal, *arguments: str) -> Said:
    """What a command said that has to succeed."""
    said = await locci(terminal, *arguments)
    assert said.code == 0, said.err
    return said


@pytest.fixture
async def terminal(tmp_path: Path) -> AsyncIterator[Terminal]:
    listeners: list[HttpListener] = []

    async def listen(*args: Any) -> HttpListener:
        listeners.append(await start_http(*args))
        return listeners[-1]

    async with running(tmp_path, start_http=listen) as rig:
        context = tmp_path / "context.json"
        token = (rig.settings.data_dir / "admin.token").read_text().strip()
        server = f"https://127.0.0.1:{listeners[-1].port}"
        context.write_text(json.dumps({"server": server, "ca_pem": rig.plane.authority.ca_pem, "token": token}))
        context.chmod(0o600)
        await rig.region("eu", 50.1, 8.7)
        for number in range(1, 3):
            await rig.host(f"eu-{number}", "eu")
        yield Terminal(rig, context)


async def test_what_a_change_would_do_is_shown_before_it_is_done(terminal: Terminal) -> None:
    await done(terminal, "deploy", "-f", terminal.manifest("1"))
    drain = await done(terminal, "nodes", "drain", "eu-1", "--dry-run")
    assert "move" in drain.out
    assert "node eu-1 drains" in drain.out
    refused = await locci(terminal, "nodes", "rm", "eu-1", "--dry-run")
    assert refused.code == 1
    assert "connected" in refused.err
    assert "stop" in (await done(terminal, "apps", "rm", "hello", "--dry-run")).out
    assert (await locci(terminal, "rollback", "hello", "--dry-run")).code == 1
    assert "no replica would" in (await done(terminal, "nodes", "cordon", "eu-1", "--dry-run")).err
    node = json.loads((await done(terminal, "nodes", "show", "eu-1", "-o", "json")).out)
    assert not node.get("cordoned")
    assert "nothing is placed better" in (await done(terminal, "rebalance", "--all", "--dry-run")).err
    assert "nothing is placed better" in (await done(terminal, "rebalance", "hello", "--moves", "2")).err
    assert (await locci(terminal, "rebalance")).code == 2
    region = await locci(terminal, "regions", "rm", "eu", "--dry-run")
    assert region.code == 1
    assert "remove its nodes first" in region.err


async def test_restarts_and_what_a_release_changed(terminal: Terminal) -> None:
    await done(terminal, "deploy", "-f", terminal.manifest("1"))
    assert "replace" in (await done(terminal, "restart", "hello", "--dry-run")).out
    assert "release 2 succeeded" in (await done(terminal, "restart", "hello", "--wait")).out
    await done(terminal, "deploy", "-f", terminal.manifest("2"))
    lines = (await done(terminal, "releases", "hello", "--diff", "2", "3")).out.splitlines()
    assert "-  image: registry.test:5000/hello:1" in lines
    assert "+  image: registry.test:5000/hello:2" in lines
    assert "are the same" in (await done(terminal, "releases", "hello", "--diff", "3", "3")).err
    assert "succeeded" in (await done(terminal, "rollback", "hello", "--to", "1", "--wait")).out
