"""One connection to a Redis that all requests of a worker share: commands go out as they come, replies come back in
their order, and whoever asked is called. No task and no timer per command.

Who waits longer than `timeout_s` is told so; the reply that still comes is dropped when it does. A connection that
keeps a reply back for `HUNG_S` more is given up, and so is one that sends what is no reply.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

import hiredis
import structlog

from agent.edge.core import resp
from agent.edge.redis_address import Address

log = structlog.get_logger()

HUNG_S: Final = 1.0
PENDING_MAX: Final = 8192
"""Commands without a reply; more are refused at once."""
Locate = Callable[[], Awaitable[Address]]
"""Where to connect now: asked anew for each connection, so that it may follow a failover. Raises OSError."""
Answered = Callable[[Any], None]
"""Is called once with bytes, an int, None or a list, or with the exception that stands for a failure."""


class LinkError(Exception):
    """There is no reply, and none will come."""


class RedisLink(asyncio.Protocol):
    """Connects when something is asked; again, after a failure, when something is asked then."""

    def __init__(self, locate: Locate, timeout_s: float):
        self._locate = locate
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._replies = resp.Replies()
        self._pending: deque[Answered | None] = deque()
        """Who waits for the next replies; None for who does not wait any more."""
        self._deadlines: deque[float] = deque()
        """Theirs."""
        self._given_up = 0
        """So many at the head of `_pending` nobody waits for."""
        self._unsent: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def ask(self, command: bytes, answered: Answered) -> None:
        """Sends a command. `answered` is called later, once, whatever happens."""
        if len(self._pending) >= PENDING_MAX or self._closed:
            error = LinkError("closed" if self._closed else "too many commands wait")
            self._loop.call_soon(self._tell, answered, error)
            return
        deadline = self._loop.time() + self._timeout_s
        self._pending.append(answered)
        self._deadlines.append(deadline)
        if self._timer is None:
            self._timer = self._loop.call_at(deadline, self._look)
        if self._transport is not None:
            self._transport.write(command)
            return
        self._unsent.append(command)
        if self._connecting is None:
            self._connecting = self._loop.create_task(self._connect())

    def reset(self, why: str) -> None:
        """Ends the connection, as after a failover; the next command finds out where to go."""
        self._drop(LinkError(why))

    async def close(self) -> None:
        """Ends it for good."""
        self._closed = True
        connecting = self._connecting
        self._drop(LinkError("closed"))
        if connecting is not None:
            await asyncio.gather(connecting, return_exceptions=True)

    # ---- the connection

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(max(self._timeout_s, HUNG_S)):
                address = await self._locate()
                await self._open(address)
        except (OSError, ValueError, resp.NotRedis, LinkError) as error:  # TimeoutError is an OSError
            self._connecting = None
            self._drop(LinkError(f"no connection to Redis: {str(error) or type(error).__name__}"))
            return
        self._connecting = None
        unsent, self._unsent = self._unsent, []
        if self._transport is not None and unsent:
            self._transport.write(b"".join(unsent))

    async def _open(self, address: Address) -> None:
        greeter = _Greeter(address.greeting(), self._loop.create_future())
        if address.path:
            transport, _ = await self._loop.create_unix_connection(lambda: greeter, address.path)
        else:
            transport, _ = await self._loop.create_connection(
                lambda: greeter, address.host, address.port, ssl=address.tls
            )
        try:
            await greeter.done
        except BaseException:
            transport.abort()
            raise
        self._replies = resp.Replies()
        self._transport = transport
        transport.set_protocol(self)

    def data_received(self, data: bytes) -> None:
        pending = self._pending
        try:
            for reply in self._replies.feed(data):
                if not pending:
                    raise resp.NotRedis("a reply that nobody asked for")
                answered = pending.popleft()
                self._deadlines.popleft()
                if self._given_up:
                    self._given_up -= 1
                if answered is not None:
                    try:
                        answered(reply)
                    except Exception:  # a fault of one request must not take the others with it
                        log.exception("an answer of the second tier could not be used")
                    if self._pending is not pending:
                        return  # it was ended by whom it was told: the rest is nobody's answer
        except resp.NotRedis as error:
            log.warning("the second tier is given up for now", reason=str(error))
            self._drop(LinkError(str(error)))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._drop(LinkError("Redis closed the connection"))

    def _tell(self, answered: Answered, reply: Any) -> None:
        try:
            answered(reply)
        except Exception:  # a fault of one request must not take the others with it
            log.exception("an answer of the second tier could not be used")

    # ---- the end of patience

    def _look(self) -> None:
        """Gives up what is late; comes again when the next one would be."""
        self._timer = None
        now = self._loop.time()
        pending, deadlines = self._pending, self._deadlines
        late: list[Answered] = []
        while self._given_up < len(pending) and deadlines[self._given_up] <= now:
            answered = pending[self._given_up]
            if answered is not None:
                late.append(answered)
                pending[self._given_up] = None
            self._given_up += 1
        if pending and self._given_up and now > deadlines[0] + HUNG_S:
            self._drop(LinkError("Redis does not answer"))
        elif self._given_up < len(pending):
            self._timer = self._loop.call_at(deadlines[self._given_up], self._look)
        elif pending:
            self._timer = self._loop.call_at(deadlines[0] + 1.01 * HUNG_S, self._look)
        for each in late:
            self._tell(each, LinkError("no answer in time"))

    def _drop(self, error: LinkError) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        pending, self._pending = self._pending, deque()
        self._deadlines.clear()
        self._unsent.clear()
        self._given_up = 0
        for answered in pending:
            if answered is not None:
                self._tell(answered, error)


class _Greeter(asyncio.Protocol):
    """Says what a connection begins with; `done` ends when the server has agreed to all of it."""

    def __init__(self, commands: list[bytes], done: asyncio.Future[None]):
        self.done = done
        self._commands = commands
        self._left = len(commands)
        self._replies = resp.Replies()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._commands:
            cast(asyncio.Transport, transport).write(b"".join(self._commands))
        else:
            self.done.set_result(None)

    def data_received(self, data: bytes) -> None:
        try:
            for reply in self._replies.feed(data):
                self._left -= 1
                if isinstance(reply, hiredis.ReplyError) or self._left < 0:
                    raise resp.NotRedis(f"it does not let us in: {reply}")
        except resp.NotRedis as error:
            self._fail(error)
            return
        if self._left == 0 and not self.done.done():
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(LinkError("Redis closed the connection"))

    def _fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)
