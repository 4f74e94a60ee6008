"""Calls of their own that a node makes because the control plane asked for them on its stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Final

import grpc
import structlog

from fleet.rpc.errors import from_rpc_error
from locci.v1 import agent_pb2, agent_pb2_grpc

log = structlog.get_logger()

CALLS_MAX: Final = 16

Call = grpc.aio.StreamUnaryCall[agent_pb2.LogUpload, agent_pb2.LogUploadTaken]
LogSource = Callable[[agent_pb2.OpenLogs], AsyncGenerator[agent_pb2.LogUpload, None]]
"""What a container writes; it ends by itself, and says why in `problem`."""


class SideCalls:
    """Those of one session."""

    def __init__(self, channel: grpc.aio.Channel, logs: LogSource):
        self._stub = agent_pb2_grpc.AgentServiceStub(channel)
        self._logs = logs
        self._tasks: set[asyncio.Task[None]] = set()

    def open_logs(self, question: agent_pb2.OpenLogs) -> None:
        """Begins to send; more at once than CALLS_MAX are refused in their own calls."""
        refuse = "this host sends to as many as it may already" if len(self._tasks) >= CALLS_MAX else ""
        task = asyncio.create_task(self._send(question, refuse))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Ends them all."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _send(self, question: agent_pb2.OpenLogs, refuse: str) -> None:
        call = self._stub.SendLogs()
        try:
            await call.write(agent_pb2.LogUpload(stream_id=question.stream_id, problem=refuse))
            if not refuse:
                await self._pass_on(call, question)
            await call.done_writing()
            await call
        except grpc.RpcError as error:
            log.info("logs_not_wanted", reason=from_rpc_error(error).message)
        except asyncio.InvalidStateError:
            # Whoever asked has gone, and the call with them.
            return
        finally:
            call.cancel()

    async def _pass_on(
        self,
        call: grpc.aio.StreamUnaryCall[agent_pb2.LogUpload, agent_pb2.LogUploadTaken],
        question: agent_pb2.OpenLogs,
    ) -> None:
        """Writes as fast as it is read; stops when the call has ended, also while the container says nothing."""
        ended = asyncio.ensure_future(call.code())
        uploads = self._logs(question)
        try:
            while True:
                getting = asyncio.ensure_future(anext(uploads, None))
                await asyncio.wait({getting, ended}, return_when=asyncio.FIRST_COMPLETED)
                if not getting.done():
                    getting.cancel()
                    await asyncio.gather(getting, return_exceptions=True)
                    return
                upload = getting.result()
                if upload is None:
                    return
                await call.write(upload)
        finally:
            ended.cancel()
            await uploads.aclose()
