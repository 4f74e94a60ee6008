"""Nodes as others reach them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from control_plane import decode
from control_plane.core.model import Condition
from fleet.ids import last_part
from locci.v1 import node_pb2, resource_pb2

PEER_PORT: Final = 7447


def is_part(node: node_pb2.Node, role: node_pb2.NodeRole.ValueType) -> bool:
    """Whether the node is to be known to others in a role: it has been there, and is trusted."""
    absent = (Condition.JOINING, Condition.REVOKED)
    return role in node.roles and bool(node.addresses) and decode.condition_of(node) not in absent


def peer_address(node: node_pb2.Node) -> str:
    """Where its edge listens for other edges."""
    address = node.addresses[0]
    return f"[{address}]:{PEER_PORT}" if ":" in address else f"{address}:{PEER_PORT}"


def shield(
    nodes: Mapping[str, node_pb2.Node], below: str, region: str, is_usable: Callable[[node_pb2.Node], bool]
) -> Iterable[resource_pb2.PeerEndpoint]:
    """The edges of the region that shields an app, for nodes of the region `below`; those of itself ask nobody."""
    if not region or below == region:
        return
    for node_id, node in sorted(nodes.items()):
        if last_part(node.region) == region and is_part(node, node_pb2.NODE_ROLE_EDGE) and is_usable(node):
            yield resource_pb2.PeerEndpoint(region=region, node=node_id, address=peer_address(node))
