"""A real control plane on loopback with a SQLite file, and simulated hosts over real mTLS."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import timestamp_pb2

from control_plane.app import ControlPlane
from control_plane.settings import ServerSettings
from fleet import identity
from fleet.clock import SystemClock
from fleet.identity import IdentityDirectory, IdentityFacts
from fleet.rpc.channel import operator_channel
from fleet.rpc.link import NodeLink
from fleet.snapshot import Snapshot, SnapshotFile
from locci.v1 import (
    agent_pb2,
    app_pb2_grpc,
    drill_pb2_grpc,
    enrolment_pb2,
    enrolment_pb2_grpc,
    event_pb2,
    event_pb2_grpc,
    logs_pb2,
    manifest_pb2,
    node_pb2,
    node_pb2_grpc,
    region_pb2,
    region_pb2_grpc,
    release_pb2,
    release_pb2_grpc,
    replica_pb2,
    replica_pb2_grpc,
    routing_pb2_grpc,
    upgrade_pb2_grpc,
    zone_pb2_grpc,
)
from tests.fakes.ports import free_port
from tests.fakes.registry import FakeRegistry

DEADLINE_S = 60.0


async def until(condition: Callable[[], Any], what: str, seconds: float = DEADLINE_S) -> Any:
    """Waits for a condition with a deadline; an awaitable condition is awaited."""
    async with asyncio.timeout(seconds):
        while True:
            value = condition()
            if asyncio.iscoroutine(value):
                value = await value
            if value:
                return value
            await asyncio.sleep(0.02)
    raise AssertionError(what)


class Host:
    """A simulated host: takes every snapshot, and runs what `behave` says of each replica."""

    def __init__(self, directory: IdentityDirectory, path: Path, role: node_pb2.NodeRole.ValueType, types: list[str]):
        self.resources: dict[str, Any] = {}
        self.behave: Callable[[Any], tuple[bool, str]] = lambda replica: (True, "")
        self.fetch: Callable[[str], tuple[bool, str]] = lambda image: (True, "")
        self.refuse = ""
        self.started: list[str] = []
        self.running: dict[str, replica_pb2.ReplicaStatus] = {}
        self.images: dict[str, replica_pb2.ReplicaStatus] = {}
        self._said: dict[str, bytes] = {}
        self.found: dict[str, bool] = {}
        self.round_trips: list[agent_pb2.NetworkRoundTrip] = []
        self.load = 0.1
        self.counts: list[agent_pb2.DrillClientCounts] = []
        self._events: list[event_pb2.Event] = []
        self.cut_proven_s = self.proven_now_s = 0.0
        """Of a DNS server: by its settings, and by its heartbeats."""
        self.edge_revision = self._edge_said = 0
        """By which revision its edge serves."""
        self.leases: dict[str, float] = {}
        self.asked: list[agent_pb2.OpenLogs] = []
        self.written = self.written_to_end = 0
        self.lines_max = 10**9
        self.version = ""
        """Of its program; it asks which one to run when it has one."""
        self.agent_upgrade = node_pb2.AgentUpgrade()
        self._agent_upgrade_said = b""
        self._role, self._types = role, types
        self.directory = directory
        self.path = path
        self._task: asyncio.Task[None] | None = None

    def connect(self) -> None:
        """Dials, and keeps dialling."""
        self.link = NodeLink(
            role=self._role,
            identity=self.directory,
            file=SnapshotFile(self.path),
            consumer=self,
            resource_types=[*self._types, *(["agentversions"] if self.version else [])],
            facts=lambda: node_pb2.NodeFacts(hostname="h", architecture="amd64", program_version=self.version),
            clock=SystemClock(),
            rng=random.Random(1),
            leases_renewed=self._leased,
            cut_proven_s=self.cut_proven_s,
            logs=self.logs,
        )
        self.accepted(self.link.snapshot)
        self._task = asyncio.create_task(self.link.run())

    async def logs(self, question: agent_pb2.OpenLogs) -> AsyncGenerator[agent_pb2.LogUpload, None]:
        """What the container wrote: numbered lines, `lines_max` when they are followed."""
        self.asked.append(question)
        try:
            for number in range(self.lines_max) if question.follow else range(question.tail_lines):
                line = logs_pb2.LogLine(
                    time=timestamp_pb2.Timestamp(seconds=1_000 + number),
                    text=f"{question.container_id} {number} " + "x" * 1000,
                )
                yield agent_pb2.LogUpload(lines=[line] * 100)
                self.written = number
        finally:
            self.written_to_end += 1

    async def disconnect(self) -> None:
        """As if its program was killed; containers go on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _leased(self, resources: frozenset[str], at: float) -> None:
        self.leases = dict.fromkeys(resources, at)

    # -- SnapshotConsumer

    def problems(self, snapshot: Snapshot) -> list[agent_pb2.ResourceProblem]:
        return [agent_pb2.ResourceProblem(message=self.refuse)] if self.refuse else []

    def accepted(self, snapshot: Snapshot) -> None:
        self.resources = dict(snapshot.resources)
        self.act()

    def act(self) -> None:
        """Brings its containers to what it holds."""
        wanted = {n: r for n, r in self.resources.items() if n.startswith("replicas/")}
        for name in [n for n in self.running if n not in wanted]:
            del self.running[name]
        for name, resource in wanted.items():
            if name not in self.running:
                self.started.append(name)
            ready, reason = self.behave(resource.replica)
            self.running[name] = replica_pb2.ReplicaStatus(
                resource=name,
                version=resource.version,
                phase=replica_pb2.REPLICA_PHASE_RUNNING,
                ready=ready,
                reason=reason,
                container_id=name.replace("/", "-"),
                log_tail="" if ready else "sh: it broke\n",
            )
        held = {n: r for n, r in self.resources.items() if n.startswith("images/")}
        for name in [n for n in self.images if n not in held]:
            del self.images[name]
        for name, resource in held.items():
            ready, reason = self.fetch(resource.image.image)
            self.images[name] = replica_pb2.ReplicaStatus(
                resource=name,
                version=resource.version,
                phase=replica_pb2.REPLICA_PHASE_HELD if ready else replica_pb2.REPLICA_PHASE_BACKOFF,
                ready=ready,
                reason=reason,
            )
        if hasattr(self, "link"):
            self.link.wake()

    def complete_status(self) -> agent_pb2.Status:
        said = self.running | self.images
        self._said = {n: s.SerializeToString() for n, s in said.items()}
        return agent_pb2.Status(complete=True, replicas=list(said.values()), agent_upgrade=self._upgrade())

    def status_change(self) -> agent_pb2.Status | None:
        said = self.running | self.images
        now = {n: s.SerializeToString() for n, s in said.items()}
        changed = [said[n] for n, body in now.items() if self._said.get(n) != body]
        gone = [n for n in self._said if n not in now]
        self._said = now
        events, self._events = self._events, []
        upgrade = self._upgrade() if self.agent_upgrade.SerializeToString() != self._agent_upgrade_said else None
        told = changed or gone or events or upgrade or self.edge_revision != self._edge_said
        self._edge_said = self.edge_revision
        status = agent_pb2.Status(replicas=changed, gone=gone, events=events, edge_revision=self.edge_revision)
        if upgrade is not None:
            status.agent_upgrade.CopyFrom(upgrade)
        return status if told else None

    def _upgrade(self) -> node_pb2.AgentUpgrade | None:
        self._agent_upgrade_said = self.agent_upgrade.SerializeToString()
        return self.agent_upgrade if self.agent_upgrade.version else None

    def tell(self, kind: str, subject: str, message: str, **details: str) -> None:
        """Says that something happened on the host."""
        self._events.append(event_pb2.Event(type=kind, subjects=[subject], message=message, details=details))
        self.link.wake()

    def evidence(self) -> agent_pb2.Evidence | None:
        if not self.found and not self.round_trips:
            return None
        round_trips, self.round_trips = self.round_trips, []
        return agent_pb2.Evidence(
            round_trips=round_trips,
            results=[
                agent_pb2.ProbeResult(endpoint=f"nodes/{n}", healthy=ok, in_rotation=ok) for n, ok in self.found.items()
            ],
        )

    def heartbeat(self) -> agent_pb2.Heartbeat:
        beat = agent_pb2.Heartbeat(load=self.load, drill_clients=self.counts)
        if self.proven_now_s:
            beat.cut_proven_within.FromMilliseconds(round(1000 * self.proven_now_s))
        return beat


