"""Answers that were given before, given again to queries that differ only in id, client network and cookie.

For the server in Python alone: parsing a query costs it more than finding the answer. So the bytes between the id and
the client's network are looked up as they are, and the answer is three slices put together. What is given is what the
responder gave, byte for byte.
"""

from __future__ import annotations

from typing import Final

from routing.core.cookies import CookieJar
from routing.core.geo import PlaceMap
from routing.core.wire import HEADER_BYTES, UDP_SIZE
from routing.core.zone import Tail

_HELD_MAX: Final = 100_000
_CUTS_MAX: Final = 4
_SUBNET_START: Final = b"\0\x08\0\x07\0\x01\x18\0"
_SUBNET_REPLY: Final = b"\0\x08\0\x07\0\x01\x18"
_COOKIE_STARTS: Final = {12: b"\0\x0a\0\x08", 28: b"\0\x0a\0\x18"}
_COOKIE_REPLY_BYTES: Final = 28
_CLIENT_BYTES: Final = 8

_Template = tuple[int, int, dict[int, tuple[bytes, ...]]]
"""How far from the end the client's network and its cookie begin (0: there is none), and by entry of the map (0: for
every place) what stands between the id and the network's scope, in every rotation."""


class Recall:
    """What was given by one responder."""

    def __init__(self, places: PlaceMap, jar: CookieJar | None):
        self._jar = jar
        tables = places.tables_v4
        self._buckets = None if tables is None else tables[0]
        self._scopes = None if tables is None else tables[1]
        self._held = 0
        self._templates: dict[bytes, _Template] = {}
        self._cuts: dict[int, tuple[int, ...]] = {}
        """By the length of a query, how many of its last bytes are not looked up."""

    def answer(self, data: bytes, source: bytes) -> bytes | None:
        """The answer to a query like one that was learnt, else None."""
        size = len(data)
        for cut in self._cuts.get(size, ()):
            template = self._templates.get(data[2 : size - cut])
            if template is None:
                continue
            network_at, client_at, by_entry = template
            network = data[size - network_at : size - network_at + 3] if network_at else b""
            made = by_entry.get(0)
            scope: bytes | bytearray = b"\0"
            if made is None:
                if self._buckets is None or self._scopes is None or (not network and len(source) != 4):
                    return None
                index = int.from_bytes(network or source[:3], "big")
                made = by_entry.get(self._buckets[index])
                if made is None:
                    return None
                scope = self._scopes[index : index + 1]
            if client_at:
                if data[size - client_at - 4 : size - client_at] not in _COOKIES or self._jar is None:
                    return None
                cookie = self._jar.reply(data[size - client_at : size - client_at + _CLIENT_BYTES], source)
                if network_at:
                    return data[:2] + made[data[1] % len(made)] + scope + network + cookie
                return data[:2] + made[data[1] % len(made)] + cookie
            if network_at:
                return data[:2] + made[data[1] % len(made)] + scope + network
            return data[:2] + made[data[1] % len(made)]
        return None

    def learn(self, data: bytes, source: bytes, end: int, tail: Tail, by_place: bool) -> None:
        """Takes `tail`, which answers a common query whose question ends at `end` with NOERROR."""
        if tail.heads[0][1] & 15:
            return
        kind = 2 * data[11] + data[2]
        found = _ending(data, end)
        if found is None:
            return
        network_at, client_at, cut, ending = found
        size, entry = len(data), 0
        if by_place and self._buckets is not None:
            network = data[size - network_at :] if network_at else source
            entry = self._buckets[int.from_bytes(network[:3], "big")]
            if entry in (0, 0xFFFF):
                return
        made = tuple(tail.heads[kind] + data[HEADER_BYTES:end] + body + ending for body in tail.bodies)
        whole = 2 + len(made[0]) + (4 if network_at else 0) + (_COOKIE_REPLY_BYTES if client_at else 0)
        if whole > min(UDP_SIZE, max(512, int.from_bytes(data[end + 3 : end + 5], "big") if data[11] else 512)):
            return
        if self._held >= _HELD_MAX:
            self._templates.clear()
            self._cuts.clear()
            self._held = 0
        self._held += len(made)
        cuts = self._cuts.get(size, ())
        if cut not in cuts:
            if len(cuts) >= _CUTS_MAX:
                return
            self._cuts[size] = (*cuts, cut)
        self._templates.setdefault(data[2 : size - cut], (network_at, client_at, {}))[2][entry] = made


_COOKIES: Final = frozenset(_COOKIE_STARTS.values())


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
