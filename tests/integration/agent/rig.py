"""An agent as its own process on a real engine, between a scripted control plane and a scripted edge."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc

from fleet.rpc.channel import SERVER_OPTIONS
from fleet.snapshot import SnapshotFile, snapshot_hash
from lab.machine import clean_environment
from lab.preflight import own_program
from locci.v1 import agent_pb2, agent_pb2_grpc, edge_pb2, manifest_pb2, replica_pb2, resource_pb2
from tests.fakes.authority import Authority
from tests.integration.engine_fixture import EngineHost

Session = grpc.aio.ServicerContext[agent_pb2.NodeMessage, agent_pb2.ControlMessage]

NODE = "eu-1"
SANDBOXES = 2


async def eventually(condition: Callable[[], object], what: str, deadline_s: float = 120.0) -> None:
    """Returns when `condition` holds; fails after the deadline."""
    try:
        async with asyncio.timeout(deadline_s):
            while not condition():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"not within {deadline_s:g} s: {what}") from None


def replica(image: str, *, ordinal: int = 0, release: int = 1, spec: str = "") -> resource_pb2.Resource:
    """A replica that serves HTTP on port 8080, with short times."""
    body = resource_pb2.ReplicaSpec(app="web", ordinal=ordinal, release=release, image=image)
    body.spec_hash = spec or f"spec-{release}"
    body.ports.add(container_port=8080)
    body.readiness.http.path = "/"
    body.readiness.interval.FromMilliseconds(200)
    body.stop_timeout.FromSeconds(2)
    body.drain.FromMilliseconds(500)
    return named(resource_pb2.Resource(name=f"replicas/web/{ordinal}/{release}", replica=body))


def route(app: str = "web") -> resource_pb2.Resource:
    """The route of an app."""
    body = resource_pb2.AppRoute(app=app, hostnames=[f"{app}.example.net"], cache=manifest_pb2.CachePolicy())
    return named(resource_pb2.Resource(name=f"routes/{app}", route=body))


def named(resource: resource_pb2.Resource) -> resource_pb2.Resource:
    """The resource with a version that follows from its content."""
    resource.version = ""
    resource.version = str(hash(resource.SerializeToString(deterministic=True)))
    return resource


class ControlPlane(agent_pb2_grpc.AgentServiceServicer):
    """Sends what the test wants to be held, and keeps what the agent says."""

    def __init__(self) -> None:
        self._wanted: list[resource_pb2.Resource] = []
        self._revision = 0
        self._changed = asyncio.Event()
        self.replicas: dict[str, replica_pb2.ReplicaStatus] = {}
        self.seen: list[replica_pb2.ReplicaStatus] = []
        self.events: list[str] = []
        self.usage: dict[str, agent_pb2.ReplicaUsage] = {}
        self.nacks: list[agent_pb2.Nack] = []
        self.gone: list[str] = []
        self.resource_types: list[str] = []
        self.accepted = self.applied = 0
        self.sessions = self.beats = 0
        self.clock_offset_s = 0.0
        """How far the host's clock is off, by its last heartbeat."""

    def want(self, *resources: resource_pb2.Resource) -> int:
        """From now on the node is to hold these; the revision of that."""
        self._revision += 1
        self._wanted = list(resources)
        self._changed.set()
        return self._revision

    def ready(self, name: str = "replicas/web/0/1") -> bool:
        """Whether the replica was reported as ready last."""
        return name in self.replicas and self.replicas[name].ready

    async def Sync(self, request_iterator: AsyncIterator[agent_pb2.NodeMessage], context: Session) -> None:  # type: ignore[override]  # noqa: N802
        self.resource_types = list((await anext(request_iterator)).hello.resource_types)
        self.sessions += 1
        welcome = agent_pb2.Welcome(epoch=self.sessions, node=NODE, region="eu")
        welcome.heartbeat_interval.FromMilliseconds(200)
        welcome.time.GetCurrentTime()
        await context.write(agent_pb2.ControlMessage(welcome=welcome))
        sending = asyncio.create_task(self._send(context))
        try:
            async for message in request_iterator:
                self._take(message)
        finally:
            sending.cancel()

    async def _send(self, context: Session) -> None:
        for nonce in itertools.count(1):
            if self._revision:
                held = snapshot_hash((resource.name, resource.version) for resource in self._wanted)
                delta = agent_pb2.Delta(nonce=nonce, revision=self._revision, complete=True, snapshot_hash=held)
                delta.resources.extend(self._wanted)
                await context.write(agent_pb2.ControlMessage(delta=delta))
            await self._changed.wait()
            self._changed.clear()

    def _take(self, message: agent_pb2.NodeMessage) -> None:
        match message.WhichOneof("message"):
            case "status":
                status = message.status
                if status.complete:
                    self.replicas.clear()
                for name in status.gone:
                    self.replicas.pop(name, None)
                    self.gone.append(name)
                self.replicas.update({replica.resource: replica for replica in status.replicas})
                self.seen.extend(status.replicas)
                self.events.extend(event.type for event in status.events)
                self.accepted, self.applied = status.accepted_revision, status.applied_revision
            case "heartbeat":
                self.beats += 1
                self.clock_offset_s = message.heartbeat.time.ToNanoseconds() / 1e9 - time.time()
                self.usage.update({used.resource: used for used in message.heartbeat.usage})
            case "nack":
                self.nacks.append(message.nack)
            case _:
                pass


