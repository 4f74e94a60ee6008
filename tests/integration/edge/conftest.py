"""An edge in this process, on the loop that it has in production, with real sockets around it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from agent.edge.app import Worker
from agent.edge.settings import EdgeSettings
from locci.v1 import edge_pb2, resource_pb2
from tests.fakes.edge_agent import FakeAgent, config, route
from tests.fakes.origin import Origin
from tests.integration.edge.client import until


@pytest.fixture(scope="session")
def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    policy: asyncio.AbstractEventLoopPolicy = uvloop.EventLoopPolicy()
    return policy


class Edge:
    """A worker with its agent; `generation` rises with each configuration."""

    def __init__(self, path: Path, settings: EdgeSettings):
        self.path = path
        self.settings = settings
        self.agent = FakeAgent(path)
        self.worker: Worker
        self.generation = 0
        self.fields: dict[str, str] = {}
        self.certificates: list[resource_pb2.CertificateMaterial] = []

    @property
    def port(self) -> int:
        return self.worker.http_ports[0]

    @property
    def counters(self) -> Any:
        return self.worker.state.counters

    async def start(self) -> None:
        await self.agent.start()
        self.worker = Worker(self.settings)
        await self.worker.start()

    async def serve(self, *routes: edge_pb2.EdgeRoute) -> None:
        """Returns when the edge serves these."""
        self.generation += 1
        await until(lambda: bool(self.agent.hellos))
        wanted = config(self.generation, list(routes), **self.fields)
        wanted.certificates.extend(self.certificates)
        await self.agent.send(wanted)
        await until(lambda: self.worker.state.table.generation == self.generation)

    async def stop(self) -> None:
        await self.agent.stop()
        await self.worker.stop()


MakeEdge = Callable[..., Awaitable[Edge]]


@pytest.fixture
async def make_edge(tmp_path: Path) -> AsyncIterator[MakeEdge]:
    edges: list[Edge] = []

    async def make(name: str = "edge", **settings: Any) -> Edge:
        path = tmp_path / name
        path.mkdir()
        values: dict[str, Any] = {"http_listen": ["127.0.0.1:0"], "https_listen": [], "peer_listen": ""}
        values |= {"admin_listen": "", "workers": 1} | settings
        edge = Edge(path, EdgeSettings(run_dir=path, state_dir=path / "state", **values))
        await edge.start()
        edges.append(edge)
        return edge

    yield make
    for edge in edges:
        await edge.stop()


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    server = await Origin().start()
    yield server
    await server.stop()


@pytest.fixture
async def edge(make_edge: MakeEdge, origin: Origin) -> Edge:
    """An edge that serves hello.test from `origin`."""
    made = await make_edge()
    await made.serve(route("hello", ["hello.test"], [origin.address]))
    return made
