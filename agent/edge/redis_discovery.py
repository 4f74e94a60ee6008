"""Finds servers: the master that Sentinel names, and the nodes that hold the slots of a cluster."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any, Final

from agent.edge.core import resp
from agent.edge.core.resp import SLOTS
from agent.edge.redis_address import Address
from agent.edge.redis_link import LinkError, Locate, RedisLink

ASK_TIMEOUT_S: Final = 0.25
"""For each place that is asked; one that is gone must not use up the time that a connection has."""


def always(address: Address) -> Locate:
    """The one server there is."""

    async def locate() -> Address:
        return address

    return locate


async def ask_once(address: Address, command: bytes, timeout_s: float = ASK_TIMEOUT_S) -> Any:
    """The reply to one command over a connection of its own. Raises LinkError; what the server refuses is one too."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    link = RedisLink(always(address), timeout_s)
    try:
        link.ask(command, lambda reply: None if future.done() else future.set_result(reply))
        reply = await future
    finally:
        await link.close()
    if isinstance(reply, Exception):
        raise LinkError(f"{address.name}: {reply}")
    return reply


class Sentinels:
    """Asks Sentinels for the master, the one first that has answered last.

    Source: redis.io/docs/latest/develop/reference/sentinel-clients.
    """

    def __init__(self, seeds: Sequence[Address], service: str, server: Address):
        self._seeds = list(seeds)
        self._service = service
        self._server = server

    async def locate(self) -> Address:
        """The master's address. Raises OSError when no Sentinel knows one."""
        why = ""
        command = resp.command(b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", self._service.encode())
        for seed in list(self._seeds):
            try:
                reply = await ask_once(seed, command)
            except LinkError as error:
                why = str(error)
                continue
            if isinstance(reply, list) and len(reply) == 2:
                self._seeds.remove(seed)
                self._seeds.insert(0, seed)
                return dataclasses.replace(self._server, host=reply[0].decode(), port=int(reply[1]))
            why = f"{seed.name} does not watch it"
        raise OSError(f"no Sentinel names a master {self._service}: {why}")


async def slots(address: Address) -> list[Address | None]:
    """For each slot, the master that holds it, as one node of a cluster sees it. Raises LinkError."""
    reply = await ask_once(address, resp.command(b"CLUSTER", b"SLOTS"))
    found: list[Address | None] = [None] * SLOTS
    try:
        for first, last, (host, port, *_), *_ in reply:
            # Without a host it is the one that was asked.
            node = dataclasses.replace(address, host=(host or b"").decode() or address.host, port=int(port))
            found[first : last + 1] = [node] * (last - first + 1)
    except (TypeError, ValueError, AttributeError) as error:
        raise LinkError(f"{address.name}: {reply!r} is no map of slots") from error
    if len(found) != SLOTS or not any(found):
        raise LinkError(f"{address.name}: the cluster has no slots")
    return found
