"""A node's stream to the control plane: dials, keeps the last accepted snapshot, comes back whatever happens.

Accepted means persisted: a delta is written to disk before it is acknowledged. A delta that cannot be applied,
understood or written is refused whole, with the reason, and what was held stays in effect.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Final, Protocol

import grpc
import structlog

from fleet import enrol, telemetry
from fleet import identity as identities
from fleet.backoff import Backoff
from fleet.clock import Clock
from fleet.errors import LocciError
from fleet.identity import IdentityDirectory
from fleet.rpc.channel import KEEPALIVE_S, node_channel
from fleet.rpc.errors import from_rpc_error
from fleet.rpc.side_calls import CommandSource, LogSource, SideCalls
from fleet.snapshot import Snapshot, SnapshotFile, apply_delta
from locci.v1 import agent_pb2, agent_pb2_grpc, enrolment_pb2, enrolment_pb2_grpc, node_pb2

log = structlog.get_logger()

RECONNECT: Final = Backoff(base_s=0.25, cap_s=15.0)
"""Between tries of an agent; the control plane judges nobody by silence for longer than its cap after its own start."""
_WELCOME_DEADLINE_S: Final = 30.0
_SUPERSEDED_DELAY_S: Final = 30.0
_RENEWAL_CHECK_S: Final = 60.0
_RENEWAL_DEADLINE_S: Final = 20.0
_TRUST_SPREAD_S: Final = 5.0
_EVIDENCE_EVERY_HEARTBEATS: Final = 5
_OUTGOING_MAX: Final = 64
_BEATS_MAX: Final = 256

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class SnapshotConsumer(Protocol):
    """The program behind a link. Every method is called on the event loop and must not block."""

    def problems(self, snapshot: Snapshot) -> list[agent_pb2.ResourceProblem]:
        """What it cannot accept; an empty list accepts. Without side effects."""
        ...

    def accepted(self, snapshot: Snapshot) -> None:
        """It is persisted: make it so."""
        ...

    def complete_status(self) -> agent_pb2.Status:
        """Everything that it has to say, for a new session."""
        ...

    def status_change(self) -> agent_pb2.Status | None:
        """What changed since the last call of this or of `complete_status`; None when nothing did."""
        ...

    def evidence(self) -> agent_pb2.Evidence | None:
        """What it found at others; None when there is nothing to tell."""
        ...

    def heartbeat(self) -> agent_pb2.Heartbeat:
        """Load, memory and disk; sequence and time are filled in by the link."""
        ...


class SessionEndedError(Exception):
    """The control plane ended the session; `delay_s` is when it wants the node back, None for the usual back-off."""

    def __init__(self, reason: str, delay_s: float | None = None):
        super().__init__(reason)
        self.delay_s = delay_s


class NodeLink:
    """One program's stream to the control plane, for as long as the program runs."""

    def __init__(
        self,
        *,
        role: node_pb2.NodeRole.ValueType,
        identity: IdentityDirectory,
        file: SnapshotFile,
        consumer: SnapshotConsumer,
        resource_types: Sequence[str],
        facts: Callable[[], node_pb2.NodeFacts],
        clock: Clock,
        rng: random.Random,
        events_recorded: Callable[[agent_pb2.EventsRecorded], None] = lambda _: None,
        leases_renewed: Callable[[frozenset[str], float], None] = lambda _names, _at: None,
        logs: LogSource | None = None,
        commands: CommandSource | None = None,
        cut_proven_s: float = 0.0,
    ):
        """`events_recorded` is told which events of the consumer's statuses the control plane has in its store,
        `leases_renewed` which replicas this node may go on to run, counted from which moment of the monotonic clock.
        `cut_proven_s` is for DNS servers: the worst case from a cut to its proof."""
        self._role = role
        self._events_recorded = events_recorded
        self._leases_renewed = leases_renewed
        self._logs = logs
        self._commands = commands
        self._cut_proven_s = cut_proven_s
        self._side_calls: SideCalls | None = None
        self._beats: OrderedDict[int, float] = OrderedDict()
        """When each of the last heartbeats was made, on the monotonic clock, before it could be sent."""
        self._identity = identity
        self._file = file
        self._consumer = consumer
        self._resource_types = resource_types
        self._facts = facts
        self._clock = clock
        self._rng = rng
        self._instance_id = str(uuid.uuid4())
        self._wake = asyncio.Event()
        self._outgoing: deque[agent_pb2.NodeMessage] = deque(maxlen=_OUTGOING_MAX)
        self._connected = False
        self._dialled = ""
        self._told = agent_pb2.Trust()
        self._trust_told = asyncio.Event()
        self._sequence = 0
        self._heartbeat_s = KEEPALIVE_S
        """As the control plane said last. A large fleet beats slower, and its connections are tried as seldom."""
        self._next_beat = 0.0
        self._changing = asyncio.Lock()
        self.snapshot = file.load()
        """The last accepted snapshot."""
        self._clock_behind_s: float | None = None
        """How far the monotonic clock is behind the control plane's time."""
        self._expiries = self._new_expiries({})

    @property
    def clock_offset_s(self) -> float | None:
        """How far this host's clock is ahead of the control plane's, as of the last session's beginning, also when it
        jumped since; None before the first."""
        if self._clock_behind_s is None:
            return None
        return self._clock.wall() - self._clock.monotonic() - self._clock_behind_s

    @property
    def connected(self) -> bool:
        """Whether the control plane has welcomed the current session."""
        return self._connected

    def wake(self) -> None:
        """There is a change of status or evidence to send."""
        self._wake.set()

    async def run(self) -> None:
        """Keeps the stream up until cancelled; trouble with network or server never raises."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._expire())
            tasks.create_task(self._renew_when_due())
            tasks.create_task(self._keep_connected())

    async def _keep_connected(self) -> None:
        attempt = 0
        while True:
            delay_s: float | None = None
            try:
                if self._identity.has_ended(self._clock.wall()):
                    await self._recover()
                endpoints = self._identity.facts().node_endpoints
                self._dialled = endpoints[attempt % len(endpoints)]
                await self._session(self._dialled)
                reason = "the stream ended"
            except SessionEndedError as end:
                reason, delay_s = str(end), end.delay_s
            except grpc.RpcError as error:
                reason = from_rpc_error(error).message
            except (LocciError, OSError, TimeoutError, asyncio.InvalidStateError) as error:
                reason = str(error) or type(error).__name__
            attempt = 1 if self._connected else attempt + 1
            self._connected = False
            if delay_s is None:
                delay_s = RECONNECT.ceiling_s(attempt)
            delay_s *= self._rng.uniform(0.1, 1.0)
            log.warning("control_plane_lost", **{telemetry.REASON: reason}, retry_s=round(delay_s, 2), attempt=attempt)
            await self._clock.sleep(delay_s)

    async def _session(self, endpoint: str) -> None:
        keepalive_s = max(KEEPALIVE_S, self._heartbeat_s)
        async with node_channel(endpoint, self._identity, keepalive_s) as channel:
            call = agent_pb2_grpc.AgentServiceStub(channel).Sync()
            self._side_calls = SideCalls(channel, self._logs, self._commands) if self._logs is not None else None
            try:
                async with asyncio.timeout(_WELCOME_DEADLINE_S):
                    await call.write(agent_pb2.NodeMessage(hello=self._hello()))
                    welcome = self._welcomed(await call.read())
                self._connected = True
                self._outgoing.clear()
                self._say(agent_pb2.NodeMessage(status=self._consumer.complete_status()))
                self._heartbeat_s = welcome.heartbeat_interval.ToTimedelta().total_seconds() or KEEPALIVE_S
                await self._both_ways(call)
            finally:
                call.cancel()
                if self._side_calls is not None:
                    await self._side_calls.close()

    async def _both_ways(
        self, call: grpc.aio.StreamStreamCall[agent_pb2.NodeMessage, agent_pb2.ControlMessage]
    ) -> None:
        reading = asyncio.create_task(self._read(call))
        writing = asyncio.create_task(self._write(call))
        try:
            done, _ = await asyncio.wait({reading, writing}, return_when=asyncio.FIRST_COMPLETED)
            # The reader knows better why a stream ended than the writer whose write then failed.
            if writing in done and not reading.done():
                await asyncio.wait({reading}, timeout=1.0)
            (reading if reading.done() else writing).result()
        finally:
            for task in (reading, writing):
                task.cancel()
            await asyncio.gather(reading, writing, return_exceptions=True)

    def _hello(self) -> agent_pb2.Hello:
        facts = self._facts()
        hello = agent_pb2.Hello(
            role=self._role,
            epoch=self.snapshot.epoch,
            boot_id=_BOOT_ID.read_text().strip() if _BOOT_ID.exists() else "",
            instance_id=self._instance_id,
            program_version=facts.program_version or metadata.version("locci-cloud"),
            resource_types=self._resource_types,
            snapshot_hash=self.snapshot.hash,
            revision=self.snapshot.revision,
            facts=facts,
            paced=True,
        )
        if self._cut_proven_s:
            hello.cut_proven_within.FromMilliseconds(round(self._cut_proven_s * 1000))
        for name, resource in self.snapshot.resources.items():
            hello.held.add(name=name, version=resource.version)
        return hello

    def _welcomed(self, message: object) -> agent_pb2.Welcome:
        if not isinstance(message, agent_pb2.ControlMessage):
            raise SessionEndedError("the control plane closed the stream before its welcome")
        if message.HasField("goodbye"):
            raise _ended(message.goodbye)
        if not message.HasField("welcome"):
            raise SessionEndedError("the control plane did not begin with a welcome")
        if message.welcome.HasField("time"):
            self._clock_behind_s = message.welcome.time.ToNanoseconds() / 1e9 - self._clock.monotonic()
        self.snapshot = self.snapshot.with_epoch(message.welcome.epoch)
        # Losing the epoch on a full disk is harmless: the control plane only refuses one that is newer than its own.
        with contextlib.suppress(OSError):
            self._file.save(self.snapshot)
        self._trust(message.welcome.trust)
        log.info("control_plane_connected", epoch=message.welcome.epoch, **{telemetry.REVISION: self.snapshot.revision})
        return message.welcome

    async def _read(self, call: grpc.aio.StreamStreamCall[agent_pb2.NodeMessage, agent_pb2.ControlMessage]) -> None:
        while True:
            message = await call.read()
            if not isinstance(message, agent_pb2.ControlMessage):
                status = await call.code()
                raise SessionEndedError(await call.details() or f"the control plane closed the stream ({status.name})")
            match message.WhichOneof("message"):
                case "delta":
                    async with self._changing:
                        await self._take(message.delta)
                case "events_recorded":
                    self._events_recorded(message.events_recorded)
                case "operation":
                    self._operate(message.operation)
                case "leases":
                    self._renew_leases(message.leases)
                case "open_logs" if self._side_calls is not None:
                    self._side_calls.open_logs(message.open_logs)
                case "open_exec" if self._side_calls is not None:
                    self._side_calls.open_exec(message.open_exec)
                case "pace":
                    self._set_pace(message.pace)
                case "trust":
                    self._trust(message.trust)
                case "goodbye":
                    raise _ended(message.goodbye)
                case _:
                    log.warning("message_ignored", reason="the control plane is newer than this program")

    async def _write(self, call: grpc.aio.StreamStreamCall[agent_pb2.NodeMessage, agent_pb2.ControlMessage]) -> None:
        self._next_beat = self._clock.monotonic()
        while True:
            now = self._clock.monotonic()
            if now >= self._next_beat:
                self._next_beat = now + self._heartbeat_s * self._rng.uniform(0.9, 1.0)
                self._say(agent_pb2.NodeMessage(heartbeat=self._heartbeat()))
                if self._sequence % _EVIDENCE_EVERY_HEARTBEATS == 0:
                    self._say_evidence()
            while self._outgoing:
                await call.write(self._outgoing[0])
                self._outgoing.popleft()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, self._next_beat - self._clock.monotonic())):
                    await self._wake.wait()
            if self._wake.is_set():
                self._wake.clear()
                change = self._consumer.status_change()
                if change is not None:
                    self._say(agent_pb2.NodeMessage(status=change))
                self._say_evidence()

    def _set_pace(self, pace: agent_pb2.Pace) -> None:
        """The next heartbeat is never later than by the new interval."""
        self._heartbeat_s = pace.heartbeat_interval.ToTimedelta().total_seconds() or KEEPALIVE_S
        self._next_beat = min(
            self._next_beat, self._clock.monotonic() + self._heartbeat_s * self._rng.uniform(0.1, 1.0)
        )
        self._wake.set()

    def _renew_leases(self, leases: agent_pb2.Leases) -> None:
        """A lease counts from before its heartbeat was sent; one of a forgotten heartbeat is too old to count."""
        made_at = self._beats.get(leases.sequence)
        if made_at is not None:
            self._leases_renewed(frozenset(leases.resources), made_at)

    def _heartbeat(self) -> agent_pb2.Heartbeat:
        self._sequence += 1
        self._beats[self._sequence] = self._clock.monotonic()
        if len(self._beats) > _BEATS_MAX:
            self._beats.popitem(last=False)
        beat = self._consumer.heartbeat()
        beat.sequence = self._sequence
        beat.time.FromMilliseconds(int(self._clock.wall() * 1000))
        return beat

    def _say_evidence(self) -> None:
        evidence = self._consumer.evidence()
        if evidence is not None:
            self._say(agent_pb2.NodeMessage(evidence=evidence))

    def _say(self, message: agent_pb2.NodeMessage) -> None:
        if len(self._outgoing) == _OUTGOING_MAX:
            # The reader of a session that cannot keep up gets everything anew in the next one.
            raise SessionEndedError("the control plane does not read what this node says")
        self._outgoing.append(message)

    async def _take(self, delta: agent_pb2.Delta) -> None:
        """Accepts or refuses a delta."""
        try:
            after = apply_delta(self.snapshot, delta)
            problems = self._consumer.problems(after)
            if problems:
                return self._refuse(delta, problems)
            await asyncio.to_thread(self._file.save, after)
        except LocciError as error:
            problem = agent_pb2.ResourceProblem(message=error.message)
            return self._refuse(delta, [problem], resync=error.reason == "HASH_MISMATCH")
        except OSError as error:
            message = f"the snapshot cannot be written to {self._file.path}: {error.strerror}; free some space there"
            return self._refuse(delta, [agent_pb2.ResourceProblem(message=message)])
        before, self.snapshot = self.snapshot, after
        self._expiries = self._new_expiries({n: self._expiries[n] for n in self._expiries if _same(before, after, n)})
        self._consumer.accepted(after)
        self._say(agent_pb2.NodeMessage(ack=agent_pb2.Ack(nonce=delta.nonce, revision=after.revision)))
        self._wake.set()
        return None

    def _refuse(
        self, delta: agent_pb2.Delta, problems: Sequence[agent_pb2.ResourceProblem], resync: bool = False
    ) -> None:
        reasons = "; ".join(f"{p.name}: {p.message}" if p.name else p.message for p in problems)
        log.error("snapshot_refused", **{telemetry.REVISION: delta.revision, telemetry.REASON: reasons})
        nack = agent_pb2.Nack(nonce=delta.nonce, held_revision=self.snapshot.revision, problems=problems, resync=resync)
        self._say(agent_pb2.NodeMessage(nack=nack))
        self._wake.set()

    def _operate(self, operation: agent_pb2.Operation) -> None:
        result = agent_pb2.OperationResult(operation_id=operation.operation_id)
        if operation.WhichOneof("action") == "report_status":
            self._say(agent_pb2.NodeMessage(status=self._consumer.complete_status()))
            result.ok = True
        else:
            result.message = "this program does not know the operation; upgrade it"
        self._say(agent_pb2.NodeMessage(operation_result=result))
        self._wake.set()

    def _new_expiries(self, known: dict[str, float]) -> dict[str, float]:
        """When each resource with a time to live ends, on the monotonic clock; after a restart it counts anew."""
        now = self._clock.monotonic()
        return {
            name: known.get(name, now + resource.time_to_live.ToTimedelta().total_seconds())
            for name, resource in self.snapshot.resources.items()
            if resource.HasField("time_to_live")
        }

    async def _expire(self) -> None:
        """Drops resources whose time to live is over, with or without a control plane."""
        while True:
            await self._clock.sleep(0.5)
            async with self._changing:
                self._drop_expired(self._clock.monotonic())

    def _drop_expired(self, now: float) -> None:
        over = {name for name, end_s in self._expiries.items() if end_s <= now}
        if not over:
            return
        kept = {name: r for name, r in self.snapshot.resources.items() if name not in over}
        self.snapshot = Snapshot(self.snapshot.revision, kept, self.snapshot.epoch)
        self._expiries = {name: end_s for name, end_s in self._expiries.items() if name not in over}
        log.info("resources_expired", names=sorted(over))
        self._consumer.accepted(self.snapshot)
        with contextlib.suppress(OSError):
            self._file.save(self.snapshot)

    async def _renew_when_due(self) -> None:
        """Renews the certificate at half of its life, with jitter, until it succeeds."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_RENEWAL_CHECK_S * self._rng.uniform(0.5, 1.5)):
                    await self._trust_told.wait()
            if self._trust_told.is_set():
                # Every node of the fleet was told at the same moment.
                self._trust_told.clear()
                await self._clock.sleep(_TRUST_SPREAD_S * self._rng.uniform(0.0, 1.0))
            try:
                due = self._identity.renewal_due(self._clock.wall()) or self._trusts_others()
                if self._connected and due:
                    await self._renew()
            except grpc.RpcError as error:
                log.warning("renewal_failed", **{telemetry.REASON: from_rpc_error(error).message})
            except (OSError, ValueError, LocciError) as error:
                log.warning("renewal_failed", **{telemetry.REASON: str(error)})

    def _trust(self, trust: agent_pb2.Trust) -> None:
        self._told = trust
        if self._trusts_others():
            self._trust_told.set()

    def _trusts_others(self) -> bool:
        """Whether the fleet trusts others than this node does, or another signs its certificates."""
        if not self._told.fingerprints:
            return False
        return set(self._told.fingerprints) != self._identity.trusted() or not self._identity.issued_by(
            self._told.issuer
        )

    async def _recover(self) -> None:
        """A host that was away for longer than its certificate is good comes back by itself."""
        try:
            await enrol.recover(self._identity)
        except LocciError as error:
            reason = f"the certificate of this host has ended, and cannot be replaced now: {error.message}"
            raise LocciError(error.code, error.reason, reason) from error
        log.info("certificate_recovered", until=self._identity.certificate().not_valid_after_utc.isoformat())

    async def _renew(self) -> None:
        facts = self._identity.facts()
        key = identities.new_key()
        request = enrolment_pb2.RenewRequest(csr_pem=identities.signing_request(key, facts.node))
        async with node_channel(self._dialled, self._identity) as channel:
            stub = enrolment_pb2_grpc.EnrolmentServiceStub(channel)
            answer = await stub.Renew(request, timeout=_RENEWAL_DEADLINE_S)
        self._identity.renew(key, answer.certificate_pem, answer.ca_pem)
        log.info("certificate_renewed", until=self._identity.certificate().not_valid_after_utc.isoformat())


def _same(before: Snapshot, after: Snapshot, name: str) -> bool:
    return name in after.resources and before.resources[name].version == after.resources[name].version


def _ended(goodbye: agent_pb2.Goodbye) -> SessionEndedError:
    delay_s = goodbye.retry_after.ToTimedelta().total_seconds() or None
    if goodbye.reason in (agent_pb2.GOODBYE_REASON_SUPERSEDED, agent_pb2.GOODBYE_REASON_REVOKED):
        delay_s = delay_s or _SUPERSEDED_DELAY_S
    return SessionEndedError(goodbye.message or agent_pb2.GoodbyeReason.Name(goodbye.reason), delay_s)
