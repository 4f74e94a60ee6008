"""An edge as it runs on a host: `locci-edge run` with one worker, in processes of its own, and an agent beside it."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from locci.v1 import edge_pb2, resource_pb2
from tests.fakes.edge_agent import FakeAgent, config
from tests.fakes.ports import free_port
from tests.integration.edge.client import until

START_S = 60.0
END_S = 30.0


class RunningEdge:
    """Its ports are fixed before it starts; `fields` and `certificates` go with each configuration."""

    def __init__(self, path: Path, **settings: Any):
        self.path = path
        self.port, self.https_port, self.peer_port, self._admin_port = (free_port() for _ in range(4))
        self.agent = FakeAgent(path)
        self.fields: dict[str, str] = {}
        self.certificates: list[resource_pb2.CertificateMaterial] = []
        self._settings = {
            "http_listen": [f"127.0.0.1:{self.port}"],
            "https_listen": [f"127.0.0.1:{self.https_port}"],
            "peer_listen": f"127.0.0.1:{self.peer_port}",
            "admin_listen": f"127.0.0.1:{self._admin_port}",
            "run_dir": str(path),
            "state_dir": str(path / "state"),
            "access_log": str(path / "access.log"),
            "workers": 1,
        } | settings
        self._generation = 0
        self._supervisor: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Returns when its worker asks for a configuration."""
        await self.agent.start()
        file = self.path / "edge.toml"
        file.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in self._settings.items()))
        self._supervisor = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "agent.edge.main", "run", "--config", str(file)
        )
        await until(lambda: bool(self.agent.hellos), START_S)

    async def serve(self, *routes: edge_pb2.EdgeRoute) -> None:
        """Returns when it has said that it serves these."""
        self._generation += 1
        wanted = config(self._generation, list(routes), **self.fields)
        wanted.certificates.extend(self.certificates)
        await self.agent.send(wanted)
        await until(lambda: any(ack.generation == self._generation for ack in self.agent.acks[-8:]))
        assert not self.agent.acks[-1].refused_reason, self.agent.acks[-1]

    @property
    def worker(self) -> psutil.Process:
        """The process that serves. One that was started again would be another."""
        assert len({hello.pid for hello in self.agent.hellos}) == 1, "the worker has ended and was started again"
        return psutil.Process(self.agent.hellos[0].pid)

    async def metrics(self) -> dict[str, float]:
        """What it says to Prometheus, by name; of several with the same name their sum."""
        async with aiohttp.ClientSession() as session:
            text = await (await session.get(f"http://127.0.0.1:{self._admin_port}/metrics")).text()
        found: dict[str, float] = {}
        for name, value in re.findall(r"^(\w+)(?:\{[^}]*\})? (\S+)$", text, re.MULTILINE):
            found[name] = found.get(name, 0.0) + float(value)
        return found

    async def stop(self) -> int:
        """Ends it as a host does; its exit code."""
        await self.agent.stop()
        if self._supervisor is None:
            return 0
        if self._supervisor.returncode is None:
            self._supervisor.terminate()
        async with asyncio.timeout(END_S):
            return await self._supervisor.wait()
