"""Answers that were given before, given again to queries that differ only in id, client network and cookie.

For the server in Python alone: parsing a query costs it more than finding the answer. So the bytes between the id and
the client's network are looked up as they are, and the answer is a few slices put together, for a whole batch within
one loop. What is given is what the responder gave, byte for byte.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from routing.core.cookies import CookieJar
from routing.core.geo import MIXED, PAGE, PlaceMap
from routing.core.rate_limit import RateLimiter
from routing.core.wire import HEADER_BYTES, UDP_SIZE
from routing.core.zone import Tail

_HELD_MAX: Final = 100_000
_SUBNET_START: Final = b"\0\x08\0\x07\0\x01\x18\0"
_SUBNET_REPLY: Final = b"\0\x08\0\x07\0\x01\x18"
_COOKIE_STARTS: Final = {12: b"\0\x0a\0\x08", 28: b"\0\x0a\0\x18"}
_COOKIES: Final = frozenset(_COOKIE_STARTS.values())
_COOKIE_REPLY_BYTES: Final = 28
_CLIENT_BYTES: Final = 8
_PLACE_BYTES: Final = 3

_Made = tuple[bytes, ...]
"""What stands between the id and the client's network, in every rotation."""
_Template = tuple[int, int, bytes, _Made | None, dict[int, _Made]]
"""How far from the end the client's network and its cookie begin (0: there is none), the name that is limited, what is
given everywhere, or else by entry of the map."""


@dataclass(frozen=True, slots=True)
class Slots:
    """Memory of a batch. `places` are, slot by slot: its number, where its query and its answer begin, where in
    `received` the size of the query is, where in `sources` the client's address begins, where that of its network ends,
    and where in `sizes` that of the answer goes."""

    queries: mmap.mmap
    received: memoryview[int]
    sources: mmap.mmap
    answers: mmap.mmap
    sizes: memoryview[int]
    places: Sequence[tuple[int, int, int, int, int, int]]


