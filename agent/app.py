"""Wires the agent together and runs it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from importlib import metadata
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import structlog

from agent import decode
from agent.adapters import host_facts, policy_file
from agent.adapters.breaker import Breaker
from agent.adapters.container_commands import ContainerCommands
from agent.adapters.container_logs import ContainerLogs
from agent.adapters.engine import Engine
from agent.adapters.engine_events import EngineEvents
from agent.adapters.fault_journal import FaultJournal
from agent.adapters.image_log import ImageLog
from agent.adapters.jumping_clock import JumpingClock
from agent.adapters.kill_containers import kill_containers
from agent.adapters.lease_file import LeaseFile
from agent.adapters.prober import Prober
from agent.adapters.signatures import Signatures
from agent.adapters.state import StateFile, StateLock
from agent.adapters.status_socket import StatusSocket
from agent.adapters.upgrade_status import UpgradeStatus, is_supervised
from agent.caretaker import Caretaker
from agent.core.conditions import HostFigures
from agent.core.model import PullFailure
from agent.fault_guard import FaultGuard
from agent.faults import JOURNAL_NAME, FaultKeeper
from agent.metrics import Metrics, serve_metrics
from agent.outbox import Outbox
from agent.settings import AgentSettings
from agent.shell import Shell
from fleet import telemetry
from fleet.clock import Clock
from fleet.errors import invalid
from fleet.identity import IdentityDirectory, IdentityFacts
from fleet.rpc.link import NodeLink
from fleet.snapshot import Snapshot, SnapshotFile
from locci.v1 import node_pb2

log = structlog.get_logger()

SNAPSHOT_NAME: Final = "snapshot.pb"
FILES_NAME: Final = "files"
LEDGER_NAME: Final = "containers"
_ENGINE_PATIENCE_S: Final = 0.5


async def run(settings: AgentSettings) -> None:
    """Runs until SIGTERM or SIGINT. Raises LocciError or OSError when it cannot begin."""
    identity = IdentityDirectory(settings.identity_dir)
    facts = identity.facts()
    structlog.contextvars.bind_contextvars(**{telemetry.NODE: facts.node, telemetry.REGION: facts.region})
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = StateLock(settings.state_dir)
    try:
        await Agent(settings, identity).run()
    finally:
        lock.release()


class Agent:
    """The parts of one agent."""

    def __init__(self, settings: AgentSettings, identity: IdentityDirectory):
        clock, rng = JumpingClock(), random.Random()
        self._clock = clock
        facts = identity.facts()
        self._node = facts.node
        self._settings = settings
        self._identity = identity
        self._metrics = Metrics()
        self._state = StateFile(settings.state_dir / "state.json")
        settings.run_dir.mkdir(parents=True, exist_ok=True)
        self._leases = LeaseFile(settings.run_dir / "leases.json")
        self._outbox = Outbox(settings.state_dir / "events.pb")
        self._policy = policy_file.load(settings.policy_file)
        engine = Engine(
            settings.docker_host,
            self._node,
            facts.region,
            settings.state_dir / FILES_NAME,
            settings.run_dir / "secrets",
            settings.state_dir / LEDGER_NAME,
            sandboxes=settings.sandboxes,
        )
        self._engine = engine
        self._signatures = Signatures(
            settings.state_dir / "signatures",
            engine.registry_settings,
            engine.images.login,
            engine.images.sources,
        )
        self._shell = Shell(
            engine=engine,
            policy=self._policy,
            mirrors=settings.mirrors,
            signatures=self._signatures,
            outbox=self._outbox,
            images=ImageLog(settings.state_dir / "images.json"),
            identity=identity,
            state=self._state,
            leases=self._leases,
            edge_path=settings.run_dir / "edge.sock",
            data_path=settings.state_dir,
            clock=clock,
            prober=lambda post: Prober(post, clock, rng, engine.run_in, engine.listens),
            metrics=self._metrics,
            resolver=settings.resolver,
        )
        self._events = EngineEvents(settings.docker_host, self._node, self._shell.post_from_thread, rng)
        self._link = self._make_link(clock, rng)
        self._shell.wake_link = self._link.wake
        self._shell.other_disks = self._engine_disk
        journal = FaultJournal(settings.state_dir / JOURNAL_NAME)
        breaker = Breaker(
            settings.state_dir,
            settings.restart_commands,
            clock=clock,
            kill_containers=lambda: kill_containers(settings.docker_host, self._node),
            control_plane=lambda: control_plane_of(identity.facts()),
        )
        guard = FaultGuard(settings.state_dir, settings.restart_commands)
        self._faults = FaultKeeper(journal, breaker, self._shell.record, guard.ensure)
        self._shell.want_faults = self._faults.want
        self._caretaker = self._make_caretaker(engine)
        self._metrics.link_connected.set_function(lambda: float(self._link.connected))
        self._status = StatusSocket(settings.run_dir / "agent.sock", self.status)

    def _make_caretaker(self, engine: Engine) -> Caretaker:
        return Caretaker(
            engine=engine,
            images=self._shell.images,
            signatures=self._signatures,
            clock=self._clock,
            figures=self._figures,
            wanted=self._wanted_images,
            running=self._running,
            record=self._shell.record,
            show=self._shell.conditions,
            show_usage=self._shell.use,
        )

    def _make_link(self, clock: Clock, rng: random.Random) -> NodeLink:
        return NodeLink(
            role=node_pb2.NODE_ROLE_EDGE,
            identity=self._identity,
            file=SnapshotFile(self._settings.state_dir / SNAPSHOT_NAME),
            consumer=self._shell,
            resource_types=decode.resource_types(self._policy, supervised=is_supervised()),
            facts=lambda: host_facts.facts(self._events.docker_version, self._settings.state_dir),
            clock=clock,
            rng=rng,
            events_recorded=self._shell.events_recorded,
            leases_renewed=self._shell.leases_renewed,
            logs=ContainerLogs(self._settings.docker_host, self._node).read,
            commands=ContainerCommands(self._settings.docker_host, self._node, allowed=self._policy.commands).run,
        )

    async def run(self) -> None:
        """Runs until a signal asks for the end."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._shell.close)
            stack.push_async_callback(self._signatures.close)
            stack.push_async_callback(self._faults.close)
            for part in (self._shell.edge, self._status):
                await part.start()
                stack.push_async_callback(part.close)
            if self._settings.metrics_listen:
                runner = await serve_metrics(self._metrics, _checked(self._settings.metrics_listen))
                stack.push_async_callback(runner.cleanup)
            self._resume(self._link.snapshot)
            self._events.start()
            stack.callback(self._events.close)
            # The control plane is told the engine's version, which is known in a moment if there is one.
            await self._shell.engine_tried(_ENGINE_PATIENCE_S)
            work = (
                self._link.run(),
                self._state.run(),
                self._leases.run(),
                self._outbox.run(),
                self._engine.sandboxes.run(),
                self._engine.orphans.run(),
                self._caretaker.run(),
                self._faults.run(),
            )
            tasks = [asyncio.create_task(part) for part in work]
            stopping = asyncio.create_task(stop.wait())
            log.info("agent_started", revision=self._link.snapshot.revision)
            done, pending = await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                task.cancel()
            await asyncio.wait(pending, timeout=2.0)
            for task in done:
                task.result()
        log.info("agent_stopped")

    def status(self) -> dict[str, Any]:
        """What `locci-agent status` shows."""
        facts, machine = self._identity.facts(), self._shell.machine
        return {
            "version": metadata.version("locci-cloud"),
            "node": facts.node,
            "region": facts.region,
            "server": facts.server,
            "connected": self._link.connected,
            "accepted_revision": self._link.snapshot.revision,
            "applied_revision": machine.applied_revision,
            "engine": {"reachable": not machine.engine_reason, "reason": machine.engine_reason}
            | {"version": self._events.docker_version, "address": self._settings.docker_host},
            "edge": {"connected": len(self._shell.edge.edges), "generation": machine.generation}
            | {"serving": machine.edge_generation},
            "upgrade": self._upgrade(),
            "conditions": {c.type: {"ok": c.ok, "message": c.message} for c in self._caretaker.conditions.values()},
            "replicas": [
                {
                    "resource": status.resource,
                    "phase": status.phase.value,
                    "ready": status.ready,
                    "restarts": status.restarts,
                    "container_id": status.container_id,
                    "address": status.address,
                    "reason": status.reason,
                    "usage": self._usage_of(status.resource),
                }
                for status in sorted(machine.statuses.values(), key=lambda status: status.resource)
                if status.resource.startswith("replicas/")
            ],
        }

    def _upgrade(self) -> dict[str, str]:
        said = UpgradeStatus(self._settings.state_dir).read()
        if not said.version:
            return {}
        state = node_pb2.AgentUpgrade.State.Name(said.state).removeprefix("STATE_").lower().replace("_", " ")
        return {"version": said.version, "state": state, "reason": said.reason, "request": said.request}

    def _figures(self) -> HostFigures:
        beat = host_facts.heartbeat(self._settings.state_dir, *self._engine_disk())
        return HostFigures(
            disk_used=beat.disk_used,
            memory_used=beat.memory_used,
            load_per_cpu=beat.load,
            clock_offset_s=self._link.clock_offset_s,
            certificate_left_s=self._identity.certificate().not_valid_after_utc.timestamp() - self._clock.wall(),
            engine_reason=self._shell.machine.engine_reason,
            registry_reason=self._pull_reason(PullFailure.UNREACHABLE),
            space_reason=self._pull_reason(PullFailure.NO_SPACE),
        )

    def _engine_disk(self) -> tuple[Path, ...]:
        return () if self._events.data_root is None else (self._events.data_root,)

    def _pull_reason(self, failure: PullFailure) -> str:
        """Why an image cannot be pulled, where it is that; empty where none fails so."""
        setbacks = self._shell.machine.world.pull_setbacks.values()
        return next((setback.reason for setback in setbacks if failure.value in setback.reason), "")

    def _usage_of(self, resource: str) -> dict[str, float]:
        used = self._shell.usage.get(resource)
        return {} if used is None else {"cpus": round(used.cpus, 3), "memory_bytes": used.memory_bytes}

    def _running(self) -> dict[str, str]:
        return {c.id: c.resource for c in self._shell.machine.world.containers.values() if c.running}

    def _wanted_images(self) -> frozenset[str]:
        world = self._shell.machine.world
        held = world.target.images if world.target is not None else ()
        return frozenset(replica.image for replica in world.replicas.values()) | {image.image for image in held}

    def _resume(self, snapshot: Snapshot) -> None:
        """Begins with what the node was told last, before anyone is in reach. Never told, it touches nothing."""
        if not snapshot.revision:
            return
        problems = decode.problems(snapshot, self._policy)
        if problems:
            reasons = "; ".join(f"{problem.name}: {problem.message}" for problem in problems)
            log.error("snapshot_unusable", **{telemetry.REASON: reasons})
            return
        self._shell.accepted(snapshot)


def control_plane_of(facts: IdentityFacts) -> list[str]:
    """Where the control plane is, as `host:port`: of nodes, and of operators."""
    server = urlsplit(facts.server)
    default = 443 if server.scheme == "https" else 80
    return list(dict.fromkeys((*facts.node_endpoints, f"{server.hostname}:{server.port or default}")))


def _checked(listen: str) -> str:
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise invalid("metrics_listen", f"metrics_listen: {listen!r} is not of the form address:port")
    return listen
