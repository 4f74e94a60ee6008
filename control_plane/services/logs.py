"""What containers write: each host is asked, and the answers are merged. Nothing is kept here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from control_plane.services.caller import Caller
from control_plane.services.context import Context
from control_plane.services.replicas import ReplicaService
from control_plane.views import resource_name
from fleet.errors import Code, LocciError, invalid, not_found
from fleet.ids import last_part
from locci.v1 import agent_pb2, logs_pb2, node_pb2, replica_pb2

TAIL_DEFAULT: Final = 100
TAIL_MAX: Final = 10_000
LOOK_S: Final = 2.0
"""Time between looks for replicas that came since."""
TOTAL_S: Final = 24 * 3600.0
_MERGED_MAX: Final = 8

Merged = asyncio.Queue[logs_pb2.LogLines | None]


class LogService:
    """Implements `locci.v1.LogService`."""

    def __init__(self, context: Context):
        self._context = context
        self._state = context.state
        self._replicas = ReplicaService(context)

    async def tail_logs(self, request: logs_pb2.TailLogsRequest, caller: Caller) -> AsyncIterator[logs_pb2.LogLines]:
        self._check(request)
        merged: Merged = asyncio.Queue(_MERGED_MAX)
        readers: dict[str, asyncio.Task[None]] = {}
        overseer = asyncio.create_task(self._oversee(request, caller.principal, readers, merged))
        end = asyncio.get_running_loop().time() + TOTAL_S
        try:
            while (lines := await self._next(merged, end)) is not None:
                yield lines
        finally:
            overseer.cancel()
            for task in readers.values():
                task.cancel()
            await asyncio.gather(overseer, *readers.values(), return_exceptions=True)

    async def _next(self, merged: Merged, end: float) -> logs_pb2.LogLines | None:
        try:
            async with asyncio.timeout_at(end):
                return await merged.get()
        except TimeoutError:
            message = f"lines are followed for {TOTAL_S / 3600:g} hours at most: ask again"
            raise LocciError(Code.DEADLINE_EXCEEDED, "FOLLOWED_LONG_ENOUGH", message) from None

    def _check(self, request: logs_pb2.TailLogsRequest) -> None:
        if request.tail_lines < 0:
            raise invalid("tail_lines", "tail_lines: must not be negative")
        app, _, replica = request.name.partition("/replicas/")
        self._state.apps.need(app)
        if replica and not self._rows(request.name):
            raise not_found(request.name)

    def _rows(self, name: str) -> dict[str, replica_pb2.Replica]:
        """By assignment, the replica as callers see it."""
        show = self._replicas.shown_by_name()
        app, _, replica = name.partition("/replicas/")
        rows = {key: row for key, row in self._state.assignments.items() if f"apps/{row.app}" == app}
        shown = {key: show(row) for key, row in rows.items()}
        return {key: row for key, row in shown.items() if not replica or row.name == name}

    async def _oversee(
        self,
        request: logs_pb2.TailLogsRequest,
        principal: str,
        readers: dict[str, asyncio.Task[None]],
        merged: Merged,
    ) -> None:
        """Reads every replica, and with `follow` those that come later; says the end when all have ended."""
        while True:
            for key, row in self._rows(request.name).items():
                if key not in readers:
                    readers[key] = asyncio.create_task(self._read(request, principal, row, merged))
            if not request.follow:
                break
            await asyncio.sleep(LOOK_S)
        await asyncio.gather(*readers.values(), return_exceptions=True)
        await merged.put(None)

    async def _read(
        self, request: logs_pb2.TailLogsRequest, principal: str, row: replica_pb2.Replica, merged: Merged
    ) -> None:
        """Reads one replica; with `follow` again when its container has ended, from the last line on."""
        wanted, told = logs_pb2.TailLogsRequest(), ""
        wanted.CopyFrom(request)
        while True:
            problem = ""
            try:
                async for upload in self._uploads(wanted, principal, row):
                    if upload.lines:
                        wanted.since_time.FromNanoseconds(upload.lines[-1].time.ToNanoseconds() + 1)
                        wanted.tail_lines = TAIL_MAX
                        await merged.put(logs_pb2.LogLines(replica=row.name, node=row.node, lines=upload.lines))
                    problem = upload.problem or problem
            except LocciError as error:
                problem = error.message
            if problem and problem != told:
                await merged.put(logs_pb2.LogLines(replica=row.name, node=row.node, problem=problem))
            told = problem
            if not request.follow or not self._is_assigned(row):
                return
            await asyncio.sleep(LOOK_S)

    def _is_assigned(self, row: replica_pb2.Replica) -> bool:
        held = (r for r in self._state.assignments.values() if r.node == row.node)
        return any(resource_name(r) == resource_name(row) for r in held)

    async def _uploads(
        self, request: logs_pb2.TailLogsRequest, principal: str, row: replica_pb2.Replica
    ) -> AsyncIterator[agent_pb2.LogUpload]:
        node = last_part(row.node)
        reported = await self._reported(request, row, node)
        hub = self._context.hub
        with hub.side_streams.expect(node, agent_pb2.LogUpload, principal) as (identifier, stream):
            question = agent_pb2.OpenLogs(
                stream_id=identifier,
                container_id=reported.container_id,
                tail_lines=min(request.tail_lines or TAIL_DEFAULT, TAIL_MAX),
                follow=request.follow,
            )
            if request.HasField("since_time"):
                question.since_time.CopyFrom(request.since_time)
            if not hub.ask((node, node_pb2.NODE_ROLE_EDGE), agent_pb2.ControlMessage(open_logs=question)):
                message = f"{row.node} is not connected: what runs there goes on, and cannot be looked into from here"
                raise LocciError(Code.UNAVAILABLE, "NODE_NOT_CONNECTED", message)
            async for upload in stream.uploads():
                yield upload

    async def _reported(
        self, request: logs_pb2.TailLogsRequest, row: replica_pb2.Replica, node: str
    ) -> replica_pb2.ReplicaStatus:
        """What the node says of the replica; with `follow` its container is waited for."""
        while True:
            reported = self._context.observed.reported(node, resource_name(row))
            if reported is not None and reported.status.container_id:
                return reported.status
            if not request.follow:
                reason = reported.status.reason if reported is not None else ""
                message = f"{row.name} has no container on {row.node}" + (f": {reason}" if reason else "")
                raise LocciError(Code.NOT_FOUND, "NO_CONTAINER", message)
            await asyncio.sleep(LOOK_S)
