"""Events: what happened, read and followed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from control_plane.core.roles import may_see
from control_plane.ports import EventQuery
from control_plane.services import listing
from control_plane.services.caller import Caller
from control_plane.services.context import Context
from control_plane.state import sequence_of
from fleet.errors import invalid, not_found
from fleet.ids import parse
from locci.v1 import event_pb2

_READS_MAX: Final = 20
"""A page with a filter looks at so many pages of events; it may be short, and a token says that there is more."""


class EventService:
    """Implements `locci.v1.EventService`."""

    def __init__(self, context: Context):
        self._state = context.state

    async def list_events(self, request: event_pb2.ListEventsRequest, caller: Caller) -> event_pb2.ListEventsResponse:
        size = listing.page_size(request)
        passes = listing.predicate(request.filter, event_pb2.Event.DESCRIPTOR)
        mark = _number(str(listing.decode_token(request)), "page_token") if request.page_token else 0
        found: list[event_pb2.Event] = []
        for _ in range(_READS_MAX):
            read = await self._state.events(_query(request, mark, size + 1))
            for event in read:
                if passes(event) and _may_see(caller, event):
                    found.append(event)
                if len(found) > size:
                    return event_pb2.ListEventsResponse(
                        events=found[:size], next_page_token=listing.encode_token(request, mark)
                    )
                mark = sequence_of(event)
            if len(read) <= size:
                return event_pb2.ListEventsResponse(events=found)
        return event_pb2.ListEventsResponse(events=found, next_page_token=listing.encode_token(request, mark))

    async def get_event(self, request: event_pb2.GetEventRequest, caller: Caller) -> event_pb2.Event:
        (text,) = parse(request.name, "events/*")
        sequence = _number(text, "name")
        found = await self._state.events(EventQuery(limit=1, after=sequence - 1, ascending=True))
        if not found or sequence_of(found[0]) != sequence or not _may_see(caller, found[0]):
            raise not_found(request.name)
        return found[0]

    async def watch_events(
        self, request: event_pb2.WatchEventsRequest, caller: Caller
    ) -> AsyncIterator[event_pb2.Event]:
        async for event in self._state.follow(request.after_sequence):
            if (not request.subject or request.subject in event.subjects) and _may_see(caller, event):
                yield event


def _may_see(caller: Caller, event: event_pb2.Event) -> bool:
    """Whether an event is about nothing but what the caller is shown."""
    return all(may_see(caller.scopes, subject) for subject in event.subjects)


def _query(request: event_pb2.ListEventsRequest, mark: int, limit: int) -> EventQuery:
    return EventQuery(
        limit=limit,
        after=mark if request.ascending else 0,
        before=0 if request.ascending else mark,
        subject=request.subject,
        type=request.type,
        ascending=request.ascending,
    )


def _number(text: str, path: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 1 << 62:
        raise invalid(path, f"{path}: {text!r} is no sequence of an event")
    return int(text)
