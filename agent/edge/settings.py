"""Settings of `locci-edge`: defaults, a TOML file, the environment (`LOCCI_EDGE_…`)."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from fleet.settings import ProgramSettings


class EdgeSettings(ProgramSettings):
    """What an operator can say about an edge."""

    model_config = SettingsConfigDict(extra="forbid", env_prefix="LOCCI_EDGE_", env_nested_delimiter="__")

    http_listen: list[str] = Field(default=["0.0.0.0:80"], min_length=1)
    """Where clients come in, `address:port`."""
    https_listen: list[str] = Field(default=["0.0.0.0:443"])
    """Where clients come in over TLS, `address:port`; empty for nowhere. The first one's port is where plain
    requests are sent to."""
    proxy_protocol_from: list[str] = Field(default=[])
    """Addresses and networks of load balancers, as in `10.0.0.0/8`: each connection of theirs, over TLS or not, must
    begin with a header of the PROXY protocol, version 1 or 2, and comes from whom that says."""
    peer_listen: str = "0.0.0.0:7447"
    """Where other edges come in, with mutual TLS; empty for nowhere."""
    admin_listen: str = "127.0.0.1:7448"
    """/metrics, /healthz, /config of worker 0; worker N is at the port plus N. Empty for none."""
    run_dir: Path = Path("/run/locci")
    """Where the agent's `edge.sock` is."""
    state_dir: Path = Path("/var/lib/locci/edge")
    """Holds the last accepted configuration."""
    redis_url: str = ""
    """Second tier of the cache, as in `unix:///run/redis.sock`, `redis://127.0.0.1:6379/0`,
    `redis+sentinel://one:26379,two:26379/mymaster` or `redis+cluster://one:6379,two:6379`; empty for none."""
    redis_timeout_s: float = Field(default=0.05, gt=0, le=5)
    """How long a request waits for the second tier."""
    ram_cache_bytes: int = Field(default=64 * 2**20, ge=2**16)
    """Budget of each worker's cache in RAM."""
    max_header_bytes: int = Field(default=32 * 1024, ge=1024, le=2**20)
    """Request line and header fields together."""
    max_url_bytes: int = Field(default=8 * 1024, ge=256)
    """Request target."""
    max_headers: int = Field(default=100, ge=8)
    """Header fields of a request."""
    max_body_bytes: int = Field(default=64 * 2**20, ge=0)
    """Body of a request."""
    max_connections: int = Field(default=10_000, ge=1)
    """Clients at a time in each worker; more are answered 503 and closed."""
    client_connections: int = Field(default=0, ge=0)
    """Connections at a time of one client (an IPv4 address, an IPv6 /64) to each worker; 0 for any number."""
    header_timeout_s: float = Field(default=10.0, gt=0)
    """A request's head must be whole so long after its first byte."""
    idle_timeout_s: float = Field(default=60.0, gt=0)
    """A connection on which nothing moves for so long is closed."""
    body_rate_min: int = Field(default=256, ge=0)
    """Bytes per second that a request's body must reach on the average of each window; waits of ours do not count."""
    body_rate_window_s: float = Field(default=10.0, gt=0)
    """Length of that window."""
    answer_rate_min: int = Field(default=256, ge=0)
    """Bytes per second of an answer that a client must take once no more can be sent, on the average of each window."""
    upstream_timeout_s: float = Field(default=60.0, gt=0)
    """An endpoint must send something at least so often while it answers."""
    connect_timeout_s: float = Field(default=1.0, gt=0)
    """For a connection to a replica or to another edge, TLS included."""
    client_rate: float = Field(default=0, ge=0)
    """Requests per second that one client (an IPv4 address, an IPv6 /64) may make; more are answered 429. 0 for any
    number. Edges of a region that have `redis_url` count together, others each worker for itself."""
    app_rate: float = Field(default=0, ge=0)
    """Requests per second that all clients together may make to one app."""
    rate_window_s: float = Field(default=10.0, ge=1, le=3600)
    """Both rates hold on the average of so long: a burst may use up all of it at once."""
    workers: int = Field(default=0, ge=0, le=256)
    """Processes that share the listeners; 0 for one on each processor."""
    access_log: str = ""
    """Path of a file for one JSON line per request, `-` for standard output; empty for none."""
    drain_timeout_s: float = Field(default=4.0, ge=0, le=60)
    """How long requests in progress may go on after SIGTERM."""
    reload_timeout_s: float = Field(default=60.0, ge=0, le=3600)
    """How long connections of the old workers may go on after SIGHUP, beside the new ones."""

    @property
    def worker_count(self) -> int:
        """How many processes share the listeners."""
        return self.workers or len(os.sched_getaffinity(0))