class FakeEdge:
    """Connects to the agent as an edge does, serves whatever it is told, and says so."""

    def __init__(self, path: Path):
        self._path = path
        self.configs: list[edge_pb2.EdgeConfig] = []
        self.in_progress = 0

    def addresses(self, draining: bool = False) -> list[str]:
        """Local endpoints of the newest configuration."""
        routes = self.configs[-1].routes if self.configs else ()
        return [local.address for route in routes for local in route.local if local.draining == draining]

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[FakeEdge]:
        task = asyncio.create_task(self._run())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(OSError, EOFError):
                await self._session()
            await asyncio.sleep(0.02)

    async def _session(self) -> None:
        reader, writer = await asyncio.open_unix_connection(self._path)
        try:
            generation = self.configs[-1].generation if self.configs else 0
            self._say(writer, edge_pb2.EdgeMessage(hello=edge_pb2.EdgeHello(pid=1, generation=generation)))
            while True:
                (size,) = struct.unpack("!I", await reader.readexactly(4))
                config = edge_pb2.EdgeControl.FromString(await reader.readexactly(size)).config
                assert not self.configs or config.generation > self.configs[-1].generation or config in self.configs
                self.configs.append(config)
                self._say(writer, edge_pb2.EdgeMessage(ack=edge_pb2.EdgeAck(generation=config.generation)))
                draining = [local.replica for r in config.routes for local in r.local if local.draining]
                counts = dict.fromkeys(draining, self.in_progress)
                self._say(writer, edge_pb2.EdgeMessage(drain=edge_pb2.EdgeDrain(in_progress=counts)))
        finally:
            writer.close()

    def _say(self, writer: asyncio.StreamWriter, message: edge_pb2.EdgeMessage) -> None:
        body = message.SerializeToString()
        writer.write(struct.pack("!I", len(body)) + body)


class Rig:
    """One host's agent, started and killed by the test."""

    def __init__(self, host: EngineHost, folder: Path, sandboxes: int = SANDBOXES):
        self.host = host
        self.folder = folder
        self._sandboxes = sandboxes
        self.state = folder / "agent"
        self.run = host.layout.root / f"run-{folder.name[-12:]}"
        self.control_plane = ControlPlane()
        self.edge = FakeEdge(self.run / "edge.sock")
        self._authority = Authority()
        self._process: subprocess.Popen[bytes] | None = None

    @contextlib.asynccontextmanager
    async def serving(self, keep: bool = False) -> AsyncIterator[Rig]:
        """The control plane listens; the agent is stopped at the end, and unless `keep`, images go as well."""
        server = grpc.aio.server(options=SERVER_OPTIONS)
        agent_pb2_grpc.add_AgentServiceServicer_to_server(self.control_plane, server)
        credentials = grpc.ssl_server_credentials(
            [self._authority.server()], self._authority.pem.encode(), require_client_auth=True
        )
        port = server.add_secure_port(f"{self.host.outside}:0", credentials)
        await server.start()
        self._configure(port)
        try:
            yield self
        finally:
            await self.kill()
            await server.stop(None)
            await asyncio.to_thread(self.host.remove_containers if keep else self.host.clear)

    def _configure(self, port: int) -> None:
        endpoint = f"{self.host.outside}:{port}"
        self._authority.join(self.folder / "identity", node=NODE, region="eu", endpoints=(endpoint,))
        settings = {
            "state_dir": self.state,
            "identity_dir": self.folder / "identity",
            "run_dir": self.run,
            "docker_host": self.host.socket,
            "metrics_listen": "127.0.0.1:7446",
            "policy_file": self.folder / "policy.toml",
        }
        text = "".join(f'{key} = "{value}"\n' for key, value in settings.items()) + f"sandboxes = {self._sandboxes}\n"
        (self.folder / "agent.toml").write_text(text)

    @property
    def log(self) -> str:
        """What the agent wrote."""
        return (self.folder / "agent.log").read_text()

    @property
    def pid(self) -> int:
        """The running agent's."""
        assert self._process is not None
        return self._process.pid

    def start(self, *, boot_id: str = "", **environment: str) -> None:
        """Starts the agent; with `boot_id` the kernel seems to have been booted anew, under that id."""
        command = [own_program("locci-agent"), "run", "--config", str(self.folder / "agent.toml")]
        if boot_id:
            file = self.folder / "boot_id"
            file.write_text(f"{boot_id}\n")
            script = 'mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"'
            command = ["unshare", "-m", "sh", "-c", script, str(file), *command]
        argv = self.host.command(*command)
        env = clean_environment() | environment
        with (self.folder / "agent.log").open("ab") as output:
            self._process = subprocess.Popen(argv, stdout=output, stderr=output, env=env)

    async def kill(self) -> None:
        """kill -9 of the agent, if it runs."""
        if self._process is not None:
            self._process.kill()
            await asyncio.to_thread(self._process.wait, 10)

    async def stop(self) -> int:
        """SIGTERM; the exit code."""
        assert self._process is not None
        self._process.terminate()
        return await asyncio.to_thread(self._process.wait, 6)

    async def status(self) -> dict[str, object]:
        """What `locci-agent status` says."""
        argv = [own_program("locci-agent"), "status", "-o", "json", "--config", str(self.folder / "agent.toml")]
        done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        answer: dict[str, object] = json.loads(done.stdout)
        return answer


async def containers(host: EngineHost) -> dict[str, str]:
    """All containers on the host with their state."""
    return await asyncio.to_thread(host.containers)


async def until(check: Callable[[], Awaitable[bool]], what: str, deadline_s: float = 120.0) -> None:
    """As `eventually`, for a condition that has to be awaited."""
    try:
        async with asyncio.timeout(deadline_s):
            while not await check():
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"not within {deadline_s:g} s: {what}") from None


def persisted(path: Path) -> int:
    """Revision of the snapshot on disk."""
    return SnapshotFile(path / "snapshot.pb").load().revision
