"""Commands in containers: the host is asked, calls back, and what goes in and out passes through. Nothing is kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from control_plane.services.caller import Caller
from control_plane.services.context import Context
from control_plane.services.replicas import ReplicaService
from control_plane.side_streams import SideStream
from control_plane.views import resource_name
from fleet.errors import Code, LocciError, invalid, not_found
from fleet.ids import last_part
from locci.v1 import agent_pb2, exec_pb2, node_pb2, replica_pb2

WORDS_MAX: Final = 256
COMMAND_BYTES_MAX: Final = 64 * 1024
PATH_BYTES_MAX: Final = 4096
STDIN_BYTES_MAX: Final = 64 * 1024
CHARACTERS_MAX: Final = 10_000
"""Of a terminal, in either direction."""
IDLE_S: Final = 1_800.0
TOTAL_S: Final = 12 * 3600.0

Stream = SideStream[agent_pb2.ExecUpload]


class ExecService:
    """Implements `locci.v1.ExecService`."""

    def __init__(self, context: Context, idle_s: float = IDLE_S, total_s: float = TOTAL_S):
        self._context = context
        self._state = context.state
        self._replicas = ReplicaService(context)
        self._idle_s = idle_s
        self._total_s = total_s

    async def exec(
        self, first: exec_pb2.ExecRequest, requests: AsyncIterator[exec_pb2.ExecRequest], caller: Caller
    ) -> AsyncIterator[exec_pb2.ExecResponse]:
        if not first.HasField("start"):
            raise invalid("start", "the first message must say what to run", "OUT_OF_TURN")
        start = first.start
        _check(start)
        row, container_id = self._choose(start.name)
        node, hub = last_part(row.node), self._context.hub
        with hub.side_streams.expect(node, agent_pb2.ExecUpload, caller.principal) as (identifier, stream):
            question = agent_pb2.OpenExec(
                stream_id=identifier,
                container_id=container_id,
                command=start.command,
                tty=start.tty,
                size=start.size,
                copy_from=start.copy_from,
                copy_to=start.copy_to,
            )
            if not hub.ask((node, node_pb2.NODE_ROLE_EDGE), agent_pb2.ControlMessage(open_exec=question)):
                message = f"{row.node} is not connected: what runs there goes on, and cannot be reached from here"
                raise LocciError(Code.UNAVAILABLE, "NODE_NOT_CONNECTED", message)
            said = _LastSaid()
            feeding = asyncio.create_task(_feed(requests, stream, said))
            try:
                async for response in self._responses(row, stream, feeding, said):
                    yield response
            finally:
                feeding.cancel()
                await asyncio.gather(feeding, return_exceptions=True)

    def _choose(self, name: str) -> tuple[replica_pb2.Replica, str]:
        """The replica as callers see it, and its container. Raises NOT_FOUND."""
        app, _, replica = name.partition("/replicas/")
        self._state.apps.need(app)
        show = self._replicas.shown_by_name()
        rows = [show(row) for row in self._state.assignments.values() if f"apps/{row.app}" == app]
        rows = [row for row in rows if row.name == name] if replica else sorted(rows, key=lambda r: not r.healthy)
        if not rows:
            raise not_found(name if replica else f"{app}/replicas/")
        row = rows[0]
        reported = self._context.observed.reported(last_part(row.node), resource_name(row))
        if reported is None or not reported.status.container_id:
            reason = reported.status.reason if reported is not None else ""
            message = f"{row.name} has no container on {row.node}" + (f": {reason}" if reason else "")
            raise LocciError(Code.NOT_FOUND, "NO_CONTAINER", message)
        return row, reported.status.container_id

    async def _responses(
        self, row: replica_pb2.Replica, stream: Stream, feeding: asyncio.Task[None], said: _LastSaid
    ) -> AsyncIterator[exec_pb2.ExecResponse]:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._total_s
        uploads = stream.uploads()
        begun = False
        getting: asyncio.Task[agent_pb2.ExecUpload | None] | None = None
        try:
            while True:
                getting = getting or asyncio.ensure_future(_following(uploads))
                until = min(end, said.at + self._idle_s)
                watched = {getting} if feeding.done() else {getting, feeding}
                await asyncio.wait(watched, timeout=until - loop.time(), return_when=asyncio.FIRST_COMPLETED)
                if feeding.done():
                    feeding.result()
                if not getting.done():
                    if loop.time() >= min(end, said.at + self._idle_s):
                        message = "the command was ended: it took too long, or nothing was said for too long"
                        raise LocciError(Code.DEADLINE_EXCEEDED, "EXEC_TOO_LONG", message)
                    continue
                upload, getting = getting.result(), None
                said.now()
                if upload is None:
                    message = f"{row.node} broke off: its agent has ended, or the container has"
                    raise LocciError(Code.UNAVAILABLE, "EXEC_BROKEN_OFF", message)
                if upload.problem:
                    raise LocciError(Code.FAILED_PRECONDITION, "EXEC_FAILED", f"{row.name}: {upload.problem}")
                if not begun:
                    begun = True
                    yield exec_pb2.ExecResponse(started=exec_pb2.ExecStarted(replica=row.name, node=row.node))
                if upload.stdout:
                    yield exec_pb2.ExecResponse(stdout=upload.stdout)
                if upload.stderr:
                    yield exec_pb2.ExecResponse(stderr=upload.stderr)
                if upload.HasField("exit_code"):
                    yield exec_pb2.ExecResponse(exit_code=upload.exit_code)
                    return
        finally:
            if getting is not None:
                getting.cancel()


class _LastSaid:
    """When something was said last, on the loop's clock."""

    def __init__(self) -> None:
        self.at = 0.0
        self.now()

    def now(self) -> None:
        self.at = asyncio.get_running_loop().time()


