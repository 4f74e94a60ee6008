"""A batch of one query, laid out as the listener lays it out."""

from __future__ import annotations

import mmap

from routing.core.answer import Responder
from routing.core.rate_limit import RateLimiter
from routing.core.recall import Slots

_SLOT_BYTES = 2048


def slots_of(queries: list[bytes], source: bytes) -> Slots:
    """Slots with these queries, all from one client."""
    count = len(queries)
    room, answers = mmap.mmap(-1, count * _SLOT_BYTES), mmap.mmap(-1, count * _SLOT_BYTES)
    sources = mmap.mmap(-1, 16)
    sources[: len(source)] = source
    for number, query in enumerate(queries):
        room[number * _SLOT_BYTES : number * _SLOT_BYTES + len(query)] = query
    received = memoryview(bytearray(b"".join(len(query).to_bytes(4, "little") for query in queries))).cast("I")
    sizes = memoryview(bytearray(16 * count)).cast("Q")
    network_end = 3 if len(source) == 4 else 7
    places = [(number, number * _SLOT_BYTES, number, 0, network_end, 2 * number + 1) for number in range(count)]
    return Slots(room, received, sources, answers, sizes, places)


def recalled(on: Responder, data: bytes, source: bytes, limiter: RateLimiter | None = None) -> bytes | None:
    """What a responder recalls for a query; None when it leaves it."""
    slots = slots_of([data], source)
    if on.recall(slots, 1, limiter or RateLimiter(0)):
        return None
    return slots.answers[: slots.sizes[1]]