class Recall:
    """What was given by one responder."""

    def __init__(self, places: PlaceMap, jar: CookieJar | None):
        self._jar = jar
        self._table = places.table_v4
        self._held = 0
        self._templates: dict[bytes, _Template] = {}
        self._cuts: dict[int, int] = {}
        """By the length of a query, how many of its last bytes are not looked up."""
        self._other_cuts: dict[int, tuple[int, ...]] = {}
        """The same for queries of that length that have another form."""

    def answer(self, slots: Slots, count: int, limiter: RateLimiter) -> list[int]:
        """Answers queries like those that were learnt, each counted by `limiter`, in the first `count` slots; which
        slots are left. Everything in locals, nothing computed twice: this is the hot loop."""
        left: list[int] = []
        queries, received, sources = slots.queries, slots.received, slots.sources
        answers, sizes = slots.answers, slots.sizes
        cut_of, template_of, table = self._cuts.get, self._templates.get, self._table
        counts, most = limiter.room(), limiter.per_second
        for slot, at, size_at, source, network_end, out_at in slots.places[:count]:
            end = at + received[size_at]
            cut = cut_of(end - at)
            template = None if cut is None else template_of(queries[at + 2 : end - cut])
            if template is None:
                template = self._of_another_form(queries[at:end])
                if template is None:
                    left.append(slot)
                    continue
            network_at, client_at, name, made, by_entry = template
            if made is None:
                # As a place is looked up in `PlaceMap.bucket_v4`.
                if network_at:
                    place, entry = end - network_at, 0
                    if table is not None:
                        entry = table[queries[place] << 8 | queries[place + 1]]
                        if entry >= PAGE:
                            entry = table[entry - PAGE + queries[place + 2]]
                else:
                    entry = self._entry(sources[source:network_end])
                made = by_entry.get(entry)
                if made is None:
                    left.append(slot)
                    continue
            if most:
                key = sources[source:network_end] + name
                counted = counts[key] = counts.get(key, 0) + 1
                if counted > most:
                    left.append(slot)
                    continue
            answer = queries[at : at + 2] + (made[queries[at + 1] % len(made)] if len(made) > 1 else made[0])
            if client_at:
                cookie = self._cookie(queries[end - client_at - 4 : end], sources, source, network_end)
                if cookie is None:
                    left.append(slot)
                    continue
                answer += queries[end - network_at : end - network_at + _PLACE_BYTES] + cookie if network_at else cookie
            elif network_at:
                answer += queries[end - _PLACE_BYTES : end]
            size = sizes[out_at] = len(answer)
            answers[at : at + size] = answer
        return left

    def _of_another_form(self, query: bytes) -> _Template | None:
        for cut in self._other_cuts.get(len(query), ()):
            template = self._templates.get(query[2 : len(query) - cut])
            if template is not None:
                return template
        return None

    def _entry(self, network: bytes) -> int:
        """What the map holds for an IPv4 /24; 0 for what is none."""
        if self._table is None or len(network) != _PLACE_BYTES:
            return 0
        entry = self._table[network[0] << 8 | network[1]]
        return self._table[entry - PAGE + network[2]] if entry >= PAGE else entry

    def _cookie(self, option: bytes, sources: mmap.mmap, source: int, network_end: int) -> bytes | None:
        """The option for the answer; None when the query's is none."""
        if option[:4] not in _COOKIES or self._jar is None:
            return None
        address_end = source + (4 if network_end - source == _PLACE_BYTES else 16)
        return self._jar.reply(option[4 : 4 + _CLIENT_BYTES], sources[source:address_end])

    def learn(self, data: bytes, source: bytes, end: int, tail: Tail, by_place: bool) -> None:
        """Takes `tail`, which answers a common query whose question ends at `end` with NOERROR."""
        if tail.heads[0][1] & 15:
            return
        kind = 2 * data[11] + data[2]
        found = _ending(data, end)
        if found is None:
            return
        network_at, client_at, cut, ending = found
        size, entry, scope = len(data), 0, 0
        everywhere = not by_place or self._table is None
        if not everywhere:
            entry = self._entry(
                data[size - network_at : size - network_at + _PLACE_BYTES] if network_at else source[:-1]
            )
            scope = entry >> 16
            if entry in (0, MIXED):
                return
        if network_at:
            ending += bytes((scope,))
        made = tuple(tail.heads[kind] + data[HEADER_BYTES:end] + body + ending for body in tail.bodies)
        whole = 2 + len(made[0]) + (_PLACE_BYTES if network_at else 0) + (_COOKIE_REPLY_BYTES if client_at else 0)
        if whole > min(UDP_SIZE, max(512, int.from_bytes(data[end + 3 : end + 5], "big") if data[11] else 512)):
            return
        if self._held >= _HELD_MAX:
            self._templates.clear()
            self._cuts.clear()
            self._other_cuts.clear()
            self._held = 0
        self._held += len(made)
        others = self._other_cuts.get(size, ())
        if self._cuts.setdefault(size, cut) != cut and cut not in others:
            self._other_cuts[size] = (*others, cut)
        key, name = data[2 : size - cut], data[HEADER_BYTES : end - 5]
        template = self._templates.setdefault(key, (network_at, client_at, name, made if everywhere else None, {}))
        template[4][entry] = made


def _ending(data: bytes, end: int) -> tuple[int, int, int, bytes] | None:
    """Where network and cookie begin, from the end; how much is not looked up; and the OPT record of the answer up to
    the network's scope. None for a query with anything else, or with these in another order."""
    if not data[11]:
        return (0, 0, 0, b"") if len(data) == end else None
    opt, option = data[end : end + 11], data[end + 11 :]
    if len(opt) != 11 or opt[:3] != b"\0\0\x29" or opt[6] or opt[9] << 8 | opt[10] != len(option):
        return None
    network_at = client_at = 0
    rest = option
    if option[:8] == _SUBNET_START and len(option) >= 11:
        network_at, rest = len(option) - 8, option[11:]
    if rest:
        if _COOKIE_STARTS.get(len(rest)) != rest[:4]:
            return None
        client_at = len(rest) - 4
    size = (11 if network_at else 0) + (_COOKIE_REPLY_BYTES if client_at else 0)
    reply = b"\0\0\x29" + UDP_SIZE.to_bytes(2, "big") + bytes((0, 0, data[end + 7] & 0x80, 0)) + size.to_bytes(2, "big")
    cut = network_at or client_at
    return network_at, client_at, cut, reply + (_SUBNET_REPLY if network_at else b"")