async def _following(uploads: AsyncIterator[agent_pb2.ExecUpload]) -> agent_pb2.ExecUpload | None:
    return await anext(uploads, None)


async def _feed(requests: AsyncIterator[exec_pb2.ExecRequest], stream: Stream, said: _LastSaid) -> None:
    """Passes on what the caller says. Who writes faster than the command reads waits. Raises INVALID_ARGUMENT."""
    async for request in requests:
        said.now()
        match request.WhichOneof("input"):
            case "stdin" if len(request.stdin) > STDIN_BYTES_MAX:
                raise invalid("stdin", f"stdin: at most {STDIN_BYTES_MAX} bytes in one message")
            case "stdin":
                await stream.downloads.put(agent_pb2.ExecDownload(stdin=request.stdin))
            case "end_of_stdin":
                await stream.downloads.put(agent_pb2.ExecDownload(end_of_stdin=True))
            case "resize":
                _check_size(request.resize, "resize")
                await stream.downloads.put(agent_pb2.ExecDownload(resize=request.resize))
            case "start":
                raise invalid("start", "one command for each call", "OUT_OF_TURN")
            case _:
                raise invalid("input", "the message says nothing, or something that this program does not know")
    await stream.downloads.put(agent_pb2.ExecDownload(end_of_stdin=True))


def _check(start: exec_pb2.ExecStart) -> None:
    if bool(start.command) + bool(start.copy_from) + bool(start.copy_to) != 1:
        raise invalid("start", "start: one of command, copy_from and copy_to", "ONE_OF")
    for path, field in ((start.copy_from, "start.copy_from"), (start.copy_to, "start.copy_to")):
        if path and (not path.startswith("/") or "\0" in path or len(path.encode()) > PATH_BYTES_MAX):
            raise invalid(field, f"{field}: {path[:200]!r} must be an absolute path, as in /var/log")
    if start.command and not start.command[0]:
        raise invalid("start.command", "start.command: say what to run, as in `sh`")
    size = sum(len(word.encode()) for word in start.command)
    if len(start.command) > WORDS_MAX or size > COMMAND_BYTES_MAX:
        message = f"start.command: at most {WORDS_MAX} words and {COMMAND_BYTES_MAX} bytes"
        raise invalid("start.command", message)
    if any("\0" in word for word in start.command):
        raise invalid("start.command", "start.command: no word may contain a NUL")
    _check_size(start.size, "start.size")


def _check_size(size: exec_pb2.TerminalSize, path: str) -> None:
    if size.columns > CHARACTERS_MAX or size.rows > CHARACTERS_MAX:
        raise invalid(path, f"{path}: at most {CHARACTERS_MAX} characters in either direction")
