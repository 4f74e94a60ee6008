"""For the host's operator and Prometheus: /metrics, /healthz, /config. Never in the way of traffic."""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from agent.edge.core.routing import Peer
from agent.edge.counters import HELP
from agent.edge.listening import parse_address
from agent.edge.state import EdgeState


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


def application(state: EdgeState) -> web.Application:
    """The admin server."""
    registry = CollectorRegistry()
    registry.register(EdgeCollector(state))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def healthz(_: web.Request) -> web.Response:
        ready = bool(state.table.generation) and not state.draining
        return web.json_response({"ready": ready, "draining": state.draining}, status=200 if ready else 503)

    async def config(_: web.Request) -> web.Response:
        return web.json_response(describe(state))

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics), web.get("/healthz", healthz), web.get("/config", config)])
    return app


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


async def serve(state: EdgeState, text: str, worker: int) -> web.AppRunner:
    """Listens at `text`, the port plus the worker's number. Raises OSError."""
    host, port = parse_address(text)
    runner = web.AppRunner(application(state), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port + worker if port else 0, reuse_port=True).start()
    return runner
