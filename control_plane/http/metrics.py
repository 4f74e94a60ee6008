"""Prometheus metrics of the JSON API."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Histogram(
    "locci_server_http_request_seconds",
    "HTTP requests by method of the contract and status",
    ["method", "status"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
IN_PROGRESS = Gauge("locci_server_http_requests_in_progress", "HTTP requests in progress, without streams")
STREAMS = Gauge("locci_server_http_streams", "Event streams that are open")
REFUSED = Counter(
    "locci_server_http_refused_total", "HTTP requests that were refused before they were looked at", ["why"]
)
