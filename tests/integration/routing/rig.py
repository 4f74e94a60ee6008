"""A DNS server on loopback with edges that can be told to fail, and a control plane that only feeds it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path

import dns.asyncquery
import dns.edns
import dns.message
import grpc

from fleet.rpc.channel import SERVER_OPTIONS
from fleet.snapshot import SnapshotFile, snapshot_hash
from locci.v1 import agent_pb2, agent_pb2_grpc, resource_pb2
from routing.app import DnsApp
from routing.settings import DnsSettings
from tests.fakes.authority import Authority
from tests.unit.routing.adapters.resources import PLACES, snapshot

REPOSITORY = Path(__file__).parents[3]


async def eventually(condition: Callable[[], Awaitable[bool] | bool], deadline_s: float = 30.0) -> None:
    """Returns as soon as the condition holds; fails after the deadline."""
    async with asyncio.timeout(deadline_s):
        while True:
            holds = condition()
            if (await holds) if isinstance(holds, Awaitable) else holds:
                return
            await asyncio.sleep(0.02)


class Edges:
    """An edge per region at 127.0.1.NUMBER, all at one port, that answers health probes."""

    def __init__(self) -> None:
        self.port = 0
        self.silent: set[str] = set()
        self.status: dict[str, str] = {}
        self._servers: dict[str, asyncio.Server] = {}
        self._open: set[asyncio.StreamWriter] = set()

    @staticmethod
    def address(region: str) -> str:
        """Where the region's edge listens."""
        return f"127.0.1.{PLACES[region][2]}"

    async def start(self, region: str) -> None:
        """Begins to answer; before that connections are refused."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._open.add(writer)
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await reader.readuntil(b"\r\n\r\n")
                if region not in self.silent:
                    status = self.status.get(region, "200 OK")
                    writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\n{{}}".encode())
                    await writer.drain()
                await reader.read()
            self._open.discard(writer)
            writer.close()

        self._servers[region] = await asyncio.start_server(serve, self.address(region), self.port)
        self.port = self._servers[region].sockets[0].getsockname()[1]

    def stop(self, region: str) -> None:
        """Refuses connections from now on."""
        self._servers.pop(region).close()

    def close(self) -> None:
        """Ends all."""
        for server in self._servers.values():
            server.close()
        for writer in tuple(self._open):
            writer.transport.abort()


class ControlPlane(agent_pb2_grpc.AgentServiceServicer):
    """Feeds what it is given and keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[agent_pb2.NodeMessage] = []
        self._deltas: asyncio.Queue[agent_pb2.Delta] = asyncio.Queue()
        self._nonce = 0

    async def Sync(  # type: ignore[override]  # noqa: N802
        self,
        request_iterator: AsyncIterator[agent_pb2.NodeMessage],
        context: grpc.aio.ServicerContext[agent_pb2.NodeMessage, agent_pb2.ControlMessage],
    ) -> None:
        self.heard.append(await anext(request_iterator))
        welcome = agent_pb2.ControlMessage(welcome=agent_pb2.Welcome(epoch=1))
        welcome.welcome.heartbeat_interval.FromMilliseconds(200)
        await context.write(welcome)

        async def send() -> None:
            while True:
                await context.write(agent_pb2.ControlMessage(delta=await self._deltas.get()))

        sending = asyncio.create_task(send())
        try:
            async for message in request_iterator:
                self.heard.append(message)
        finally:
            sending.cancel()

    def feed(self, resources: Iterable[resource_pb2.Resource], revision: int) -> None:
        """Sends a complete delta."""
        self._nonce += 1
        found = list(resources)
        digest = snapshot_hash((r.name, r.version) for r in found)
        self._deltas.put_nowait(
            agent_pb2.Delta(nonce=self._nonce, revision=revision, complete=True, snapshot_hash=digest, resources=found)
        )

    def said(self, kind: str) -> list[agent_pb2.NodeMessage]:
        """Messages of one kind."""
        return [message for message in self.heard if message.WhichOneof("message") == kind]

    def events(self) -> list[str]:
        """Types of all events that were told."""
        return [event.type for message in self.said("status") for event in message.status.events]


