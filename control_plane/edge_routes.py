"""What the edges are told of apps: routes with the other edges that each may ask.

Nobody is told of a whole large fleet: an edge asks some of its region and a few of each of the nearest others, so that
a snapshot, and what a change of one node means to others, stay small whatever the size of the fleet.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from zlib import crc32

from control_plane import decode, edges, fleet_resources
from control_plane.core.manifest import Manifest
from control_plane.core.model import Condition
from control_plane.core.tiers import FEW_MAX, NEAR_MAX, REGIONS_MAX, Place, region_order, some_of
from control_plane.decode_http import http_policy_message
from control_plane.state import State
from fleet.ids import last_part
from locci.v1 import app_pb2, manifest_pb2, node_pb2, release_pb2, resource_pb2

_GROUPS = 16
"""Nodes that nobody asks share what they hold in so many groups, so that they do not all ask the same others."""
Target = tuple[app_pb2.App, release_pb2.Release, Manifest]


@dataclass(frozen=True, slots=True)
class Peer:
    """A node whose edge other edges may ask, with its healthy replicas."""

    region: str
    node: str
    address: str
    healthy: int


class EdgeRoutes:
    """Routes at one moment."""

    def __init__(
        self,
        state: State,
        nodes: Mapping[str, node_pb2.Node],
        places: Mapping[str, Place],
        apps: Sequence[Target],
        healthy: Mapping[str, Counter[str]],
        routed: Mapping[str, str],
        *,
        brake: bool,
    ):
        """`healthy` counts healthy replicas by app and node; `routed` names the only replicas of an app that get
        requests. While the brake holds, darkness is not believed."""
        self._state = state
        self._nodes = nodes
        self._places = places
        self._apps = [target for target in apps if target[2].hostnames]
        self._healthy = healthy
        self._routed = routed
        self._brake = brake
        self._purges = fleet_resources.purges(state)

    def of(self, node_id: str) -> Iterator[resource_pb2.Resource]:
        """The routes of a node."""
        below = last_part(self._nodes[node_id].region)
        order = self._order(below)
        for app, _, manifest in self._apps:
            route = self._route(manifest, below, app.maintenance)
            route.peers.extend(_endpoint(peer) for peer in self._chosen(manifest.name, node_id, below, order))
            yield resource_pb2.Resource(name=f"routes/{manifest.name}", route=route)

    def group(self, node_id: str) -> str:
        """Nodes of a region with the same group are told of the same others; who may be asked itself is alone in it."""
        if node_id in self._asked:
            return node_id
        return f"/{crc32(node_id.encode()) % _GROUPS}" if self._crowded else ""

    @cached_property
    def _asked(self) -> frozenset[str]:
        """The nodes that other edges may ask."""
        found = (peers for by_region in self._peers_of.values() for peers in by_region.values())
        return frozenset(peer.node for peers in found for peer in peers)

    @cached_property
    def _crowded(self) -> bool:
        """Whether some are told of others than the rest of their region."""
        return any(len(p) > FEW_MAX for by_region in self._peers_of.values() for p in by_region.values())

    def _order(self, below: str) -> list[str]:
        ranks = region_order(below, self._places)
        return sorted(ranks, key=ranks.__getitem__)

    def _chosen(self, app_id: str, node_id: str, below: str, order: Sequence[str]) -> Iterator[Peer]:
        by_region, salt = self._peers_of[app_id], self.group(node_id)
        others = [region for region in order if region != below and region in by_region]
        alone = node_id if salt == node_id else ""
        yield from some_of(by_region.get(below, ()), salt, NEAR_MAX, but=alone)
        for region in others[:REGIONS_MAX]:
            yield from some_of(by_region[region], salt, FEW_MAX)

    def _route(self, manifest: Manifest, below: str, maintenance: bool) -> resource_pb2.AppRoute:
        return resource_pb2.AppRoute(
            app=manifest.name,
            hostnames=manifest.hostnames,
            only_spec_hash=self._routed[manifest.name],
            cache=decode.cache_policy_message(manifest),
            purges=self._purges.get(manifest.name),
            balancing=decode.balancing_message(manifest.balancing),
            http=http_policy_message(manifest.http),
            maintenance=maintenance,
            proofs=fleet_resources.http_proofs(self._state, manifest.hostnames),
            tls=manifest_pb2.TlsPolicy(redirect=manifest.tls_redirect, hsts=decode.duration(manifest.hsts_s)),
            shield=self._shield(manifest.cache_policy.shield_region, below),
        )

    def _shield(self, region: str, below: str) -> Iterator[resource_pb2.PeerEndpoint]:
        """The edges of the region that shields an app, the same for all others; those of itself ask nobody."""
        if region and region != below:
            yield from some_of(self._edges_of.get(region, ()), "", NEAR_MAX)

    @cached_property
    def _edges_of(self) -> dict[str, list[resource_pb2.PeerEndpoint]]:
        found: dict[str, list[resource_pb2.PeerEndpoint]] = defaultdict(list)
        for node_id, node in self._nodes.items():
            if edges.is_part(node, node_pb2.NODE_ROLE_EDGE) and self._is_usable(node):
                region = last_part(node.region)
                address = edges.peer_address(node)
                found[region].append(resource_pb2.PeerEndpoint(region=region, node=node_id, address=address))
        return found

    @cached_property
    def _peers_of(self) -> dict[str, dict[str, list[Peer]]]:
        """By app and region, in the order of their ids."""
        return {manifest.name: self._peers(manifest.name) for _, _, manifest in self._apps}

    def _peers(self, app_id: str) -> dict[str, list[Peer]]:
        result: dict[str, list[Peer]] = defaultdict(list)
        for node_id, healthy in sorted(self._healthy[app_id].items()):
            node = self._nodes.get(node_id)
            if node is not None and healthy and node.addresses and self._is_usable(node):
                region = last_part(node.region)
                result[region].append(Peer(region, node_id, edges.peer_address(node), healthy))
        return dict(result)

    def _is_usable(self, node: node_pb2.Node) -> bool:
        condition = decode.condition_of(node)
        if condition in (Condition.SUSPECT, Condition.LOST):
            return self._brake
        return condition in (Condition.READY, Condition.DRAINING)


def _endpoint(peer: Peer) -> resource_pb2.PeerEndpoint:
    return resource_pb2.PeerEndpoint(
        region=peer.region, node=peer.node, address=peer.address, healthy_replicas=peer.healthy
    )
