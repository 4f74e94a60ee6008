"""The host's clock jumps under an edge: requests are answered as before, and nothing that is stored gets younger."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.fakes.edge_agent import FakeAgent, config, route
from tests.fakes.origin import Origin, Seen
from tests.fakes.ports import free_port
from tests.fakes.wall_clock import WallClock
from tests.integration.edge.client import fetch
from tests.integration.edge.test_process import _none_is_left, healthy, start

__all__ = ["_none_is_left"]


@pytest.mark.parametrize("offset", ["+400d", "-400d"])
async def test_a_clock_that_jumps_fails_no_request(tmp_path: Path, origin: Origin, offset: str) -> None:
    async def kept(seen: Seen) -> None:
        await seen.answer(200, b"hello", Cache_Control="max-age=600")

    origin.handler = kept
    clock, agent, port = WallClock(tmp_path), FakeAgent(tmp_path), free_port()
    agent.config = config(1, [route("hello", ["hello.test"], [origin.address])])
    await agent.start()
    settings = {"http_listen": [f"127.0.0.1:{port}"], "admin_listen": "", "workers": 1}
    process = await start(tmp_path, clock.environment, **settings)
    try:
        await healthy(port)
        assert (await fetch(port, "/kept")).status == 200
        for moment in (offset, "+0"):
            clock.jump(moment)
            for number in range(20):
                for path in ("/kept", f"/fresh/{moment}/{number}"):
                    response = await fetch(port, path)
                    assert (response.status, response.body) == (200, b"hello")
                    assert int(response.headers.get("age", "0")) >= 0
                await asyncio.sleep(0.02)
        assert process.returncode is None
    finally:
        await agent.stop()
