"""Nodes as others reach them."""

from __future__ import annotations

from typing import Final

from control_plane import decode
from control_plane.core.model import Condition
from locci.v1 import node_pb2

PEER_PORT: Final = 7447


def is_part(node: node_pb2.Node, role: node_pb2.NodeRole.ValueType) -> bool:
    """Whether the node is to be known to others in a role: it has been there, and is trusted."""
    absent = (Condition.JOINING, Condition.REVOKED)
    return role in node.roles and bool(node.addresses) and decode.condition_of(node) not in absent


def peer_address(node: node_pb2.Node) -> str:
    """Where its edge listens for other edges."""
    address = node.addresses[0]
    return f"[{address}]:{PEER_PORT}" if ":" in address else f"{address}:{PEER_PORT}"
