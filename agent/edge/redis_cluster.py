"""Connections to the nodes of a Redis cluster, used as if they were one: each command goes where its key's slot is.

What a node says of a slot that has moved is believed at once, and the whole map is fetched anew behind it. Of a node
that cannot be reached nothing is asked for a while: its share of the keys is then not there, that of the others is.

Source: redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Final

import hiredis
import structlog

from agent.edge.core import resp
from agent.edge.core.resp import key_slot
from agent.edge.redis_address import Address
from agent.edge.redis_discovery import always, slots
from agent.edge.redis_link import Answered, LinkError, RedisLink

log = structlog.get_logger()

REDIRECTS_MAX: Final = 3
DOWN_S: Final = 0.5
"""So long nothing is asked of a node after it failed."""
REFRESH_S: Final = 0.2
"""The map is fetched once in so long at most."""
WAITING_MAX: Final = 1024
"""Commands that wait for the first map."""
_ASKING: Final = resp.command(b"ASKING")


class ClusterLink:
    """One connection to each node that holds slots, opened when it is needed."""

    def __init__(self, seeds: Sequence[Address], timeout_s: float):
        self._seeds = list(seeds)
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._slots: list[Address | None] = []
        self._links: dict[tuple[str, int], RedisLink] = {}
        self._down: dict[tuple[str, int], float] = {}
        self._waiting: list[tuple[bytes, Answered]] = []
        self._refreshing: asyncio.Task[None] | None = None
        self._refreshed = -REFRESH_S
        self._closed = False

    def ask(self, command: bytes, answered: Answered) -> None:
        """Sends a command whose first argument is its key. `answered` is called later, once, whatever happens.

        It is None for a key whose node is away.
        """
        if self._closed or len(self._waiting) >= WAITING_MAX:
            self._loop.call_soon(answered, LinkError("closed" if self._closed else "too many commands wait"))
        elif not self._slots:
            self._waiting.append((command, answered))
            self._refresh()
        else:
            self._send(self._slots[key_slot(_key(command))], command, answered, REDIRECTS_MAX)

    def _send(self, address: Address | None, command: bytes, answered: Answered, redirects: int) -> None:
        down_until = 0.0 if address is None else self._down.get((address.host, address.port), 0.0)
        if address is None or self._loop.time() < down_until:
            self._refresh()
            self._loop.call_soon(answered, None)
            return
        came = functools.partial(self._came, address, command, answered, redirects)
        self._link(address).ask(command, came)

    def _link(self, address: Address) -> RedisLink:
        place = (address.host, address.port)
        link = self._links.get(place)
        if link is None:
            link = self._links[place] = RedisLink(always(address), self._timeout_s)
        return link

    def _came(self, address: Address, command: bytes, answered: Answered, redirects: int, reply: Any) -> None:
        if isinstance(reply, LinkError):
            self._down[(address.host, address.port)] = self._loop.time() + DOWN_S
            self._refresh()
        elif isinstance(reply, hiredis.ReplyError):
            kind, _, rest = str(reply).partition(" ")
            if kind in ("MOVED", "ASK") and redirects and not self._closed:
                self._follow(kind, rest, address, command, answered, redirects - 1)
                return
            self._refresh()
        else:
            self._down.pop((address.host, address.port), None)
        answered(reply)

    def _follow(
        self, kind: str, rest: str, address: Address, command: bytes, answered: Answered, redirects: int
    ) -> None:
        """Asks again where the node has said: `SLOT HOST:PORT`."""
        slot, _, place = rest.partition(" ")
        host, _, port = place.rpartition(":")
        if not slot.isdigit() or not port.isdigit() or int(slot) >= len(self._slots):
            answered(LinkError(f"{address.name} redirects to {rest!r}"))
            return
        target = dataclasses.replace(address, host=host or address.host, port=int(port))
        if kind == "ASK":
            self._link(target).ask(_ASKING, lambda _: None)
        else:
            self._slots[int(slot)] = target
            self._refresh()
        self._send(target, command, answered, redirects)

    # ---- the map

    def _refresh(self) -> None:
        if self._refreshing is None and not self._closed:
            self._refreshing = self._loop.create_task(self._fetch())

    async def _fetch(self) -> None:
        await asyncio.sleep(max(0.0, self._refreshed + REFRESH_S - self._loop.time()))
        known = {node for node in self._slots if node is not None}
        error = LinkError("no node of the cluster is known")
        try:
            for address in [*known, *(seed for seed in self._seeds if seed not in known)]:
                try:
                    self._slots = await slots(address)
                    break
                except LinkError as failure:
                    error = failure
            else:
                log.warning("no node of the cluster says where the slots are", reason=str(error))
        finally:
            self._refreshed = self._loop.time()
            self._refreshing = None
        await self._forget_gone()
        waiting, self._waiting = self._waiting, []
        for command, answered in waiting:
            if self._slots:
                self.ask(command, answered)
            else:
                answered(error)

    async def _forget_gone(self) -> None:
        here = {(node.host, node.port) for node in self._slots if node is not None}
        for place in [place for place in self._links if place not in here]:
            await self._links.pop(place).close()
            self._down.pop(place, None)

    # ---- the end

    def reset(self, why: str) -> None:
        """Ends what is connected."""
        for link in self._links.values():
            link.reset(why)
        self._refresh()

    async def close(self) -> None:
        """Ends it for good."""
        self._closed = True
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)
        waiting, self._waiting = self._waiting, []
        for _, answered in waiting:
            answered(LinkError("closed"))
        for link in self._links.values():
            await link.close()


def _key(command: bytes) -> bytes:
    """The first argument of a command as `core.resp.command` makes it: after the lengths of all, of the name, the name
    and the length of the key."""
    at = 0
    for _ in range(3):
        at = command.index(b"\r\n", at) + 2
    end = command.index(b"\r\n", at)
    return command[end + 2 : end + 2 + int(command[at + 1 : end])]
