"""The agent with the real edge: what a client sees."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections import Counter
from collections.abc import AsyncIterator

import aiohttp
import pytest

from lab.machine import clean_environment
from lab.preflight import own_program
from tests.integration.agent.rig import Rig, eventually, replica, route

pytestmark = pytest.mark.lab

IN_ROW = 16


class Client:
    """Asks again and again, on connections that live on and on fresh ones."""

    def __init__(self, address: str):
        self._url = f"http://{address}/"
        self.answers: Counter[str] = Counter()

    @contextlib.asynccontextmanager
    async def asking(self) -> AsyncIterator[Client]:
        tasks = [asyncio.create_task(self._run(fresh)) for fresh in (False, False, True)]
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def ask(self, session: aiohttp.ClientSession) -> str:
        try:
            async with session.get(self._url, headers={"Host": "web.example.net"}) as response:
                text = (await response.text()).strip()
                return text if response.status == 200 else f"status {response.status}: {text}"
        except (aiohttp.ClientError, TimeoutError) as error:
            return type(error).__name__

    async def _run(self, fresh: bool) -> None:
        connector = aiohttp.TCPConnector(force_close=fresh)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=15), connector=connector) as session:
            while True:
                self.answers[await self.ask(session)] += 1
                await asyncio.sleep(0.005)

    async def until(self, answer: str) -> None:
        """Returns when every worker answers this, as far as so many fresh connections can tell."""
        connector, got = aiohttp.TCPConnector(force_close=True), [""]
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5), connector=connector) as session,
                asyncio.timeout(20),
            ):
                while set(got[-IN_ROW:]) != {answer} or len(got) <= IN_ROW:
                    got.append(await self.ask(session))
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"not all of them answer {answer!r}: {Counter(got)}, last {got[-IN_ROW:]}") from None


@contextlib.asynccontextmanager
async def edge(rig: Rig) -> AsyncIterator[str]:
    """The edge of the rig's host; where it listens."""
    address = f"{rig.host.inside}:8000"
    config = rig.folder / "edge.toml"
    config.write_text(
        f'http_listen = ["{address}"]\nhttps_listen = []\npeer_listen = ""\nadmin_listen = ""\n'
        f'run_dir = "{rig.run}"\nstate_dir = "{rig.folder / "edge"}"\n'
    )
    process = _start(rig, str(config))
    (rig.folder / "edge.pid").write_text(str(process.pid))
    try:
        yield address
    finally:
        process.kill()
        await asyncio.to_thread(process.wait, 10)


def _start(rig: Rig, config: str) -> subprocess.Popen[bytes]:
    argv = rig.host.command(own_program("locci-edge"), "run", "--config", config)
    with (rig.folder / "edge.log").open("wb") as output:
        return subprocess.Popen(argv, stdout=output, stderr=output, env=clean_environment())


async def test_no_request_fails_while_releases_follow_each_other_and_the_agent_dies(rig: Rig) -> None:
    one, two = [await asyncio.to_thread(rig.host.push, f"r{n}", {"www/index.html": f"release {n}\n"}) for n in (1, 2)]
    rig.start()
    async with edge(rig) as address:
        first = [replica(one, ordinal=n) for n in range(2)]
        second = [replica(two, ordinal=n, release=2) for n in range(2)]
        rig.control_plane.want(route(), *first)
        await Client(address).until("release 1")
        await eventually(lambda: all(rig.control_plane.ready(r.name) for r in first), "both are ready")
        async with Client(address).asking() as client:
            for n in range(2):
                rig.control_plane.want(route(), *first[n:], *second[: n + 1])
                await eventually(lambda n=n: rig.control_plane.ready(second[n].name), "the new one is ready")  # type: ignore[misc]
                revision = rig.control_plane.want(route(), *first[n + 1 :], *second[: n + 1])
                await eventually(lambda r=revision: rig.control_plane.applied == r, "the old one is gone")  # type: ignore[misc]
            await rig.kill()
            rig.start()
            await eventually(lambda: rig.control_plane.sessions == 2 and rig.control_plane.applied == revision, "back")
            await client.until("release 2")
        assert set(client.answers) == {"release 1", "release 2"}, client.answers
        assert client.answers["release 2"] > 10
