"""Watches of whole lists: what is there, then each change, until the reader leaves.

A watch keeps a hash of what it has sent and compares it with what is there now. So it has no queue that could
overflow: a slow reader misses states in between, and never the last one.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Final

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from control_plane.core.roles import may_see
from control_plane.services import listing
from control_plane.services.apps import AppService
from control_plane.services.caller import Caller
from control_plane.services.context import Context
from control_plane.services.nodes import NodeService
from control_plane.services.operations import OperationService
from control_plane.services.regions import RegionService
from control_plane.services.releases import RolloutService
from control_plane.services.replicas import ReplicaService
from fleet.ids import parse
from locci.v1 import app_pb2, node_pb2, operation_pb2, region_pb2, release_pb2, replica_pb2, watch_pb2

PAUSE_S: Final = 0.1
"""Least time between two looks: changes that come together are sent together."""
LOOK_S: Final = 1.0
"""Time until the next look when no change is committed: what nodes report is not."""

Rows = Callable[[], Iterable[tuple[str, Any]]]


class WatchService:
    """Implements `locci.v1.WatchService`."""

    def __init__(self, context: Context):
        self._state = context.state
        self._regions = RegionService(context)
        self._nodes = NodeService(context)
        self._apps = AppService(context)
        self._replicas = ReplicaService(context)
        self._operations = OperationService(context, RolloutService(context))

    def watch_regions(self, request: watch_pb2.WatchRequest, caller: Caller) -> AsyncIterator[watch_pb2.Change]:
        def rows() -> Iterable[tuple[str, Any]]:
            return ((name, self._regions.shown(row)) for name, row in self._state.regions.items())

        return self._follow("region", rows, request.filter, region_pb2.Region.DESCRIPTOR)

    def watch_nodes(self, request: watch_pb2.WatchRequest, caller: Caller) -> AsyncIterator[watch_pb2.Change]:
        def rows() -> Iterable[tuple[str, Any]]:
            return ((name, self._nodes.shown(row)) for name, row in self._state.nodes.items())

        return self._follow("node", rows, request.filter, node_pb2.Node.DESCRIPTOR)

    def watch_apps(self, request: watch_pb2.WatchRequest, caller: Caller) -> AsyncIterator[watch_pb2.Change]:
        def rows() -> Iterable[tuple[str, Any]]:
            table = self._state.apps.items()
            return ((name, self._apps.shown(row)) for name, row in table if may_see(caller.scopes, name))

        return self._follow("app", rows, request.filter, app_pb2.App.DESCRIPTOR)

    def watch_replicas(self, request: watch_pb2.WatchBelowRequest, caller: Caller) -> AsyncIterator[watch_pb2.Change]:
        prefix = self._prefix(request.parent)

        def rows() -> Iterable[tuple[str, Any]]:
            table = self._state.assignments.items()
            show = self._replicas.shown_by_name()
            return ((k, show(row)) for k, row in table if k.startswith(prefix) and may_see(caller.scopes, k))

        return self._follow("replica", rows, request.filter, replica_pb2.Replica.DESCRIPTOR)

    def watch_rollouts(self, request: watch_pb2.WatchBelowRequest, caller: Caller) -> AsyncIterator[watch_pb2.Change]:
        prefix = self._prefix(request.parent)

        def rows() -> Iterable[tuple[str, Any]]:
            table = self._state.rollouts.items()
            return (pair for pair in table if pair[0].startswith(prefix) and may_see(caller.scopes, pair[0]))

        return self._follow("rollout", rows, request.filter, release_pb2.Rollout.DESCRIPTOR)

    def watch_operations(self, request: watch_pb2.WatchRequest, caller: Caller) -> AsyncIterator[watch_pb2.Change]:
        descriptor = operation_pb2.LongRunningOperation.DESCRIPTOR
        return self._follow("operation", lambda: self._operations.seen_by(caller), request.filter, descriptor)

    def _prefix(self, parent: str) -> str:
        """What the names below a parent begin with. Raises NOT_FOUND."""
        (app_id,) = parse(parent, "apps/*", "parent")
        if app_id == "-":
            return "apps/"
        self._state.apps.need(parent)
        return f"{parent}/"

    async def _follow(
        self, field: str, rows: Rows, filter_text: str, descriptor: Descriptor
    ) -> AsyncIterator[watch_pb2.Change]:
        passes = listing.predicate(filter_text, descriptor)
        sent: dict[str, tuple[str, bytes]] = {}
        synced = False
        while True:
            there = {key: row for key, row in rows() if passes(row)}
            for change in changes(field, sent, there):
                yield change
            if not synced:
                synced = True
                yield watch_pb2.Change(kind=watch_pb2.Change.KIND_SYNCED)
            await asyncio.sleep(PAUSE_S)
            await self._state.wait_change(LOOK_S)


def changes(field: str, sent: dict[str, tuple[str, bytes]], there: dict[str, Any]) -> list[watch_pb2.Change]:
    """What a reader that was sent `sent` has to learn of what is `there`; `sent` is brought up to date."""
    gone = [key for key in sent if key not in there]
    found = [watch_pb2.Change(kind=watch_pb2.Change.KIND_REMOVED, name=sent.pop(key)[0]) for key in gone]
    for key, row in there.items():
        mark = (row.name, _hash(row))
        before = sent.get(key)
        if before == mark:
            continue
        sent[key] = mark
        kind = watch_pb2.Change.KIND_PRESENT if before is None else watch_pb2.Change.KIND_CHANGED
        change = watch_pb2.Change(kind=kind, name=row.name)
        getattr(change, field).CopyFrom(row)
        found.append(change)
    return found


def _hash(row: Message) -> bytes:
    if isinstance(row, node_pb2.Node):
        steady = node_pb2.Node()
        steady.CopyFrom(row)
        for session in steady.sessions:
            session.ClearField("last_seen_time")
        row = steady
    return hashlib.blake2b(row.SerializeToString(deterministic=True), digest_size=16).digest()
