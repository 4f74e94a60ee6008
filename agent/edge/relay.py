"""One response on its way from a kept connection to a client, driven by what comes: no task, no waiting.

Most requests that the cache cannot answer have no body and find a connection that is ready. These go this short way;
what turns out to be harder, before anything was sent to the client, goes to the exchange, which can wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.edge.core import freshness
from agent.edge.core.headers import HeaderList
from agent.edge.core.routing import Candidate
from agent.edge.upstream import UpstreamConnection

if TYPE_CHECKING:
    from agent.edge.exchange import Exchange
    from agent.edge.express import Express
    from agent.edge.responder import Request


def length_of(connection: UpstreamConnection) -> int | None:
    """The length that a response's fields say; None when they say none."""
    value = connection.fields.get(b"content-length")
    if value is None:
        return None
    length = freshness.delta_seconds(value.decode("latin-1"))
    return int(value) if length is None or length == freshness.SECONDS_MAX else length


class Relay:
    """Listens to the endpoint as its `sink` and to the client; one of `_finish`, `_fail` and `abandon` ends it."""

    __slots__ = (
        "_begun",
        "_candidate",
        "_client",
        "_connection",
        "_exchange",
        "_length",
        "_over",
        "_request",
        "_sent",
        "_since",
    )

    def __init__(
        self,
        exchange: Exchange,
        client: Express,
        request: Request,
        candidate: Candidate,
        connection: UpstreamConnection,
        since: float | None = None,
    ):
        """Of a request that was sent at `since`, monotonic seconds; just now when that is None."""
        self._exchange = exchange
        self._client = client
        self._request = request
        self._candidate = candidate
        self._connection = connection
        self._begun = False
        self._over = False
        self._sent = 0
        self._length: int | None = None
        self._since = exchange.now() if since is None else since
        connection.sink = self
        connection.early = self._early

    def begun(self, length: int, sent: int) -> None:
        """The client has got the head, and so much of a body of that length."""
        self._begun, self._length, self._sent = True, length, sent

    def _early(self, status: int, headers: HeaderList) -> None:
        if not self._over and not self._begun:
            self._client.send_early(self._request, status, headers)

    def progress(self) -> None:
        """Passes on what the endpoint has sent."""
        if self._over:
            return
        connection = self._connection
        if not self._begun:
            if not connection.head_done:
                if connection.error is not None:
                    self._no_head(timed_out=connection.error.timed_out, began=connection.error.began)
                return
            if connection.status == 101:  # nobody has asked for it
                self._no_head(timed_out=False, began=True)
                return
            self._begin(connection)
            if not connection.available:
                self._client.flush()  # the client need not wait for the body to know the status
        if connection.available and not self._put(connection):
            return
        if connection.complete:
            self._finish()
        elif connection.error is not None:
            self._fail()

    def _begin(self, connection: UpstreamConnection) -> None:
        self._begun = True
        request = self._request
        now = self._exchange.now()
        self._candidate.endpoint.answered(connection.status, now, now - self._since)
        headers = self._exchange.relayed(
            connection, request, self._exchange.wall(), request.cache_status, request.http.response
        )
        self._length = length_of(connection)
        self._client.begin_response(request, connection.status, connection.reason, headers, self._length)

    def _put(self, connection: UpstreamConnection) -> bool:
        """Sends what there is of the body; False when that was the end of it all."""
        data = connection.take()
        if not data:
            return True
        self._sent += len(data)
        if self._length is not None and self._sent > self._length:
            self._fail()
            return False
        if not self._client.put(data) and not connection.complete:
            connection.pause()
        return True

    def client_full(self) -> None:
        """The client does not take more for now."""
        if not self._over:
            self._connection.pause()

    def client_drained(self) -> None:
        """It does again."""
        if not self._over:
            self._connection.resume()

    def abandon(self) -> None:
        """The client has gone."""
        if not self._over:
            self._let_go(close=True)

    def _finish(self) -> None:
        request, client, status = self._request, self._client, self._connection.status
        bodiless = request.bodiless or status in (204, 304)
        if self._length is not None and self._sent != self._length and not bodiless:
            self._fail()
            return
        self._let_go(close=False)
        self._exchange.count_sent(self._sent)
        client.end_response(request, self._sent, self._connection.trailers)
        client.relayed(request)

    def _fail(self) -> None:
        """The endpoint broke off in the middle of the body."""
        self._let_go(close=True)
        self._exchange.count_truncated()
        self._client.break_off()
        self._client.relayed(self._request)

    def _no_head(self, *, timed_out: bool, began: bool) -> None:
        """No response: nothing was sent to the client, and a request without a body may be tried again."""
        self._let_go(close=True)
        if timed_out or began:  # otherwise it was closed while it idled: that says nothing of the endpoint
            self._candidate.endpoint.failed(self._exchange.now())
            if not timed_out:
                self._candidate.endpoint.lost("it broke off before it answered")
        if began:
            self._exchange.refuse_broken(self._client, self._request)
            self._client.relayed(self._request)
        else:
            self._client.relayed(self._request, again=True)

    def _let_go(self, *, close: bool) -> None:
        self._over = True
        connection = self._connection
        connection.sink = connection.early = None
        if close:
            connection.close()
        self._exchange.release(self._candidate, connection)