class Rig:
    """The parts, and where they keep their files."""

    def __init__(self, path: Path):
        self.path = path
        self.authority = Authority()
        self.edges = Edges()
        self.endpoints: tuple[str, ...] = ("127.0.0.1:1",)

    def settings(self, **changes: object) -> DnsSettings:
        """Settings for ephemeral ports on loopback."""
        values: dict[str, object] = {
            "listen": ["127.0.0.1:0"],
            "identity_dir": self.path / "identity",
            "state_dir": self.path / "state",
            "metrics_listen": "",
            "probe_timeout_s": 2.0,  # a busy machine is not a dead edge
        }
        return DnsSettings.model_validate(values | changes)

    def join(self) -> None:
        """Gives the host an identity."""
        self.authority.join(self.path / "identity", node="us-1", region="us", endpoints=self.endpoints)

    def keep(self, resources: Iterable[resource_pb2.Resource], revision: int = 7) -> None:
        """Puts a last accepted snapshot on disk."""
        (self.path / "state").mkdir(exist_ok=True)
        SnapshotFile(self.path / "state" / "snapshot").save(snapshot(resources, revision))

    @contextlib.asynccontextmanager
    async def control_plane(self) -> AsyncIterator[ControlPlane]:
        """A control plane that the program will dial."""
        control_plane = ControlPlane()
        server = grpc.aio.server(options=SERVER_OPTIONS)
        agent_pb2_grpc.add_AgentServiceServicer_to_server(control_plane, server)
        credentials = grpc.ssl_server_credentials(
            [self.authority.server()], self.authority.pem.encode(), require_client_auth=True
        )
        self.endpoints = (f"127.0.0.1:{server.add_secure_port('127.0.0.1:0', credentials)}",)
        await server.start()
        try:
            yield control_plane
        finally:
            await server.stop(None)

    @contextlib.asynccontextmanager
    async def running(self, **changes: object) -> AsyncIterator[DnsApp]:
        """The program in this process."""
        self.join()
        app = DnsApp(self.settings(**changes))
        await app.start()
        running = asyncio.create_task(app.run())
        try:
            yield app
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def spawn(self, port: int, workers: int = 1, **environment: str) -> asyncio.subprocess.Process:
        """The program in its own process, at a port; `environment` is added to this one's."""
        self.join()
        config = self.path / "dns.toml"
        config.write_text(
            f'listen = ["127.0.0.1:{port}"]\nidentity_dir = "{self.path}/identity"\n'
            f'state_dir = "{self.path}/state"\nmetrics_listen = ""\nworkers = {workers}\n'
        )
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "routing.main", "run", "--config", str(config)),
            cwd=REPOSITORY,
            stderr=-3,
            env=os.environ | environment,
        )

    async def call(self, *arguments: str) -> tuple[int, str, str]:
        """A command of `locci-dns` against the running program: exit code, output, errors."""
        command = [sys.executable, "-m", "routing.main", *arguments, "--config", str(self.path / "dns.toml")]
        process = await asyncio.create_subprocess_exec(*command, cwd=REPOSITORY, stdout=-1, stderr=-1)
        async with asyncio.timeout(20):
            out, err = await process.communicate()
        return process.returncode or 0, out.decode(), err.decode()


async def addresses(port: int, name: str = "hello.example.net", subnet: str = "", timeout_s: float = 10.0) -> set[str]:
    """The A records of an answer over UDP."""
    query = dns.message.make_query(name, "A")
    if subnet:
        query.use_edns(0, options=[dns.edns.ECSOption(subnet, 24)])
    answer = await dns.asyncquery.udp(query, "127.0.0.1", port=port, timeout=timeout_s)
    return {record.to_text() for rrset in answer.answer for record in rrset}


def as_json(text: str) -> dict[str, object]:
    """A JSON document."""
    found: dict[str, object] = json.loads(text)
    return found
