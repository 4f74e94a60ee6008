"""The agent's own nouns: what is wanted, what the engine shows, what is remembered, what is reported.

Times named `now`, `since`, `…_at` are seconds of the host's monotonic clock unless the name says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Literal

from agent.core.options import Options

STOP_TIMEOUT_DEFAULT_S: Final = 10.0
DRAIN_DEFAULT_S: Final = 2.0


@dataclass(frozen=True, slots=True, order=True)
class Identity:
    """What makes a container the one that is wanted. The release is not part of it: two may share a spec."""

    app: str
    ordinal: int
    spec_hash: str

    def __str__(self) -> str:
        return f"{self.app}/{self.ordinal}"


@dataclass(frozen=True, slots=True)
class Probe:
    """A question asked of a container again and again; durations in seconds."""

    kind: Literal["http", "tcp", "grpc", "exec"]
    port: int
    path: str = "/"
    host: str = ""
    service: str = ""
    """What a gRPC probe asks about; empty means the whole server."""
    command: tuple[str, ...] = ()
    """What an exec probe runs."""
    interval_s: float = 2.0
    timeout_s: float = 1.0
    start_period_s: float = 0.0
    healthy_after: int = 1
    unhealthy_after: int = 3


class Purpose(Enum):
    """What a probe decides: whether a container gets traffic, or whether it is restarted."""

    READINESS = "readiness"
    LIVENESS = "liveness"


@dataclass(frozen=True, slots=True)
class Replica:
    """A container that is wanted. `ports` are numbers; the first is the one that the edge uses, if it speaks HTTP."""

    resource: str
    version: str
    app: str
    ordinal: int
    release: int
    spec_hash: str
    image: str
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    ports: tuple[int, ...] = ()
    speaks_http: bool = True
    readiness: Probe | None = None
    liveness: Probe | None = None
    cpu_millis: int = 0
    memory_bytes: int = 0
    pids: int = 0
    stop_timeout_s: float = STOP_TIMEOUT_DEFAULT_S
    drain_s: float = DRAIN_DEFAULT_S
    options: Options = field(default_factory=Options)
    fence_after_s: float = 0.0
    """It runs only while its lease is younger than this; 0 means without one."""
    host_ports: tuple[tuple[int, int], ...] = ()
    """Ports of the container that the host's addresses have too: container's and host's."""

    @property
    def identity(self) -> Identity:
        """Identifies its container."""
        return Identity(self.app, self.ordinal, self.spec_hash)


@dataclass(frozen=True, slots=True)
class Peer:
    """Another node's edge with healthy replicas of an app."""

    region: str
    node: str
    address: str
    healthy_replicas: int


@dataclass(frozen=True, slots=True)
class Route:
    """Where requests for an app go besides the own replicas, and what the edge may keep."""

    app: str
    hostnames: tuple[str, ...]
    cache_disabled: bool = False
    cache_object_bytes_max: int = 0
    cache_policy: bytes = b""
    """The rest of what the edge is told about the cache, as it came."""
    purges: bytes = b""
    """What the edge may use no more of what it has stored, as it came."""
    proofs: bytes = b""
    """What the edge answers to a certificate authority, as it came."""
    balancing: bytes = b""
    """How the edge chooses among replicas, as it came."""
    http: bytes = b""
    """What the edge does with requests and answers, as it came."""
    maintenance: bool = False
    peers: tuple[Peer, ...] = ()
    shield: tuple[Peer, ...] = ()
    """Edges that are asked first for what may be stored."""
    redirect: bool = False
    """Plain requests are sent to https."""
    hsts_s: int = 0
    only_spec_hash: str = ""
    """When it is set, only replicas with it get requests, unless nothing else is in reach."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What clients of the edge are shown for some host names; `expire_at` in seconds since 1970."""

    name: str
    hostnames: tuple[str, ...]
    chain_pem: str
    key_pem: str = field(repr=False)
    expire_at: int = 0


@dataclass(frozen=True, slots=True)
class HeldImage:
    """An image that is to be here before a replica needs it."""

    resource: str
    version: str
    image: str


@dataclass(frozen=True, slots=True)
class Target:
    """Everything that the node must hold at a revision."""

    revision: int
    replicas: Mapping[Identity, Replica] = field(default_factory=dict)
    routes: tuple[Route, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    images: tuple[HeldImage, ...] = ()
    agent_version: str = ""
    """Version of the agent that is to run; empty for whichever does."""
    agent_request: str = ""
    """The upgrade of the fleet that wants it; empty for none."""
    revoked: tuple[str, ...] = ()
    """Nodes that are believed no more."""


class ContainerState(Enum):
    """As far as the agent cares."""

    CREATED = "created"
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Container:
    """A container of this node's agent, as the engine shows it.

    `ip` is empty while it does not run; `started_wall_s` is by the engine's clock, 0 when it is not known.
    """

    id: str
    identity: Identity
    resource: str
    state: ContainerState
    ip: str = ""
    exit_code: int = 0
    started_wall_s: float = 0.0
    sandbox: str = ""
    """Id of the sandbox whose network it joins; empty when it has its own."""
    stranded: bool = False
    """It runs, but the network that it joined is gone."""

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self.state is ContainerState.RUNNING


@dataclass(frozen=True, slots=True)
class Memory:
    """What is remembered of a wanted replica from try to try."""

    failures: int = 0
    """Failed tries in a row, crashes among them."""
    retry_at: float = 0.0
    reason: str = ""
    log_tail: str = ""
    exit_code: int = 0
    restarts: int = 0
    died: bool = False
    """Its container ended by itself and was not started again so far."""
    recreate: bool = False
    """Its container could not be started again: a fresh one takes its place."""


@dataclass(frozen=True, slots=True)
class Setback:
    """Failures in a row of something that is tried again: a pull, a removal."""

    failures: int
    retry_at: float
    reason: str


class PullFailure(Enum):
    """Why an image could not be pulled, as far as it changes what to do."""

    NOT_FOUND = "the registry does not have it: was it deleted?"
    DENIED = "the registry refuses access: check this host's registry credentials"
    UNREACHABLE = "the registry cannot be reached"
    NO_SPACE = "the disk is full: free some space where Docker keeps its data"
    TIMED_OUT = "it took too long"
    OTHER = "the engine reports an error"


class Phase(Enum):
    """Where a replica stands on this node; the values are the contract's names without their prefix."""

    PENDING = "PENDING"
    PULLING = "PULLING"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    BACKOFF = "BACKOFF"
    DRAINING = "DRAINING"
    HELD = "HELD"
    """Of an image that is held without a replica."""


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """What is reported of one replica."""

    resource: str
    version: str
    phase: Phase
    ready: bool = False
    restarts: int = 0
    container_id: str = ""
    address: str = ""
    reason: str = ""
    log_tail: str = ""
    since: float = 0.0
    exit_code: int = 0
