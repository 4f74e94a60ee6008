"""A fleet of simulated agents: each a real gRPC stream over mTLS with an identity of its own, all in one process.

They hold no files and run no containers: they say Hello, take deltas, acknowledge them, beat, and come back when their
stream ends. Everything else, TLS and the wire above all, is what a real agent does.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import grpc

from control_plane import decode
from control_plane.app import ControlPlane
from control_plane.settings import ServerSettings
from control_plane.state import Batch
from fleet import identity
from fleet.backoff import Backoff
from fleet.rpc.channel import client_options
from fleet.snapshot import snapshot_hash
from locci.v1 import agent_pb2, agent_pb2_grpc, node_pb2, region_pb2, replica_pb2

REGIONS: Final = 10
TYPES: Final = ("agentversions", "certificates", "images", "registries", "replicas", "routes", "secrets")
_RECONNECT: Final = Backoff(base_s=0.25, cap_s=15.0)
_WELCOME_DEADLINE_S: Final = 30.0
_DIALS_AT_ONCE: Final = 128
_PROGRESS_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Member:
    """A node that has joined: its name and its certificate."""

    node: str
    chain: bytes


async def seed(settings: ServerSettings, count: int) -> tuple[list[Member], bytes, bytes]:
    """Puts `count` joined nodes into a new store; they, the key that they share, and the CA's certificate."""
    plane = ControlPlane(settings)
    await plane.prepare()
    key = identity.new_key()
    members: list[Member] = []
    now = time.time()
    try:

        def build(batch: Batch) -> None:
            for number in range(REGIONS):
                batch.put(plane.state.regions, f"regions/r{number}", region_pb2.Region(name=f"regions/r{number}"))
            for number in range(count):
                node, region = f"n{number:05}", f"r{number % REGIONS}"
                issued = plane.authority.issue(identity.signing_request(key, node), region=region, node=node)
                members.append(Member(node, issued.certificate_pem.encode()))
                row = node_pb2.Node(
                    name=f"nodes/{node}",
                    region=f"regions/{region}",
                    roles=[node_pb2.NODE_ROLE_EDGE],
                    condition=node_pb2.NODE_CONDITION_JOINING,
                    condition_time=decode.timestamp(now),
                    addresses=[f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"],
                    create_time=decode.timestamp(now),
                    certificate_expire_time=decode.timestamp(issued.expire_at),
                    certificate_issuer=plane.authority.issuer,
                    trusted_authorities=plane.authority.fingerprints,
                )
                batch.put(plane.state.nodes, row.name, row)

        await plane.state.transact(build)
        return members, identity.key_pem(key), plane.authority.ca_pem.encode()
    finally:
        await plane.stop()


@dataclass(slots=True)
class Agent:
    """One simulated agent."""

    member: Member
    credentials: grpc.ChannelCredentials
    epoch: int = 0
    revision: int = 0
    held: dict[str, str] = field(default_factory=dict)
    welcomed_at: float | None = None
    """None while it has no session."""
    accepted_at: float = 0.0
    goodbyes: int = 0
    session: asyncio.Task[None] | None = None


class Fleet:
    """All agents, and what they saw."""

    def __init__(self, members: Sequence[Member], key: bytes, ca: bytes, endpoint: str, keepalive_s: float, seed: int):
        self._endpoint = endpoint
        self._keepalive_s = keepalive_s
        self._rng = random.Random(seed)
        # One processor makes all handshakes of the clients: more at once would only time out.
        self._dialling = asyncio.Semaphore(_DIALS_AT_ONCE)
        self.agents = [Agent(m, grpc.ssl_channel_credentials(ca, key, m.chain)) for m in members]
        self.sessions_ended = 0
        self.beats = 0

    async def run(self) -> None:
        """Keeps all of them connected until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for agent in self.agents:
                tasks.create_task(self._keep(agent))

    async def cut(self) -> None:
        """Closes every connection at once; they dial again by themselves."""
        sessions = [agent.session for agent in self.agents if agent.session is not None]
        for session in sessions:
            session.cancel()
        await asyncio.wait(sessions)

    @property
    def connected(self) -> int:
        """So many have a session."""
        return sum(1 for agent in self.agents if agent.welcomed_at is not None)

    async def until(
        self, holds: Callable[[], bool], what: str, deadline_s: float, say: Callable[[str], None] | None = None
    ) -> None:
        """Returns when it holds."""
        end = time.monotonic() + deadline_s
        told = time.monotonic()
        while not holds():
            if say is not None and time.monotonic() - told > _PROGRESS_S:
                told = time.monotonic()
                say(f"{self.connected} are connected, {self.sessions_ended} sessions ended")
            if time.monotonic() > end:
                raise RuntimeError(f"not within {deadline_s:g} s: {what} ({self.connected} are connected)")
            await asyncio.sleep(0.05)

    async def _keep(self, agent: Agent) -> None:
        attempt = 0
        while True:
            agent.session = asyncio.create_task(self._session(agent))
            await asyncio.wait({agent.session})
            attempt = 1 if agent.welcomed_at is not None else attempt + 1
            self.sessions_ended += agent.welcomed_at is not None
            agent.welcomed_at = None
            await asyncio.sleep(_RECONNECT.ceiling_s(attempt) * self._rng.uniform(0.1, 1.0))

    async def _session(self, agent: Agent) -> None:
        lost = (grpc.RpcError, grpc.aio.BaseError, TimeoutError, asyncio.InvalidStateError)
        with contextlib.suppress(*lost):
            await self._dial(agent)

    async def _dial(self, agent: Agent) -> None:
        async with contextlib.AsyncExitStack() as stack:
            async with self._dialling, asyncio.timeout(_WELCOME_DEADLINE_S):
                channel = grpc.aio.secure_channel(
                    self._endpoint, agent.credentials, options=client_options(self._keepalive_s)
                )
                await stack.enter_async_context(channel)
                call = agent_pb2_grpc.AgentServiceStub(channel).Sync()
                stack.callback(call.cancel)
                await call.write(agent_pb2.NodeMessage(hello=_hello(agent)))
                first = await call.read()
            if not isinstance(first, agent_pb2.ControlMessage) or not first.HasField("welcome"):
                agent.goodbyes += 1
                return
            agent.epoch, agent.welcomed_at = first.welcome.epoch, time.monotonic()
            interval_s = first.welcome.heartbeat_interval.ToTimedelta().total_seconds()
            await call.write(agent_pb2.NodeMessage(status=agent_pb2.Status(complete=True)))
            beating = asyncio.create_task(self._beat(call, interval_s))
            stack.callback(beating.cancel)
            await self._read(agent, call)

    async def _read(self, agent: Agent, call: Any) -> None:
        while isinstance(message := await call.read(), agent_pb2.ControlMessage):
            if message.HasField("goodbye"):
                agent.goodbyes += 1
                return
            if message.HasField("delta"):
                delta = message.delta
                if delta.complete:
                    agent.held.clear()
                for name in delta.removed:
                    agent.held.pop(name, None)
                agent.held.update((resource.name, resource.version) for resource in delta.resources)
                agent.revision, agent.accepted_at = delta.revision, time.monotonic()
                ack = agent_pb2.Ack(nonce=delta.nonce, revision=delta.revision)
                await call.write(agent_pb2.NodeMessage(ack=ack))
                replicas = [r.name for r in delta.resources if r.name.startswith("replicas/")]
                if replicas:
                    told = agent_pb2.Status(accepted_revision=delta.revision, applied_revision=delta.revision)
                    for name in replicas:
                        told.replicas.add(resource=name, phase=replica_pb2.REPLICA_PHASE_RUNNING, ready=True)
                    await call.write(agent_pb2.NodeMessage(status=told))

    async def _beat(self, call: Any, interval_s: float) -> None:
        sequence = 0
        await asyncio.sleep(self._rng.uniform(0, interval_s))
        while True:
            sequence += 1
            beat = agent_pb2.Heartbeat(sequence=sequence, time=decode.timestamp(time.time()), load=0.1)
            await call.write(agent_pb2.NodeMessage(heartbeat=beat))
            self.beats += 1
            await asyncio.sleep(interval_s)


def _hello(agent: Agent) -> agent_pb2.Hello:
    hello = agent_pb2.Hello(
        role=node_pb2.NODE_ROLE_EDGE,
        epoch=agent.epoch,
        boot_id="bench",
        instance_id=agent.member.node,
        program_version="bench",
        resource_types=TYPES,
        snapshot_hash=snapshot_hash(agent.held.items()),
        revision=agent.revision,
        facts=node_pb2.NodeFacts(cpus=4, memory_bytes=8 << 30, architecture="amd64"),
    )
    for name, version in agent.held.items():
        hello.held.add(name=name, version=version)
    return hello
