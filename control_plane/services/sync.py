"""The nodes' stream: who dials, is welcomed, is told what to hold, and is listened to.

Authorisation asks the store, not the certificate: a revoked or removed node is sent away though its certificate
is still good. Of two sessions of a node and role the newer counts; its epoch is stored before it is welcomed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import grpc
import structlog

from control_plane import decode, metrics
from control_plane.reports import Arrivals, Reports
from control_plane.services.context import Context
from control_plane.services.enrolment import check_addresses
from control_plane.services.node_identity import authorise, peer_identity
from control_plane.sessions import Session
from control_plane.side_streams import SideStream
from control_plane.state import Batch
from fleet.errors import Code, LocciError, failed_precondition, invalid
from fleet.ids import last_part
from fleet.rpc.errors import abort
from locci.v1 import agent_pb2, agent_pb2_grpc, event_pb2

log = structlog.get_logger()

HELLO_DEADLINE_S: Final = 10.0
WELCOMES_AT_ONCE: Final = 256
"""The rest of a fleet that comes back at once waits its turn, so that those who have theirs are in time."""
GOODBYE_DEADLINE_S: Final = 2.0
REVOKED_RETRY_S: Final = 60.0
SHUTDOWN_RETRY_S: Final = 1.0
HELD_MAX: Final = 20_000

Messages = AsyncIterator[agent_pb2.NodeMessage]
Call = grpc.aio.ServicerContext[agent_pb2.NodeMessage, agent_pb2.ControlMessage]
ExecCall = grpc.aio.ServicerContext[agent_pb2.ExecUpload, agent_pb2.ExecDownload]
LogCall = grpc.aio.ServicerContext[agent_pb2.LogUpload, agent_pb2.LogUploadTaken]


class SyncServicer(agent_pb2_grpc.AgentServiceServicer):
    """Implements `locci.v1.AgentService` on the nodes' port."""

    def __init__(self, context: Context, reports: Reports):
        self._context = context
        self._reports = reports
        self._arrivals = Arrivals(context.state)
        self._welcoming = asyncio.Semaphore(WELCOMES_AT_ONCE)

    async def Sync(self, request_iterator: Messages, context: Call) -> None:  # type: ignore[override]  # noqa: N802
        """One session, from Hello to Goodbye."""
        try:
            async with self._welcoming:
                session = await self._welcome(request_iterator, context)
        except LocciError as error:
            await self._refuse(context, error)
            return
        try:
            await self._both_ways(session, request_iterator, context)
        finally:
            self._context.hub.leave(session)
            self._context.controller.wake()
            log.info("session_ended", node=session.node, role=session.role, epoch=session.epoch)

    async def SendLogs(  # noqa: N802
        self, request_iterator: AsyncIterator[agent_pb2.LogUpload], context: LogCall
    ) -> agent_pb2.LogUploadTaken:
        """What a container writes, for whoever asked."""
        try:
            node = authorise(self._context.state, peer_identity(context))
            async with asyncio.timeout(HELLO_DEADLINE_S):
                first = await anext(request_iterator)
            stream = self._context.hub.side_streams.take(first.stream_id, last_part(node.name), agent_pb2.LogUpload)
        except LocciError as error:
            await abort(context, error)
        except (TimeoutError, StopAsyncIteration):
            await abort(context, invalid("stream_id", "no first message came", "OUT_OF_TURN"))
        try:
            wanted = await stream.put(first)
            async for upload in request_iterator:
                wanted = wanted and await stream.put(upload)
                if not wanted:
                    break
        finally:
            await stream.put(None)
        return agent_pb2.LogUploadTaken()

    async def Exec(  # type: ignore[override]  # noqa: N802
        self, request_iterator: AsyncIterator[agent_pb2.ExecUpload], context: ExecCall
    ) -> None:
        """A command in a container, for whoever asked."""
        try:
            node = authorise(self._context.state, peer_identity(context))
            async with asyncio.timeout(HELLO_DEADLINE_S):
                first = await anext(request_iterator)
            stream = self._context.hub.side_streams.take(first.stream_id, last_part(node.name), agent_pb2.ExecUpload)
        except LocciError as error:
            await abort(context, error)
        except (TimeoutError, StopAsyncIteration):
            await abort(context, invalid("stream_id", "no first message came", "OUT_OF_TURN"))

        async def tell() -> None:
            while True:
                await context.write(await stream.downloads.get())

        telling = asyncio.create_task(tell())
        hearing = asyncio.create_task(self._hear(first, request_iterator, stream))
        closing = asyncio.create_task(stream.closed.wait())
        tasks = (telling, hearing, closing)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await stream.put(None)

    async def _hear(
        self,
        first: agent_pb2.ExecUpload,
        uploads: AsyncIterator[agent_pb2.ExecUpload],
        stream: SideStream[agent_pb2.ExecUpload],
    ) -> None:
        if first.problem and not await stream.put(first):
            return
        async for upload in uploads:
            if not await stream.put(upload):
                return

    async def _refuse(self, context: Call, error: LocciError) -> None:
        """Says why in a Goodbye, which carries when to come back, and in the status."""
        reasons = {
            Code.PERMISSION_DENIED: (agent_pb2.GOODBYE_REASON_REVOKED, REVOKED_RETRY_S),
            Code.UNAVAILABLE: (agent_pb2.GOODBYE_REASON_SHUTDOWN, SHUTDOWN_RETRY_S),
        }
        reason, retry_s = reasons.get(error.code, (agent_pb2.GOODBYE_REASON_PROTOCOL, 0.0))
        goodbye = agent_pb2.Goodbye(reason=reason, message=error.message)
        if retry_s:
            goodbye.retry_after.CopyFrom(decode.duration(retry_s))
        log.warning("session_refused", reason=error.message)
        await context.write(agent_pb2.ControlMessage(goodbye=goodbye))
        await abort(context, error)

    async def _welcome(self, messages: Messages, context: Call) -> Session:
        identity = peer_identity(context)
        state = self._context.state
        # Nobody is refused before the Hello is read: a stream that ends while its first message is on the way tells the
        # node nothing but that.
        hello = await _hello(messages)
        node = authorise(state, identity)
        if self._context.hub.closing:
            raise LocciError(Code.UNAVAILABLE, "SHUTDOWN", "the control plane is stopping; come back in a moment")
        if hello.role not in node.roles:
            message = f"node {identity.node} has not the role that it presents itself in; enrol it with that role"
            raise LocciError(Code.PERMISSION_DENIED, "ROLE_NOT_GRANTED", message)
        hello.addresses[:] = check_addresses(hello.addresses, "hello.addresses")
        facts = self._context.observed.session(identity.node, hello.role)
        known = max([facts.epoch, *(s.epoch for s in node.sessions if s.role == hello.role)])
        if hello.epoch > known:
            message = (
                f"node {identity.node} was in session {hello.epoch}, the control plane knows of {known} only: "
                "it was restored from an older state; enrol the node again with a token bound to its name"
            )
            raise failed_precondition("EPOCH_TOO_NEW", message)
        # Taken at once, so that two sessions that begin together differ.
        facts.epoch = known + 1
        session = Session(identity.node, hello, facts.epoch)
        await self._arrivals.note(identity.node, hello, session.epoch, self._context.clock.wall())
        if facts.epoch != session.epoch:
            raise LocciError(Code.ABORTED, "SUPERSEDED", f"a newer session of node {identity.node} took over")
        welcome = agent_pb2.Welcome(
            epoch=session.epoch,
            heartbeat_interval=decode.duration(self._context.hub.welcomed(session)),
            time=decode.timestamp(self._context.clock.wall()),
            node=identity.node,
            region=identity.region,
            trust=self._context.hub.trust,
        )
        session.say(agent_pb2.ControlMessage(welcome=welcome))
        self._context.hub.enter(session)
        self._reports.heard(session.node, session.role, self._context.clock.wall())
        self._context.hub.deliver(session)
        self._context.controller.wake()
        log.info("session_began", node=session.node, role=session.role, epoch=session.epoch)
        return session

    async def _both_ways(self, session: Session, messages: Messages, context: Call) -> None:
        reading = asyncio.create_task(self._read(session, messages))
        writing = asyncio.create_task(_write(session, context))
        ending = asyncio.create_task(session.ended.wait())
        tasks = (reading, writing, ending)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if reading.done() and not reading.cancelled() and (error := reading.exception()) is not None:
                self._broken(session, error)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if session.goodbye is not None:
            await self._part(session, context)

    def _broken(self, session: Session, error: BaseException) -> None:
        if isinstance(error, LocciError):
            session.end(agent_pb2.GOODBYE_REASON_PROTOCOL, error.message)
        elif not isinstance(error, grpc.RpcError | grpc.aio.BaseError | asyncio.CancelledError):
            log.error("session_failed", node=session.node, reason=repr(error), exc_info=error)
            session.end(agent_pb2.GOODBYE_REASON_PROTOCOL, "the control plane failed on a message of this node")

    async def _part(self, session: Session, context: Call) -> None:
        assert session.goodbye is not None
        goodbye = session.goodbye
        try:
            async with asyncio.timeout(GOODBYE_DEADLINE_S):
                await context.write(agent_pb2.ControlMessage(goodbye=goodbye))
        except (TimeoutError, grpc.RpcError, grpc.aio.BaseError) as error:
            log.info("goodbye_unheard", node=session.node, reason=str(error) or type(error).__name__)
            return
        if goodbye.reason == agent_pb2.GOODBYE_REASON_REVOKED:
            await abort(context, LocciError(Code.PERMISSION_DENIED, "REVOKED", goodbye.message))

    # -- what the node says

    async def _read(self, session: Session, messages: Messages) -> None:
        async for message in messages:
            if not self._context.hub.current(session):
                # An older session: what it says is not taken.
                return
            self._reports.heard(session.node, session.role, self._context.clock.wall())
            await self._take(session, message)

    async def _take(self, session: Session, message: agent_pb2.NodeMessage) -> None:
        kind = message.WhichOneof("message") or "unknown"
        metrics.MESSAGES.labels(kind).inc()
        match kind:
            case "ack":
                self._context.hub.answered(session, message.ack)
                self._context.controller.wake()
            case "nack":
                await self._refused(session, message.nack)
            case "heartbeat":
                self._context.hub.beat(session, message.heartbeat)
                self._context.hub.renew_leases(session, message.heartbeat.sequence, self._context.controller.may_run)
            case "status":
                self._reports.status(session.node, session.role, message.status)
            case "evidence":
                self._reports.evidence(session.node, session.role, message.evidence)
            case "operation_result":
                log.info("operation_ended", node=session.node, ok=message.operation_result.ok)
            case "hello":
                raise invalid("hello", "Hello comes first, and only once", "OUT_OF_TURN")
            case _:
                log.warning("message_ignored", node=session.node, reason="the node is newer than this program")

    async def _refused(self, session: Session, nack: agent_pb2.Nack) -> None:
        repeated = session.delivery.refused_reason
        reason = self._context.hub.refused(session, nack)
        if reason == repeated:
            return
        name = f"nodes/{session.node}"

        def build(batch: Batch) -> None:
            message = f"node {session.node} refused a snapshot: {reason}"
            batch.event("SnapshotRefused", message, name, severity=event_pb2.SEVERITY_ERROR)

        await self._context.state.transact(build)


async def _hello(messages: Messages) -> agent_pb2.Hello:
    try:
        async with asyncio.timeout(HELLO_DEADLINE_S):
            first = await anext(messages)
    except (TimeoutError, StopAsyncIteration) as error:
        message = f"no Hello came within {HELLO_DEADLINE_S:g} s"
        raise LocciError(Code.DEADLINE_EXCEEDED, "NO_HELLO", message) from error
    if not first.HasField("hello"):
        raise invalid("hello", "the first message must be Hello", "OUT_OF_TURN")
    if len(first.hello.held) > HELD_MAX:
        raise invalid("hello.held", f"hello.held: more than {HELD_MAX} resources")
    return first.hello


async def _write(session: Session, context: Call) -> None:
    while True:
        await context.write(await session.outbox.get())
