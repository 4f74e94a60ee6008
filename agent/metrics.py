"""The agent's Prometheus metrics, and the listener that shows them."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable, Mapping

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from agent.adapters.usage import Usage
from agent.core.conditions import Condition
from agent.core.model import Phase, ReplicaStatus

_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25)


class Metrics:
    """What can be measured of an agent."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._replicas = Gauge("locci_agent_replicas", "Replicas by phase.", ["phase"], registry=self.registry)
        self._ready = Gauge("locci_agent_replicas_ready", "Replicas that are ready.", registry=self.registry)
        self._restarts = Gauge(
            "locci_agent_replica_restarts", "Restarts of the replicas that are here.", registry=self.registry
        )
        self.reconcile_seconds = Histogram(
            "locci_agent_reconcile_seconds",
            "Time to decide what follows from an event.",
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.commands = Counter(
            "locci_agent_commands_total", "Commands that were carried out.", ["command"], registry=self.registry
        )
        self.link_connected = Gauge(
            "locci_agent_link_connected", "Whether the control plane is connected.", registry=self.registry
        )
        self.engine_reachable = Gauge(
            "locci_agent_engine_reachable", "Whether Docker Engine answers.", registry=self.registry
        )
        self.revision = Gauge("locci_agent_revision", "Newest revision.", ["stage"], registry=self.registry)
        self.edge_generation = Gauge(
            "locci_agent_edge_generation", "Newest generation for the edge.", ["stage"], registry=self.registry
        )
        self._conditions = Gauge(
            "locci_agent_host_condition", "1 while this is in order.", ["type"], registry=self.registry
        )
        self._cpus = Gauge(
            "locci_agent_replica_cpus", "Processors that a replica uses.", ["resource"], registry=self.registry
        )
        self._memory = Gauge(
            "locci_agent_replica_memory_bytes", "Memory that a replica uses.", ["resource"], registry=self.registry
        )
        self.edges = Gauge("locci_agent_edges", "Workers of the edge that are connected.", registry=self.registry)

    def show(self, statuses: Iterable[ReplicaStatus]) -> None:
        """Counts the replicas."""
        known = list(statuses)
        tally = Tally(status.phase for status in known)
        for phase in Phase:
            self._replicas.labels(phase.value.lower()).set(tally[phase])
        self._ready.set(sum(status.ready for status in known))
        self._restarts.set(sum(status.restarts for status in known))

    def show_usage(self, usage: Mapping[str, Usage]) -> None:
        """What the replicas that run use; of others nothing is shown any more."""
        self._cpus.clear()
        self._memory.clear()
        for resource, used in usage.items():
            self._cpus.labels(resource).set(used.cpus)
            self._memory.labels(resource).set(used.memory_bytes)

    def show_conditions(self, conditions: Iterable[Condition]) -> None:
        """The host's conditions."""
        for condition in conditions:
            self._conditions.labels(condition.type).set(condition.ok)


async def serve_metrics(metrics: Metrics, listen: str) -> web.AppRunner:
    """/metrics and /healthz at `address:port`; the caller cleans the runner up. Raises OSError."""

    async def show(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def healthy(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    app = web.Application()
    app.add_routes([web.get("/metrics", show), web.get("/healthz", healthy)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    host, _, port = listen.rpartition(":")
    try:
        await web.TCPSite(runner, host.strip("[]"), int(port)).start()
    except OSError:
        await runner.cleanup()
        raise
    return runner
