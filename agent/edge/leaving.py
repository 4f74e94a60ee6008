"""How a client's connection ends: after its last answer, when it idles, is too slow, or the worker leaves."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from agent.edge.core.request_head import Refused
from agent.edge.express import Express
from agent.edge.responder import Request
from agent.edge.tunnel import Tunnel
from agent.edge.unread import Unread, unconfirmed_bytes, unread_bytes

if TYPE_CHECKING:
    from agent.edge.listener import Listener

LINGER_S: Final = 2.0
HALF_CLOSED_S: Final = 5.0
"""A client that has closed its side waits for an answer, or has gone; after so long it is taken for gone."""
RETIRE_IDLE_S: Final = 5.0
DRAIN_IDLE_S: Final = 0.25
"""So long after its last request a client is taken to be about to send another one."""


class Leaving(Express):
    """The part of a connection that ends it."""

    __slots__ = ("_client_done", "_delimited", "_linger_since", "_tunnel", "_unread")

    def __init__(self, listener: Listener, address: bytes):
        super().__init__(listener, address)
        self._tunnel: Tunnel | None = None
        self._unread = Unread()
        self._delimited = True
        """The client can tell where the present answer ends."""
        self._linger_since = 0.0
        self._client_done = False
        """It has closed its side."""

    @property
    def transport(self) -> asyncio.Transport:
        """The transport of an established connection."""
        assert self._transport is not None
        return self._transport

    def _close(self, request: Request) -> None:
        announced = request.head.keep_alive and self._delimited  # and not by the client: it may have sent more
        self._deaf = True
        self._queue.clear()
        if (request.body is None or request.body.complete) and not announced:
            self.transport.close()
        else:
            self._linger()

    def _linger(self) -> None:
        """Closes so that a client that is still sending gets the response before the reset (RFC 9112 section 9.6)."""
        self._deaf = True
        self._queue.clear()
        self._linger_since = now = self._loop.time()
        self._unread.begin(self.transport, now)
        if self._client_done:
            self.transport.close()
        elif self.transport.can_write_eof():
            self.transport.write_eof()

    def sweep(self, now: float) -> None:
        """Ends what takes too long. Called every now and then."""
        if self.transport.is_closing():
            return
        if self._linger_since:
            self._see_off(now)
            return
        if self._client_done and now - self._data_at > HALF_CLOSED_S:
            self.transport.abort()
            return
        if not self._writable:
            if self._unread.too_slow(self.transport, now, self._state.settings):
                self.transport.abort()
            return
        if why := self.slow(now):
            self._too_slow(Refused(408, why))
        elif self._active is not None or self._tunnel is not None:
            if self._body is None and not self._client_done:
                self._data_at = now  # it idles from the end of the answer on
        elif now - self._data_at > self._state.settings.idle_timeout_s:
            self._close_idle()

    def _see_off(self, now: float) -> None:
        """The client has all of LINGER_S to close its side once it has everything."""
        if unconfirmed_bytes(self.transport):
            self._linger_since = now
            over = self._unread.too_slow(self.transport, now, self._state.settings)
        else:
            over = now - self._linger_since > LINGER_S
        if over:
            self.transport.abort()

    def _too_slow(self, refusal: Refused) -> None:
        if self._body is not None:
            self._body.fail(refusal)
            self._state.counters.refused_total += 1
            self._deaf = True
        else:
            self.refuse(refusal)

    def drain(self, now: float) -> None:
        """The worker stops: an idle connection closes, one in use after its response."""
        if now - self._data_at > DRAIN_IDLE_S:
            self._close_idle()

    def retire(self, now: float) -> None:
        """Another worker is there: an idle connection closes, but not so soon that a request would be on its way."""
        if now - self._data_at > RETIRE_IDLE_S:
            self._close_idle()

    def _close_idle(self) -> None:
        """Closes unless something is under way, or has come and is not read (after a pause of the whole process)."""
        idle = not self.busy and self._between and self._tunnel is None
        if idle and not self._linger_since and not self.transport.is_closing() and not unread_bytes(self.transport):
            self.transport.close()

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return self._active is not None or bool(self._queue)

    @property
    def unsettled(self) -> bool:
        """Whether there is something to answer, or to send, or may be soon."""
        return not self.transport.is_closing() or self.transport.get_write_buffer_size() > 0
