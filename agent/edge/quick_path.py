"""Puts the compiled way of the common requests in the place of the methods in Python that do the same.

It is taken for a plain GET by bytes that came before: a fresh hit in RAM, or one that goes on to an endpoint whose
connection is ready and whose answer comes whole. All else is given to the methods that are replaced here.
"""

from __future__ import annotations

from agent.edge import quick
from agent.edge.access_log import AccessLog
from agent.edge.core.balance import LATENCY_FLOOR_S, Endpoint
from agent.edge.core.entry import StoredResponse, restore
from agent.edge.core.entry_codec import verdict_of
from agent.edge.core.freshness import Verdict
from agent.edge.core.memory_store import MemoryStore, Node
from agent.edge.core.request_head import RequestHead
from agent.edge.core.routing import Candidate
from agent.edge.counters import Counters
from agent.edge.downstream import ClientConnection
from agent.edge.express import Way
from agent.edge.pool import IDLE_PER_ENDPOINT_MAX
from agent.edge.request_reader import RequestReader
from agent.edge.responder import Request
from agent.edge.state import EdgeState
from agent.edge.upstream import IDLE_S_MAX, UpstreamConnection

CLASSES = {
    "client": ClientConnection,
    "upstream": UpstreamConnection,
    "state": EdgeState,
    "store": MemoryStore,
    "node": Node,
    "entry": StoredResponse,
    "verdict": Verdict,
    "head": RequestHead,
    "way": Way,
    "request": Request,
    "candidate": Candidate,
    "endpoint": Endpoint,
    "counters": Counters,
    "log": AccessLog,
}
_received = UpstreamConnection.data_received
_sent = ClientConnection.send_whole


def install() -> bool:
    """Takes the compiled way from now on, for connections that are made then; False where it was not built."""
    compiled = quick.compiled
    if compiled is None:
        return False
    compiled.bind(
        CLASSES,
        RequestReader.data_received,
        _received,
        _sent,
        StoredResponse(0, b"", [], b"", verdict_of(0, 0, 0, 0), 0.0, 0.0),
        restore,
        verdict_of,
        LATENCY_FLOOR_S,
        IDLE_S_MAX,
        IDLE_PER_ENDPOINT_MAX,
    )
    quick.decode = compiled.decode
    setattr(ClientConnection, "data_received", compiled.client_received)  # noqa: B010 - it is a method of mypy's
    setattr(UpstreamConnection, "data_received", compiled.upstream_received)  # noqa: B010
    setattr(ClientConnection, "send_whole", compiled.send_whole)  # noqa: B010
    return True


def remove() -> None:
    """Takes the way in Python."""
    quick.decode = None
    setattr(ClientConnection, "send_whole", _sent)  # noqa: B010
    setattr(ClientConnection, "data_received", RequestReader.data_received)  # noqa: B010
    setattr(UpstreamConnection, "data_received", _received)  # noqa: B010
