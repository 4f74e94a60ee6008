"""What the control plane knows of nodes only in memory: who is connected, heard when, and what they said last.

After a restart it is empty until nodes report anew; what must not be lost with it, a replica's last readiness and a
node's condition, is kept in the store when it changes.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from control_plane.core.brake import Brake
from control_plane.core.latency import Gathered
from locci.v1 import agent_pb2, node_pb2, replica_pb2, resource_pb2

Role = int


@dataclass(slots=True)
class SessionFacts:
    """What a session's stream tells; times on the steady clock."""

    epoch: int = 0
    connected: bool = False
    heard_at: float | None = None
    heard_wall: float = 0.0
    sent_revision: int = 0
    accepted_revision: int = 0
    applied_revision: int = 0
    edge_revision: int = 0
    """What every edge of the node serves by."""
    refused_reason: str = ""
    confirmed: bool = False
    """A complete status came in this or an earlier session with this process."""
    holds: Collection[str] = ()
    """Names of resources that the node has accepted."""
    unanswered: bool = False
    """A delta was sent that the node has neither accepted nor refused so far."""
    takes_images: bool = False
    """It asks for images to hold without a replica."""
    takes_faults: bool = False
    """It asks for faults: its program can inject them."""
    asks_as_clients: bool = False
    """It can be the synthetic clients of drills."""
    takes_versions: bool = False
    """It asks which version of the agent to run: a supervisor there can change it."""
    agent_upgrade: node_pb2.AgentUpgrade = field(default_factory=node_pb2.AgentUpgrade)
    """What it said last of the version that it was told to run."""
    conditions: dict[str, node_pb2.HostCondition] = field(default_factory=dict)
    """What it said last of its host, by type."""
    heartbeat: agent_pb2.Heartbeat = field(default_factory=agent_pb2.Heartbeat)
    heartbeat_s: float = 0.0
    """It beats so often at least; 0 when that is not known."""
    usage: dict[str, agent_pb2.ReplicaUsage] = field(default_factory=dict)
    """What replicas use, by resource; only some heartbeats tell it."""

    def beat(self, heartbeat: agent_pb2.Heartbeat) -> None:
        """Takes over a heartbeat."""
        self.heartbeat = heartbeat
        if heartbeat.usage:
            self.usage = {usage.resource: usage for usage in heartbeat.usage}


@dataclass(slots=True)
class Reported:
    """A replica's status, and since when it is as ready as it is; seconds on the steady clock."""

    status: replica_pb2.ReplicaStatus
    since: float


@dataclass(frozen=True, slots=True)
class FaultTold:
    """What an agent said of a fault of a drill."""

    kind: str
    """`FaultBegan`, `FaultEnded` or another type of event."""
    node: str
    """`nodes/{node}`."""
    fault: str
    """The resource's name."""
    at: float
    """By the node's clock, in seconds since 1970."""
    text: str


class Observed:
    """Everything that nodes have said to this process."""

    def __init__(self, started_at: float, judged_from: float):
        self.started_at = started_at
        self.judged_from = judged_from
        """Nobody is judged by silence before this moment."""
        self.sessions: dict[tuple[str, Role], SessionFacts] = {}
        self.statuses: dict[str, dict[str, Reported]] = {}
        """By node id, then by the name of the replica resource."""
        self.evidence: dict[str, dict[tuple[str, Role], resource_pb2.EndpointEvidence]] = {}
        """By endpoint's node id, then by vantage: its node id and role."""
        self.latencies = Gathered()
        """What edges have measured of client networks."""
        self.dark_since: dict[str, float] = {}
        self.touched: set[str] = set()
        """Ids of nodes of which something other than the time of their last word has changed since they were judged."""
        self.brake = Brake()
        self.evidence_changes = 0
        self.problems: dict[str, tuple[str, ...]] = {}
        """By app id: why replicas cannot be placed."""
        self.fault_problems: dict[str, dict[str, str]] = {}
        """By run of a drill that goes on, then by node id: why the fault was not injected there."""
        self.agents_said: set[str] = set()
        """Ids of nodes that said of their agent's version what may not be in the store yet."""
        self.faults_told: dict[str, list[FaultTold]] = {}
        """By run of a drill that goes on: what agents said of its faults."""
        self.given_away: set[str] = set()
        """Keys of assignments of singletons that this look gives to another node: no lease of them is renewed, even
        before that is in the store."""

    def session(self, node: str, role: Role) -> SessionFacts:
        """The facts of a node's session; made when there are none."""
        facts = self.sessions.get((node, role))
        if facts is None:
            facts = self.sessions[node, role] = SessionFacts()
        return facts

    def leading(self, node: node_pb2.Node, node_id: str) -> SessionFacts | None:
        """The session by which the node is judged: its agent's, or its DNS server's when it has no agent."""
        role = node_pb2.NODE_ROLE_EDGE if node_pb2.NODE_ROLE_EDGE in node.roles else node_pb2.NODE_ROLE_DNS
        return self.sessions.get((node_id, role))

    def reported(self, node: str, resource: str) -> Reported | None:
        """What the node said last about a replica."""
        return self.statuses.get(node, {}).get(resource)

    def forget(self, node: str) -> None:
        """The node is no longer part of the fleet."""
        for key in [key for key in self.sessions if key[0] == node]:
            del self.sessions[key]
        self.statuses.pop(node, None)
        self.dark_since.pop(node, None)
        self.evidence.pop(node, None)
        for vantages in self.evidence.values():
            for vantage in [vantage for vantage in vantages if vantage[0] == node]:
                del vantages[vantage]
