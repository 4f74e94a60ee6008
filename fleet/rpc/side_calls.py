"""Calls of their own that a node makes because the control plane asked for them on its stream."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, Final

import grpc
import structlog

from fleet.rpc.errors import from_rpc_error
from locci.v1 import agent_pb2, agent_pb2_grpc

log = structlog.get_logger()

CALLS_MAX: Final = 16
_DOWNLOADS_MAX: Final = 8

ExecCall = grpc.aio.StreamStreamCall[agent_pb2.ExecUpload, agent_pb2.ExecDownload]
LogSource = Callable[[agent_pb2.OpenLogs], AsyncGenerator[agent_pb2.LogUpload, None]]
"""What a container writes; it ends by itself, and says why in `problem`."""
CommandSource = Callable[
    [agent_pb2.OpenExec, asyncio.Queue[agent_pb2.ExecDownload]], AsyncGenerator[agent_pb2.ExecUpload, None]
]
"""What a command in a container writes, and how it ended; it is killed when that is not wanted any more."""


class SideCalls:
    """Those of one session."""

    def __init__(self, channel: grpc.aio.Channel, logs: LogSource, commands: CommandSource | None = None):
        self._stub = agent_pb2_grpc.AgentServiceStub(channel)
        self._logs = logs
        self._commands = commands
        self._tasks: set[asyncio.Task[None]] = set()

    def open_logs(self, question: agent_pb2.OpenLogs) -> None:
        """Begins to send; more at once than CALLS_MAX are refused in their own calls."""
        self._spawn(self._send(question, self._refusal()))

    def open_exec(self, question: agent_pb2.OpenExec) -> None:
        """Begins to run a command; more at once than CALLS_MAX are refused in their own calls."""
        refuse = self._refusal() if self._commands is not None else "this program runs no commands"
        self._spawn(self._run(question, refuse))

    def _refusal(self) -> str:
        return "this host answers as many as it may already" if len(self._tasks) >= CALLS_MAX else ""

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
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
                async with contextlib.aclosing(self._logs(question)) as uploads:
                    await _until_ended(call, uploads)
            await call.done_writing()
            await call
        except grpc.RpcError as error:
            log.info("logs_not_wanted", reason=from_rpc_error(error).message)
        except asyncio.InvalidStateError:
            # Whoever asked has gone, and the call with them.
            return
        finally:
            call.cancel()

    async def _run(self, question: agent_pb2.OpenExec, refuse: str) -> None:
        call = self._stub.Exec()
        # By a task of its own: a read that is cancelled takes the whole call with it.
        downloads: asyncio.Queue[agent_pb2.ExecDownload] = asyncio.Queue(_DOWNLOADS_MAX)
        reading = asyncio.create_task(_read(call, downloads))
        try:
            await call.write(agent_pb2.ExecUpload(stream_id=question.stream_id, problem=refuse))
            if not refuse and self._commands is not None:
                async with contextlib.aclosing(self._commands(question, downloads)) as uploads:
                    await _until_ended(call, uploads)
            await call.done_writing()
            # It ends when whoever asked has heard everything.
            await call.code()
        except grpc.RpcError as error:
            log.info("command_not_wanted", reason=from_rpc_error(error).message)
        except asyncio.InvalidStateError:
            return
        finally:
            call.cancel()
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


async def _read(call: ExecCall, downloads: asyncio.Queue[agent_pb2.ExecDownload]) -> None:
    while isinstance(download := await call.read(), agent_pb2.ExecDownload):
        await downloads.put(download)


async def _until_ended(call: Any, uploads: AsyncGenerator[Any, None]) -> None:
    """Writes as fast as it is read; stops when the call has ended, also while there is nothing to write."""
    ended = asyncio.ensure_future(call.code())
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
