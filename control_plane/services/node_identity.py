"""Who dials the nodes' port, and whether the store still trusts it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import grpc
from cryptography import x509

from control_plane import decode
from control_plane.core.model import Condition
from control_plane.state import State
from fleet.errors import Code, LocciError
from fleet.identity import SpiffeId, spiffe_id
from locci.v1 import node_pb2

BACKDATED_S: Final = 301.0
"""Certificates begin five minutes before they are issued."""


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """The SPIFFE id of a verified client certificate, and when the certificate begins; seconds since 1970."""

    id: SpiffeId
    valid_from: float

    @property
    def node(self) -> str:
        """The node's id."""
        return self.id.node

    @property
    def region(self) -> str:
        """The region's id."""
        return self.id.region


def peer_identity(context: grpc.aio.ServicerContext[Any, Any]) -> PeerIdentity:
    """Who calls over mTLS. Raises UNAUTHENTICATED when the certificate is no node's."""
    pems = context.auth_context().get("x509_pem_cert", [])
    if not pems:
        raise LocciError(Code.UNAUTHENTICATED, "NOT_A_NODE", "the caller has no client certificate")
    return identity_in(x509.load_pem_x509_certificate(bytes(next(iter(pems)))))


def identity_in(certificate: x509.Certificate) -> PeerIdentity:
    """Whose certificate it is. Raises UNAUTHENTICATED when it is no node's."""
    return PeerIdentity(spiffe_id(certificate), certificate.not_valid_before_utc.timestamp())


def authorise(state: State, identity: PeerIdentity) -> node_pb2.Node:
    """The node, as stored. Raises PERMISSION_DENIED when it is unknown, revoked, or another host has its name now."""
    node = state.nodes.get(f"nodes/{identity.node}")
    if node is None:
        message = f"node {identity.node} is not part of this fleet: it was removed; enrol it again"
        raise LocciError(Code.PERMISSION_DENIED, "NODE_UNKNOWN", message)
    if decode.condition_of(node) is Condition.REVOKED:
        message = f"node {identity.node} is revoked: {node.condition_reason}"
        raise LocciError(Code.PERMISSION_DENIED, "NODE_REVOKED", message)
    if node.region != f"regions/{identity.region}":
        message = f"node {identity.node} belongs to {node.region} now; enrol it again"
        raise LocciError(Code.PERMISSION_DENIED, "REGION_CHANGED", message)
    if identity.valid_from + BACKDATED_S < decode.seconds_of(node.create_time):
        message = f"the certificate is of an earlier node {identity.node}; another host has its name now"
        raise LocciError(Code.PERMISSION_DENIED, "NODE_REPLACED", message)
    return node
