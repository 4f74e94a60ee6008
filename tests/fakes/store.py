"""A store in memory."""

from __future__ import annotations

from collections.abc import Callable

from control_plane.ports import Committed, Delete, EventQuery, Put, StoredObject, Transaction
from fleet.errors import Code, LocciError
from locci.v1 import event_pb2


class MemoryStore:
    """A `Store` that forgets everything with its process. Set `broken` to make commits fail."""

    def __init__(self, wall: Callable[[], float] = lambda: 1_750_000_000.0) -> None:
        self._objects: dict[tuple[str, str], StoredObject] = {}
        self._events: list[event_pb2.Event] = []
        self._revision = 0
        self._wall = wall
        self.broken = False

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close."""

    async def revision(self) -> int:
        return self._revision

    async def load(self) -> list[StoredObject]:
        return [self._objects[key] for key in sorted(self._objects)]

    async def commit(self, transaction: Transaction) -> Committed:
        if self.broken:
            raise LocciError(Code.UNAVAILABLE, "STORE_UNAVAILABLE", "the store is broken")
        objects = dict(self._objects)
        revision = self._revision + bool(transaction.changes)
        for change in transaction.changes:
            key = (change.kind, change.name)
            current = objects[key].revision if key in objects else 0
            if change.expected is not None and change.expected != current:
                raise LocciError(Code.ABORTED, "CONFLICT", f"{change.kind}/{change.name} is at {current}")
            match change:
                case Put():
                    objects[key] = StoredObject(change.kind, change.name, revision, change.body)
                case Delete():
                    objects.pop(key, None)
        recorded = []
        for given in transaction.events:
            event = event_pb2.Event()
            event.CopyFrom(given)
            event.name = f"events/{len(self._events) + len(recorded) + 1}"
            event.time.FromMicroseconds(int(self._wall() * 1_000_000))
            recorded.append(event)
        self._objects, self._revision = objects, revision
        self._events.extend(recorded)
        return Committed(revision, recorded)

    async def events(self, query: EventQuery) -> list[event_pb2.Event]:
        numbered = list(enumerate(self._events, 1))
        chosen = [
            event
            for number, event in (numbered if query.ascending else reversed(numbered))
            if number > query.after
            and (not query.before or number < query.before)
            and query.type in ("", event.type)
            and (not query.subject or query.subject in event.subjects)
        ]
        return chosen[: query.limit]
