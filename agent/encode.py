"""From the agent's own nouns to what it says to the control plane and to its edge."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from agent.core.conditions import Condition
from agent.core.edge_view import EdgeView
from agent.core.messages import RecordEvent
from agent.core.model import ReplicaStatus
from fleet.identity import IdentityFacts
from locci.v1 import edge_pb2, event_pb2, node_pb2, replica_pb2

LOG_TAIL_CHARS_MAX = 4_000


def replica_status(status: ReplicaStatus, wall_of: Callable[[float], float]) -> replica_pb2.ReplicaStatus:
    """A status as it is reported; `wall_of` turns monotonic seconds into seconds since 1970."""
    message = replica_pb2.ReplicaStatus(
        resource=status.resource,
        version=status.version,
        phase=replica_pb2.ReplicaPhase.Value(f"REPLICA_PHASE_{status.phase.value}"),
        ready=status.ready,
        restarts=status.restarts,
        container_id=status.container_id,
        address=status.address,
        reason=status.reason,
        log_tail=status.log_tail[-LOG_TAIL_CHARS_MAX:],
        exit_code=status.exit_code,
    )
    message.since.FromMilliseconds(int(wall_of(status.since) * 1000))
    return message


def event(record: RecordEvent, wall_s: float) -> event_pb2.Event:
    """Something that happened, as it is reported."""
    message = event_pb2.Event(
        type=record.kind,
        severity=event_pb2.Severity.Value(f"SEVERITY_{record.severity.upper()}"),
        subjects=record.subjects,
        message=record.message,
        details=dict(record.details),
    )
    message.time.FromMilliseconds(int(wall_s * 1000))
    return message


def condition(found: Condition, since_wall_s: float) -> node_pb2.HostCondition:
    """A condition of the host, as it is reported."""
    message = node_pb2.HostCondition(type=found.type, ok=found.ok, message=found.message)
    message.since.FromMilliseconds(int(since_wall_s * 1000))
    return message


def edge_config(generation: int, view: EdgeView, facts: IdentityFacts, identity_dir: Path) -> edge_pb2.EdgeConfig:
    """What the edge must serve, as it is told."""
    config = edge_pb2.EdgeConfig(
        generation=generation,
        node=facts.node,
        region=facts.region,
        identity_dir=str(identity_dir),
        trust_domain=facts.trust_domain,
        revoked_nodes=view.revoked,
    )
    for served in view.routes:
        route = config.routes.add(app=served.route.app, hostnames=served.route.hostnames)
        route.cache.MergeFromString(served.route.cache_policy)
        route.purges.MergeFromString(served.route.purges)
        route.proofs.MergeFromString(served.route.proofs)
        route.balancing.MergeFromString(served.route.balancing)
        route.http.MergeFromString(served.route.http)
        route.maintenance = served.route.maintenance
        route.cache.disabled = served.route.cache_disabled
        route.cache.max_object_bytes = served.route.cache_object_bytes_max
        route.tls.redirect = served.route.redirect
        route.tls.hsts.FromSeconds(served.route.hsts_s)
        for local in served.local:
            route.local.add(replica=local.resource, address=local.address, draining=local.draining)
        for peers, found in ((route.peers, served.route.peers), (route.shield, served.route.shield)):
            for peer in found:
                peers.add(
                    region=peer.region, node=peer.node, address=peer.address, healthy_replicas=peer.healthy_replicas
                )
    for certificate in view.certificates:
        material = config.certificates.add(
            certificate=certificate.name,
            hostnames=certificate.hostnames,
            chain_pem=certificate.chain_pem,
            private_key_pem=certificate.key_pem,
        )
        material.expire_time.FromSeconds(certificate.expire_at)
    return config
