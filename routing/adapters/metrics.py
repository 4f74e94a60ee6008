"""Prometheus metrics from plain counters: the hot path only ever adds to an integer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from routing.core.model import Family
from routing.engine import Engine
from routing.frontend import Counts

_RCODES: Final = ("NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED")


class DnsCollector(Collector):
    """Reads the counters of all processes when it is asked."""

    def __init__(self, engine: Engine, counts: Callable[[], Counts]):
        self._engine = engine
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        """All metrics of the program."""
        engine, brain, counts = self._engine, self._engine.brain, self._counts()
        queries = CounterMetricFamily("locci_dns_queries", "Answers given.", labels=["transport", "rcode"])
        for transport, rcodes in (("udp", counts.udp_rcodes), ("tcp", counts.tcp_rcodes)):
            for number, name in enumerate(_RCODES):
                queries.add_metric([transport, name], rcodes[number])
        yield queries
        yield CounterMetricFamily("locci_dns_ignored", "Packets that were no queries.", value=counts.silent)
        yield CounterMetricFamily("locci_dns_send_errors", "Answers that were not sent.", value=counts.unsent)
        yield CounterMetricFamily("locci_dns_shed", "Queries that were too many to be looked at.", value=counts.shed)
        limited = CounterMetricFamily("locci_dns_limited", "Answers that were too many.", labels=["outcome"])
        limited.add_metric(["dropped"], counts.limited_dropped)
        limited.add_metric(["slipped"], counts.limited_slipped)
        yield limited
        probes = CounterMetricFamily("locci_dns_probes", "Probes that ended.", labels=["result"])
        for result, count in engine.probes.items():
            probes.add_metric([result], count)
        yield probes
        rotation = GaugeMetricFamily(
            "locci_dns_endpoint_in_rotation", "Whether answers may name it.", labels=["node", "region", "family"]
        )
        for (node, family), state in brain.targets.items():
            rotation.add_metric([node, state.target.region, f"ipv{family.value}"], state.verdict.in_rotation)
        yield rotation
        brake = GaugeMetricFamily("locci_dns_brake_applied", "Whether it suspects itself.", labels=["family"])
        for family in Family:
            brake.add_metric([f"ipv{family.value}"], brain.brake(family).applied)
        yield brake
        yield GaugeMetricFamily("locci_dns_table_revision", "Revision of the table.", value=engine.table.revision)
        yield GaugeMetricFamily("locci_dns_feed_connected", "Whether the feed stands.", value=brain.feed_alive)
        yield GaugeMetricFamily("locci_dns_tcp_connections", "Open TCP connections.", value=counts.connections)
        yield CounterMetricFamily("locci_dns_snapshots_compiled", "Responders made.", value=engine.swaps)


async def serve_metrics(collector: DnsCollector, host: str, port: int) -> web.AppRunner:
    """Serves `/metrics`. Raises OSError."""
    registry = CollectorRegistry()
    registry.register(collector)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), content_type="text/plain", charset="utf-8")

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner
