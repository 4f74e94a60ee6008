"""For the host's operator and Prometheus: /metrics, /healthz, /config. Never in the way of traffic."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Final

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from agent.edge.core.headers import encode_head
from agent.edge.core.routing import Peer
from agent.edge.counters import HELP
from agent.edge.listening import parse_address
from agent.edge.responses import reason_of
from agent.edge.state import EdgeState

HEAD_BYTES_MAX: Final = 16 * 1024
ANSWER_S: Final = 10.0


class EdgeCollector:
    """Reads the worker's plain integers when Prometheus asks."""

    def __init__(self, state: EdgeState):
        self._state = state

    def collect(self) -> Iterable[Metric]:
        """Counters as `locci_edge_…_total`, sizes as gauges."""
        state = self._state
        for name, value in state.counters.items():
            yield CounterMetricFamily(f"locci_edge_{name}", HELP[name], value=value)
        gauges = (
            ("cache_bytes", "Bytes that the cache in RAM holds.", state.store.used_bytes),
            ("cache_entries", "Entries of the cache in RAM.", len(state.store)),
            ("cache_evictions", "Entries that gave way to others so far.", state.store.evicted),
            ("fills", "Fetches in progress that fill the cache.", len(state.fills)),
            (
                "fill_bytes",
                "Bytes of fetches in progress that may be stored.",
                state.fill_bytes,
            ),
            ("tasks", "Tasks of the worker: requests that wait for something, and its own.", len(asyncio.all_tasks())),
            ("generation", "Generation of the configuration that is served.", state.table.generation),
            ("draining", "1 while the worker ends.", int(state.draining)),
        )
        for name, text, value in gauges:
            yield GaugeMetricFamily(f"locci_edge_{name}", text, value=value)
        outstanding = GaugeMetricFamily(
            "locci_edge_outstanding_requests", "Requests in progress by endpoint.", labels=["endpoint"]
        )
        ejected = GaugeMetricFamily(
            "locci_edge_endpoint_ejected", "1 while an endpoint is left out after failures.", labels=["endpoint"]
        )
        for endpoint in state.endpoints.values():
            outstanding.add_metric([endpoint.address], endpoint.outstanding)
            ejected.add_metric([endpoint.address], int(endpoint.ejections > 0))
        yield outstanding
        yield ejected


class Admin:
    """A server for a few questions at a time. It answers GET and HEAD, and ends each connection with the answer: what
    a web framework would bring along takes more memory than all the rest of an idle worker's own."""

    def __init__(self, state: EdgeState):
        self._state = state
        self._server: asyncio.Server
        self._registry = CollectorRegistry()
        self._registry.register(EdgeCollector(state))
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)

    async def listen(self, host: str, port: int) -> None:
        """Begins to answer. Raises OSError."""
        self._server = await asyncio.start_server(
            self._serve, host, port, limit=HEAD_BYTES_MAX, reuse_port=True, backlog=16
        )

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(ANSWER_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self.answer(head))
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):  # TimeoutError is an OSError
            pass
        finally:
            writer.close()

    def answer(self, head: bytes) -> bytes:
        """The whole response to a request's head."""
        method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
        target, _, version = rest.partition(b" ")
        if not version.startswith(b"HTTP/1."):
            return _encoded(400, "text/plain", b"this is not HTTP/1.1\n", True)
        if method not in (b"GET", b"HEAD"):
            return _encoded(405, "text/plain", b"only GET and HEAD are answered here\n", True)
        return _encoded(*self._found(target.partition(b"?")[0]), method == b"GET")

    def _found(self, path: bytes) -> tuple[int, str, bytes]:
        state = self._state
        match path:
            case b"/metrics":
                return 200, CONTENT_TYPE_LATEST, generate_latest(self._registry)
            case b"/healthz":
                ready = bool(state.table.generation) and not state.draining
                body = {"ready": ready, "draining": state.draining}
                return 200 if ready else 503, "application/json", json.dumps(body).encode()
            case b"/config":
                return 200, "application/json", json.dumps(describe(state)).encode()
            case _:
                return 404, "text/plain", b"there are /metrics, /healthz and /config\n"

    async def close(self) -> None:
        """Answers nobody any more."""
        self._server.close()


def _encoded(status: int, content_type: str, body: bytes, with_body: bool) -> bytes:
    headers = [
        (b"Content-Type", content_type.encode()),
        (b"Content-Length", b"%d" % len(body)),
        (b"Cache-Control", b"no-store"),
        (b"Connection", b"close"),
    ]
    return encode_head(b"HTTP/1.1 %d %b" % (status, reason_of(status)), headers) + (body if with_body else b"")


def describe(state: EdgeState) -> dict[str, object]:
    """The table that is served, and how its endpoints do."""
    table = state.table
    return {
        "generation": table.generation,
        "node": table.node,
        "region": table.region,
        "routes": [
            {
                "app": route.app,
                "hostnames": list(route.hostnames),
                "cache": route.cache,
                "local": [
                    {"replica": local.replica, "address": local.address, "draining": local.draining}
                    for local in route.local
                ],
                "peers": [_peer(peer) for peer in route.peers],
                "shield": [_peer(peer) for peer in route.shield],
            }
            for route in table.routes
        ],
        "endpoints": {
            endpoint.address: {"outstanding": endpoint.outstanding, "ejected": endpoint.ejections > 0}
            for endpoint in state.endpoints.values()
        },
    }


def _peer(peer: Peer) -> dict[str, str]:
    return {"region": peer.region, "node": peer.node, "address": peer.address}


async def serve(state: EdgeState, text: str, worker: int) -> Admin:
    """Listens at `text`, the port plus the worker's number. Raises OSError."""
    host, port = parse_address(text)
    admin = Admin(state)
    await admin.listen(host, port + worker if port else 0)
    return admin
