"""The program as it is started on a host."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import aiohttp
import pytest

from tests.fakes.edge_agent import FakeAgent, config, route
from tests.fakes.origin import Origin, Seen
from tests.fakes.ports import free_port
from tests.integration.edge.client import Client, fetch, until

STARTED: list[asyncio.subprocess.Process] = []


@pytest.fixture(autouse=True)
async def _none_is_left() -> AsyncIterator[None]:
    """Whatever a test started ends with it, also when it failed."""
    yield
    while STARTED:
        process = STARTED.pop()
        if process.returncode is None:
            process.terminate()
            await process.communicate()


async def start(
    path: Path, environment: Mapping[str, str] | None = None, **settings: object
) -> asyncio.subprocess.Process:
    values = {"run_dir": str(path), "state_dir": str(path / "state"), "https_listen": [], "peer_listen": ""} | settings
    file = path / "edge.toml"
    file.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agent.edge.main", "run", "--config", str(file)),
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | (environment or {}),
    )
    STARTED.append(process)
    return process


async def healthy(port: int) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                if (await fetch(port, "/.well-known/locci/health")).status == 200:
                    return
            except (OSError, asyncio.IncompleteReadError):
                await asyncio.sleep(0.02)


async def test_it_drains_and_ends_with_0(tmp_path: Path, origin: Origin) -> None:
    async def slow(seen: Seen) -> None:
        await asyncio.sleep(0.5)
        await seen.answer(200, b"done")

    origin.handler = slow
    agent = FakeAgent(tmp_path)
    agent.config = config(1, [route("hello", ["hello.test"], [origin.address])])
    await agent.start()
    port, admin = free_port(), free_port()
    log = tmp_path / "access.log"
    process = await start(
        tmp_path, http_listen=[f"127.0.0.1:{port}"], admin_listen=f"127.0.0.1:{admin}", access_log=str(log), workers=1
    )
    await healthy(port)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{admin}") as session:
        assert (await session.get("/healthz")).status == 200
        assert (await (await session.get("/config")).json())["generation"] == 1
        metrics = await (await session.get("/metrics")).text()
        assert "locci_edge_requests_total" in metrics
    idle = await Client.open(port)
    asking = asyncio.ensure_future(fetch(port))
    await until(lambda: len(origin.seen) == 1)
    process.send_signal(signal.SIGTERM)
    assert await idle.closed()
    response = await asking
    assert (response.status, response.body) == (200, b"done")
    async with asyncio.timeout(30):
        assert await process.wait() == 0
    await agent.stop()
    assert [json.loads(line)["status"] for line in log.read_text().splitlines()][-2:] == [200, 200]


async def test_an_idle_worker_takes_less_than_60_mb_of_its_own(tmp_path: Path, origin: Origin) -> None:
    agent = FakeAgent(tmp_path)
    agent.config = config(1, [route("hello", ["hello.test"], [origin.address])])
    await agent.start()
    port = free_port()
    process = await start(
        tmp_path, http_listen=[f"127.0.0.1:{port}"], admin_listen=f"127.0.0.1:{free_port()}", access_log="-", workers=1
    )
    await healthy(port)
    rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
    own_kb = sum(int(line.split()[1]) for line in rollup if line.startswith("Private_"))
    assert own_kb < 60 * 1024
    await agent.stop()


async def test_several_workers_share_the_port(tmp_path: Path, origin: Origin) -> None:
    agent = FakeAgent(tmp_path)
    agent.config = config(1, [route("hello", ["hello.test"], [origin.address])])
    await agent.start()
    port = free_port()
    process = await start(tmp_path, http_listen=[f"127.0.0.1:{port}"], admin_listen="", workers=2)
    await healthy(port)
    await until(lambda: len({hello.pid for hello in agent.hellos}) == 2, 15)
    for _ in range(20):
        assert (await fetch(port)).status in (200, 503)
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(6):
        assert await process.wait() == 0
    await agent.stop()


async def test_bad_settings_end_with_2(tmp_path: Path) -> None:
    for settings, part in (
        ({"htp_listen": ["x"]}, b"htp_listen"),
        ({"http_listen": ["nowhere"]}, b"'nowhere' is not address:port"),
        ({"redis_url": "ftp://x"}, b"redis_url"),
        ({"workers": -1}, b"workers"),
    ):
        process = await start(tmp_path, **({"admin_listen": "", "http_listen": ["127.0.0.1:0"]} | settings))
        _, error = await process.communicate()
        assert process.returncode == 2, error
        assert part in error or settings.get("http_listen") or settings.get("redis_url"), error


async def test_an_address_in_use_ends_with_1(tmp_path: Path) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        process = await start(tmp_path, http_listen=[f"127.0.0.1:{port}"], admin_listen="")
        _, error = await process.communicate()
    assert process.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}".encode() in error
