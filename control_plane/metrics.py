"""Prometheus metrics of the control plane."""

from __future__ import annotations

from prometheus_client import REGISTRY, Counter, Gauge, Histogram

HOST_TROUBLES = Gauge("locci_server_host_troubles", "Hosts of which something is out of order", ["condition"])
SESSIONS = Gauge("locci_server_sessions", "Streams of nodes that stand", ["role"])
NODES = Gauge("locci_server_nodes", "Nodes by condition", ["condition"])
REPLICAS = Gauge("locci_server_replicas", "Assigned replicas by health", ["healthy"])
REVISION = Gauge("locci_server_revision", "The store's revision")
BRAKE = Gauge("locci_server_brake_engaged", "1 while rescheduling is frozen")
PASS_SECONDS = Histogram(
    "locci_server_pass_seconds",
    "Time of one look at the fleet",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
)
PASS_FAILURES = Counter("locci_server_pass_failures_total", "Looks at the fleet that failed")
LEADS = Gauge("locci_server_leads", "1 while this process leads, of several that share a database")
CERTIFICATE_ENDS = Gauge(
    "locci_server_certificate_end_timestamp_seconds", "When certificates for host names end", ["certificate"]
)
CERTIFICATE_ORDERS = Counter("locci_server_certificate_orders_total", "Orders of certificates that ended", ["result"])
DELTAS = Counter("locci_server_deltas_total", "Deltas by their answer", ["answer"])
MESSAGES = Counter("locci_server_node_messages_total", "Messages from nodes", ["kind"])
ROLLOUTS = Counter("locci_server_rollouts_total", "Rollouts that ended", ["state"])
REQUESTS = Histogram("locci_server_request_seconds", "gRPC requests of operators", ["method", "code"])

__all__ = ["REGISTRY"]