class Rig:
    """One control plane that can be restarted, and its hosts."""

    def __init__(self, path: Path, *, start_http: Any = None, **settings: Any):
        self.path = path
        self._start_http = start_http
        self.settings = ServerSettings(
            data_dir=path / "server",
            http_listen="127.0.0.1:0",
            grpc_listen=f"127.0.0.1:{free_port()}",
            node_listen=f"127.0.0.1:{free_port()}",
            advertise=["127.0.0.1"],
            trust_domain="locci.test",
            **{"heartbeat_interval_s": 0.2, "suspect_after_s": 1.0, "restart_grace_s": 1.0, **settings},
        )
        self.registry = FakeRegistry()
        self.hosts: dict[str, Host] = {}
        self.real_registry = False

    async def start(self) -> None:
        """Starts the control plane."""
        self.plane = ControlPlane(self.settings, self._start_http)
        if not self.real_registry:
            self.plane.registry = self.registry  # type: ignore[assignment]
        await self.plane.prepare()
        await self.plane.start()
        token = (self.settings.data_dir / "admin.token").read_text().strip()
        self.channel = operator_channel(self.settings.grpc_listen, self.plane.authority.ca_pem.encode(), token)
        self.regions = region_pb2_grpc.RegionServiceStub(self.channel)
        self.nodes = node_pb2_grpc.NodeServiceStub(self.channel)
        self.tokens = enrolment_pb2_grpc.JoinTokenServiceStub(self.channel)
        self.enrolment = enrolment_pb2_grpc.EnrolmentServiceStub(self.channel)
        self.apps = app_pb2_grpc.AppServiceStub(self.channel)
        self.releases = release_pb2_grpc.ReleaseServiceStub(self.channel)
        self.rollouts = release_pb2_grpc.RolloutServiceStub(self.channel)
        self.replicas = replica_pb2_grpc.ReplicaServiceStub(self.channel)
        self.events = event_pb2_grpc.EventServiceStub(self.channel)
        self.upgrades = upgrade_pb2_grpc.UpgradeServiceStub(self.channel)
        self.drills = drill_pb2_grpc.DrillServiceStub(self.channel)
        self.zones = zone_pb2_grpc.ZoneServiceStub(self.channel)
        self.record_sets = zone_pb2_grpc.RecordSetServiceStub(self.channel)
        self.routing = routing_pb2_grpc.RoutingServiceStub(self.channel)

    async def stop(self) -> None:
        """Stops the control plane; hosts go on."""
        await self.channel.close()
        await self.plane.stop()

    async def close(self) -> None:
        """Stops everything."""
        for host in self.hosts.values():
            await host.disconnect()
        await self.stop()

    async def region(self, region_id: str, latitude: float = 0.0, longitude: float = 0.0) -> None:
        """Creates a region."""
        region = region_pb2.Region(latitude=latitude, longitude=longitude)
        await self.regions.CreateRegion(region_pb2.CreateRegionRequest(region_id=region_id, region=region))

    async def token(self, region: str, **fields: Any) -> str:
        """A fresh join token."""
        token = enrolment_pb2.JoinToken(region=f"regions/{region}", **fields)
        answer = await self.tokens.CreateJoinToken(enrolment_pb2.CreateJoinTokenRequest(join_token=token))
        return str(answer.token)

    async def enrol(
        self, token: str, node: str, address: str = "192.0.2.1", path: Path | None = None
    ) -> IdentityDirectory:
        """Enrols a host; its identity."""
        key = identity.new_key()
        answer = await self.enrolment.Enrol(
            enrolment_pb2.EnrolRequest(
                token=token, csr_pem=identity.signing_request(key, node), node_id=node, addresses=[address]
            )
        )
        directory = IdentityDirectory(path or self.path / f"identity-{node}")
        region = answer.node.region.rpartition("/")[2]
        facts = IdentityFacts(node, region, answer.trust_domain, tuple(answer.node_endpoints), "https://127.0.0.1:1")
        directory.save(facts, key, answer.certificate_pem, answer.ca_pem)
        return directory

    async def host(
        self, node: str, region: str, *, dns: bool = False, address: str = "192.0.2.1", version: str = ""
    ) -> Host:
        """Enrols and connects a host, and waits until it is ready."""
        roles = [node_pb2.NODE_ROLE_DNS if dns else node_pb2.NODE_ROLE_EDGE]
        directory = await self.enrol(await self.token(region, roles=roles), node, address)
        held = ["certificates", "drillclients", "faults", "images", "mirrors", "registries", "replicas", "routes"]
        types = ["regions", "hostnames", "zones", "zonekeys", "latencies"] if dns else [*held, "secrets"]
        host = Host(directory, self.path / f"{node}.snapshot", roles[0], types)
        host.version = version
        self.hosts[node] = host
        host.connect()
        await self.condition(node, node_pb2.NODE_CONDITION_READY)
        return host

    async def condition(self, node: str, wanted: int) -> None:
        """Waits until a node is in a condition."""

        async def reached() -> bool:
            return bool((await self.node(node)).condition == wanted)

        await until(reached, f"{node} in condition {wanted}")

    async def node(self, node: str) -> node_pb2.Node:
        """A node."""
        return await self.nodes.GetNode(node_pb2.GetNodeRequest(name=f"nodes/{node}"))

    async def finished(self, rollout: str, seconds: float = DEADLINE_S) -> release_pb2.Rollout:
        """A rollout in its terminal state."""
        last = release_pb2.Rollout()
        async with asyncio.timeout(seconds):
            async for seen in self.rollouts.WatchRollout(release_pb2.GetRolloutRequest(name=rollout)):
                last = seen
        return last

    async def held(self, app: str) -> list[replica_pb2.Replica]:
        """The app's replicas."""
        answer = await self.replicas.ListReplicas(replica_pb2.ListReplicasRequest(parent=f"apps/{app}"))
        return list(answer.replicas)


def manifest(name: str = "hello", **fields: Any) -> manifest_pb2.AppManifest:
    """A manifest with quick deadlines."""
    result = manifest_pb2.AppManifest(name=name, image="registry.test:5000/hello:1")
    result.ports.add(name="http", container_port=8080)
    result.hostnames.append(f"{name}.example.net")
    result.rollout.healthy_for.FromMilliseconds(200)
    result.rollout.health_deadline.FromMilliseconds(1500)
    for field, value in fields.items():
        setattr(result, field, value)
    return result


@contextlib.asynccontextmanager
async def running(path: Path, **settings: Any) -> AsyncIterator[Rig]:
    """A rig that is stopped in the end."""
    rig = Rig(path, **settings)
    await rig.start()
    try:
        yield rig
    finally:
        await rig.close()


async def error_of(call: Any) -> grpc.aio.AioRpcError:
    """The error that a call ends with."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError("the call did not fail")
