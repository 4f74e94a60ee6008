"""What the RAM tier really takes, under very many distinct URLs.

`LOCCI_DISTINCT_URLS=1000000 python -m pytest tests/integration/edge/test_memory.py -m drill` for the long form.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.fakes.edge_agent import FakeAgent, config, route
from tests.fakes.origin import Origin, Seen
from tests.integration.edge.client import Client, until
from tests.integration.edge.test_redis_region import free_port

BUDGET = 32 * 2**20
DISTINCT = int(os.environ.get("LOCCI_DISTINCT_URLS", "100000"))
STORED = """
import gc, random, sys
import psutil
from agent.edge.core import freshness
from agent.edge.core.entry import make
from agent.edge.settings import EdgeSettings
from agent.edge.state import EdgeState
from fleet.clock import SystemClock

state = EdgeState(EdgeSettings(ram_cache_bytes=int(sys.argv[1])), SystemClock(), random.Random(1), None)
headers = [(b"Cache-Control", b"max-age=600"), (b"Content-Type", b"text/html"), (b"ETag", b'"1"')]
fields = {name.lower(): value for name, value in headers}
process = psutil.Process()
for number in range(int(sys.argv[2])):
    if number == 1000:
        gc.collect()
        before = process.memory_info().rss
    now = state.wall()
    vary = [(b"Vary", b"Accept-Language")] if number % 7 == 0 else []
    verdict = freshness.judge(b"GET", 200, {}, fields, now)
    body = b"x" * (number * 7919 % 3000)
    entry = make(200, b"OK", headers + vary, body, verdict, now, now)
    key = b"https://hello.test/articles/%d?page=%d" % (number, number % 9)
    state.keep(key, entry, {b"accept-language": b"de"})
    state.stored(key if number % 3 else b"https://hello.test/articles/1", {})
    entry.fix()
    if number % 1000 == 0:
        assert state.store.used_bytes <= int(sys.argv[1])
print(process.memory_info().rss - before, len(state.store), state.store.evicted)
"""


@pytest.mark.drill
def test_the_store_keeps_to_its_budget_in_bytes_of_the_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STORED, str(BUDGET), str(DISTINCT)], capture_output=True, text=True, check=True
    )
    grown, held, evicted = map(int, done.stdout.split())
    print(f"{DISTINCT} URLs: {held} held, {evicted} evicted, {grown / 2**20:.1f} MiB for {BUDGET / 2**20:.0f} MiB")
    assert held + evicted > DISTINCT * 0.9
    assert grown < BUDGET * 1.3


def resident(pid: int) -> int:
    """Bytes of the largest process below, which is the worker."""
    process = psutil.Process(pid)
    return max(each.memory_info().rss for each in (process, *process.children(recursive=True)))


@pytest.mark.drill
async def test_a_worker_under_distinct_urls(tmp_path: Path) -> None:
    """A whole process: connections, fetches, log and metrics included."""

    async def some(seen: Seen) -> None:
        await seen.answer(200, b"z" * 1000, Cache_Control="max-age=600")

    origin = await Origin(some).start()
    agent = FakeAgent(tmp_path)
    await agent.start()
    await agent.send(config(1, [route("hello", ["hello.test"], [origin.address])]))
    port = free_port()
    settings = tmp_path / "edge.toml"
    settings.write_text(
        f'http_listen = ["127.0.0.1:{port}"]\nhttps_listen = []\npeer_listen = ""\nadmin_listen = ""\n'
        f'run_dir = "{tmp_path}"\nstate_dir = "{tmp_path}/state"\nram_cache_bytes = {2**20 * 8}\n'
        f'access_log = "{tmp_path}/access.log"\n'
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agent.edge.main", "run", "--config", str(settings), stdout=asyncio.subprocess.DEVNULL
    )
    try:
        await until(lambda: bool(agent.acks))
        idle = resident(process.pid)
        number = 0

        async def ask() -> None:
            nonlocal number
            async with await Client.open(port) as client:
                while number < min(DISTINCT, 8000):
                    number += 1
                    assert (await client.get(f"/{number}")).status == 200

        await asyncio.gather(*(ask() for _ in range(8)))
        grown = resident(process.pid) - idle
    finally:
        process.terminate()
        await process.wait()
        await agent.stop()
        await origin.stop()
    print(f"idle {idle / 2**20:.1f} MiB, {grown / 2**20:.1f} MiB more after {number} URLs with 8 MiB of cache")
    assert idle < 90 * 2**20
    assert grown < 24 * 2**20
