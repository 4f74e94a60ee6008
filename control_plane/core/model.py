"""The fleet as the cores see it: nodes, replicas, slots, steps. Times are seconds of one steady clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, TypeAlias


class Condition(Enum):
    """How the control plane sees a node."""

    JOINING = "joining"
    READY = "ready"
    SUSPECT = "suspect"
    LOST = "lost"
    DRAINING = "draining"
    REVOKED = "revoked"


DRAINING_SILENT_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node that can hold replicas.

    `silent_s` is how long nothing was heard of it; 0 while it is not judged. `since` is when its condition began.
    """

    id: str
    region: str
    condition: Condition = Condition.READY
    cordoned: bool = False
    silent_s: float = 0.0
    since: float = 0.0
    architecture: str = ""
    jurisdictions: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    drain_until: float = 0.0
    """While it drains: when what could not be moved is stopped."""
    cpu_millis: int = 0
    """What replicas may ask for in all; 0 while it is not known, and then nothing is refused for it."""
    memory_bytes: int = 0
    """The same of memory."""

    @property
    def is_in_order(self) -> bool:
        """Whether what its replicas say can be believed. One that drains is not judged, so its silence counts here."""
        draining = self.condition is Condition.DRAINING and self.silent_s < DRAINING_SILENT_S
        return self.condition is Condition.READY or draining


@dataclass(frozen=True, slots=True)
class Replica:
    """An assignment and what is known of it.

    `ready` is what its node said last, `since` when that began. `confirmed` is false until the node has spoken to this
    control-plane process. `displaced`: its node was lost and a replacement was placed. `stopping`: it is no longer
    wanted, and its node has not yet said that it is gone. `leaving`: it moves elsewhere for balance. Before
    `fence_until` its node, which is out of the fleet, may still run it.
    """

    ordinal: int
    release: int
    spec_hash: str
    region: str
    node: str
    assigned_at: float
    ready: bool = False
    since: float = 0.0
    confirmed: bool = True
    stopping: bool = False
    displaced: bool = False
    reason: str = ""
    log_tail: str = ""
    leaving: bool = False
    fence_until: float = 0.0


@dataclass(frozen=True, slots=True)
class Demand:
    """What one replica needs of its node; 0 asks for nothing."""

    cpu_millis: int = 0
    memory_bytes: int = 0
    host_ports: frozenset[int] = frozenset()


NOTHING: Final = Demand()


@dataclass(frozen=True, slots=True)
class Slot:
    """A wanted replica: its ordinal, its region and, for a daemon, its node."""

    ordinal: int
    region: str
    node: str = ""


@dataclass(frozen=True, slots=True)
class ReleaseRef:
    """A release by number, and the hash of its containers."""

    number: int
    spec_hash: str


@dataclass(frozen=True, slots=True)
class StartReplica:
    """Assign a replica to a node."""

    ordinal: int
    release: ReleaseRef
    region: str
    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class StopReplica:
    """A replica is no longer wanted."""

    replica: Replica
    reason: str


@dataclass(frozen=True, slots=True)
class DisplaceReplica:
    """Its node is lost and a replacement starts; what becomes of it is decided when the node comes back."""

    replica: Replica
    reason: str


@dataclass(frozen=True, slots=True)
class LeaveReplica:
    """It is to move elsewhere for balance: it stops once another serves in its place."""

    replica: Replica
    reason: str


@dataclass(frozen=True, slots=True)
class KeepReplica:
    """A displaced replica counts again, or one that was to move stays."""

    replica: Replica
    reason: str


Step: TypeAlias = StartReplica | StopReplica | DisplaceReplica | LeaveReplica | KeepReplica
