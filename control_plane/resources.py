"""Node snapshots: the resources that each node and role is to hold, with versions that follow from their content."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from control_plane import decode, drill_asks, drills, edges, fleet_resources, logins, secret_values, upgrades
from control_plane.core.manifest import Manifest
from control_plane.core.rollout import TERMINAL
from control_plane.core.tiers import Place
from control_plane.decode_container import pass_on
from control_plane.edge_routes import EdgeRoutes
from control_plane.observed import Observed
from control_plane.ports import Vault
from control_plane.state import State
from control_plane.views import Assigned, Manifests, Views, image_name, resource_name, rollout_view
from fleet.ids import last_part
from fleet.snapshot import snapshot_hash
from locci.v1 import app_pb2, manifest_pb2, node_pb2, release_pb2, resource_pb2, routing_pb2

PROBE_PORT: Final = 80
REVOKED: Final = node_pb2.NODE_CONDITION_REVOKED

TYPES: Final = {
    node_pb2.NODE_ROLE_EDGE: (
        "replicas",
        "images",
        "routes",
        "regions",
        "certificates",
        "secrets",
        "mirrors",
        "registries",
        "faults",
        "drillclients",
        "agentversions",
        "revocations",
    ),
    node_pb2.NODE_ROLE_DNS: ("regions", "hostnames", "zones", "zonekeys", "latencies"),
}

Resources = dict[str, resource_pb2.Resource]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a node is to hold in a role. Nodes that are to hold the same share it: nobody changes it."""

    resources: Resources
    versions: dict[str, str]
    hash: str
    """Over names and versions (agent.proto, Hello)."""

    @classmethod
    def of(cls, resources: Resources) -> Wanted:
        """With what follows from the resources."""
        versions = {name: resource.version for name, resource in resources.items()}
        return cls(resources, versions, snapshot_hash(versions.items()))


class Publication:
    """Everything that is to be held by anyone, at one moment."""

    def __init__(
        self, state: State, observed: Observed, manifests: Manifests, views: Views, vault: Vault | None = None
    ):
        """Without a vault there is nothing in it that is sealed."""
        self._state = state
        self._observed = observed
        self._manifests = manifests
        self._views = views
        self.revision = state.revision
        self._nodes = views.node_rows
        self._places = {
            last_part(region.name): Place(region.latitude, region.longitude) for region in state.regions.values()
        }
        self._record_sets = fleet_resources.by_zone(state.record_sets.values())
        self._apps = [(app, *target) for app in state.apps.values() if (target := self._target(app)) is not None]
        self._routed = {last_part(app.name): self._routed_hash(app) for app, _, _ in self._apps}
        """By app: the spec hash of the only replicas that get requests, or empty."""
        self._singletons = frozenset(m.name for _, _, m in self._apps if m.placement.singleton)
        self.hostnames = [h for app, _, manifest in self._apps for h in self._hostnames(app, manifest)]
        self._routes = self._edge_routes()
        self._shared: dict[str, Resources] = {}
        self._vault = vault
        self._types: dict[tuple[int, tuple[str, ...]], frozenset[str]] = {}
        self._common: dict[tuple[object, ...], Wanted] = {}
        """By types, region, named version and, when others may ask it, the node: what is wanted of every such node."""
        self._faults = self._wanted_faults()
        self._clients = self._wanted_clients()
        self._images = self._wanted_images()
        self.fenced = self._fenced()
        """By node: keys of assignments and names of the singletons that it holds."""

    def table(self) -> routing_pb2.RoutingTable:
        """The routing table that DNS servers hold together."""
        return routing_pb2.RoutingTable(
            revision=self.revision,
            zones=self.zones,
            regions=self.regions,
            hostnames=self.hostnames,
            cut_proven_within=fleet_resources.cut_proven_within(self._state, self._observed),
        )

    @cached_property
    def regions(self) -> list[resource_pb2.RegionRouting]:
        """What DNS servers know of regions and their edges."""
        found: dict[str, list[resource_pb2.EdgeEndpoint]] = defaultdict(list)
        for node_id, node in self._nodes.items():
            if edges.is_part(node, node_pb2.NODE_ROLE_EDGE):
                found[node.region].append(self._edge(node_id, node))
        return [self._region(region_id, found[f"regions/{region_id}"]) for region_id in sorted(self._places)]

    @cached_property
    def zones(self) -> list[resource_pb2.ZoneData]:
        """What DNS servers serve."""
        return [self._zone(last_part(name)) for name in self._state.zones]

    def knows(self, node_id: str) -> bool:
        """Whether the node had joined by then; what it is to hold is in the next one otherwise."""
        return node_id in self._nodes

    def wanted(self, node_id: str, role: int, understood: Iterable[str]) -> Wanted:
        """What a node is to hold in a role, limited to the resource types that it understands."""
        types = self._types_of(role, tuple(understood))
        common = self._common_to(node_id, types)
        own = self._own(node_id, types) if node_id in self._owners else {}
        return Wanted.of(common.resources | own) if own else common

    def _types_of(self, role: int, understood: tuple[str, ...]) -> frozenset[str]:
        known = self._types.get((role, understood))
        if known is None:
            known = frozenset(TYPES.get(role, ())) & frozenset(understood)  # type: ignore[call-overload]
            self._types[role, understood] = known
        return known

    @cached_property
    def _owners(self) -> frozenset[str]:
        """The nodes of which something is wanted that is not of every other."""
        named = (*self._images, *self._faults, *self._clients)
        return frozenset(self._views.by_node) | {last_part(name) for name in named}

    def _common_to(self, node_id: str, types: frozenset[str]) -> Wanted:
        """What is wanted of every node of its region, but for those that are not to ask themselves."""
        node = self._nodes.get(node_id)
        key = (types, upgrades.named_for(node), self._routes.group(node_id))
        if key not in self._common:
            result = {name: r for kind in sorted(types) for name, r in self._of_type(kind).items()}
            if "routes" in types:
                result.update(_named(self._routes.of(node_id)))
            if "agentversions" in types:
                result.update(_named(upgrades.wanted_version(self._state, node)))
            self._common[key] = Wanted.of(result)
        return self._common[key]

    def _of_type(self, kind: str) -> Resources:
        """The resources of a type that are the same for everyone."""
        if kind not in self._shared:
            self._shared[kind] = _named(self._build(kind))
        return self._shared[kind]

    def _build(self, kind: str) -> Iterable[resource_pb2.Resource]:
        match kind:
            case "regions":
                return (resource_pb2.Resource(name=f"regions/{r.region}", region=r) for r in self.regions)
            case "hostnames":
                return (resource_pb2.Resource(name=f"hostnames/{h.hostname}", hostname=h) for h in self.hostnames)
            case "zones":
                return (resource_pb2.Resource(name=f"zones/{z.origin}", zone=z) for z in self.zones)
            case "latencies":
                rows = self._state.client_latencies.items()
                return (resource_pb2.Resource(name=name, client_latencies=row) for name, row in rows)
            case "revocations":
                revoked = (name for name, n in self._state.nodes.items() if n.condition == REVOKED)
                return (_revocation(last_part(name)) for name in revoked)
            case "zonekeys":
                return fleet_resources.zone_keys(self._state, self._vault)
            case "certificates":
                return fleet_resources.certificates(self._state, self._vault, {h.hostname for h in self.hostnames})
            case _:
                return ()

    def _own(self, node_id: str, types: frozenset[str]) -> Resources:
        """What is wanted of this node and not of every other."""
        result: Resources = {}
        if "replicas" in types:
            held = (a for a in self._views.by_node.get(node_id, []) if self._is_for_node(a))
            replicas = [self._replica(a) for a in held]
            result.update(_named(replicas))
            if "secrets" in types:
                result.update(_named(self._secrets(replicas)))
        if "images" in types:
            result.update(self._images.get(f"nodes/{node_id}", {}))
        images = {r.replica.image or r.image.image for r in result.values()} - {""}
        region = self._nodes[node_id].region if node_id in self._nodes else ""
        if "registries" in types and self._vault is not None and images:
            result.update(_named(logins.resources(self._state, self._vault, region, images)))
        if "mirrors" in types and images:
            result.update(_named(logins.mirrors(self._state, region, images)))
        if "faults" in types:
            result.update(self._faults.get(f"nodes/{node_id}", {}))
        if "drillclients" in types:
            result.update(self._clients.get(f"nodes/{node_id}", {}))
        return result

    def _target(self, app: app_pb2.App) -> tuple[release_pb2.Release, Manifest] | None:
        release = self._state.releases.get(app.target_release)
        return None if release is None else (release, self._manifests.of(release))

    def _wanted_faults(self) -> dict[str, Resources]:
        """By node, the faults of the drills that go on."""
        result: dict[str, Resources] = {}
        for run in drills.under_way(self._state):
            if drills.is_wanted(run):
                for node, name, fault in drill_asks.faults_of(self._state, self._observed, run):
                    wanted = _named([resource_pb2.Resource(name=name, fault=fault)])
                    result.setdefault(node.name, {}).update(wanted)
        return result

    def _wanted_clients(self) -> dict[str, Resources]:
        """By node, the synthetic clients of the drills that go on."""
        result: dict[str, Resources] = {}
        for run in drills.under_way(self._state):
            for node, client in drill_asks.asking(self._state, self._observed, run).items():
                wanted = _named([resource_pb2.Resource(name=drill_asks.clients_of(run), drill_client=client)])
                result.setdefault(node, {}).update(wanted)
        return result

    def _wanted_images(self) -> dict[str, Resources]:
        """By node, the images of rollouts that go on: also after all have it, for waves may bake for long."""
        result: dict[str, Resources] = {}
        for app, _, _ in self._apps:
            row = self._state.rollouts.get(app.rollout)
            release = self._state.releases.get(row.to_release) if row is not None else None
            if row is None or release is None or decode.state_of(row) in TERMINAL:
                continue
            body = resource_pb2.ImageHold(image=release.pinned_image)
            held = _named([resource_pb2.Resource(name=image_name(release.pinned_image), image=body)])
            for name in row.prefetch_nodes:
                result.setdefault(name, {}).update(held)
        return result

    # -- replicas

    def _is_for_node(self, assigned: Assigned) -> bool:
        """Whether its node is to hold it. A singleton that was given away is not offered again."""
        row = assigned.row
        return not row.stopping and not (row.displaced and self._singleton(row.app))

    def _singleton(self, app_id: str) -> bool:
        return app_id in self._singletons

    def _fenced(self) -> dict[str, list[tuple[str, str]]]:
        result: dict[str, list[tuple[str, str]]] = {}
        for app_id in sorted(self._singletons):
            for assigned in self._views.by_app.get(app_id, ()):
                if self._is_for_node(assigned):
                    result.setdefault(assigned.view.node, []).append((assigned.key, resource_name(assigned.row)))
        return result

    def _replica(self, assigned: Assigned) -> resource_pb2.Resource:
        row = assigned.row
        app = f"apps/{row.app}"
        release = self._state.releases.need(f"{app}/releases/{row.release}")
        target = self._state.releases.get(self._state.apps.need(app).target_release)
        shape = target if target is not None and target.spec_hash == row.spec_hash else release
        manifest = self._manifests.of(shape)
        host = manifest.hostnames[0] if manifest.hostnames else manifest.name
        spec = resource_pb2.ReplicaSpec(
            app=row.app,
            ordinal=row.ordinal,
            release=row.release,
            spec_hash=row.spec_hash,
            image=release.pinned_image,
            command=manifest.command,
            args=manifest.args,
            env=manifest.env,
            ports=decode.ports_message(manifest.ports),
            resources=manifest_pb2.ResourceLimits(
                cpu_millis=manifest.limits.cpu_millis,
                memory_bytes=manifest.limits.memory_bytes,
                pids=manifest.limits.pids,
            ),
            stop_timeout=decode.duration(manifest.stop_timeout_s),
            drain=decode.duration(manifest.rollout.drain_s),
        )
        pass_on(shape.manifest, spec)
        if manifest.placement.singleton:
            spec.fence_after.CopyFrom(decode.duration(manifest.placement.fence_after_s))
        if manifest.readiness is not None:
            spec.readiness.CopyFrom(decode.probe_message(manifest.readiness, host))
        if manifest.liveness is not None:
            spec.liveness.CopyFrom(decode.probe_message(manifest.liveness, host))
        return resource_pb2.Resource(name=resource_name(row), replica=spec)

    def _secrets(self, replicas: Iterable[resource_pb2.Resource]) -> Iterable[resource_pb2.Resource]:
        """The values that replicas get."""
        wanted = {(mount.secret, mount.version) for replica in replicas for mount in replica.replica.secrets}
        for secret, version in sorted(wanted):
            sealed = self._state.secret_values.get(f"secrets/{secret}/{version}")
            if sealed is not None and self._vault is not None:
                value = secret_values.unseal(self._vault, secret, version, sealed)
                material = resource_pb2.SecretMaterial(secret=secret, version=version, value=value)
                yield resource_pb2.Resource(name=f"secrets/{secret}/{version}", secret=material)

    # -- routes

    def _edge_routes(self) -> EdgeRoutes:
        healthy = {m.name: self._healthy(m.name) for _, _, m in self._apps if m.hostnames}
        brake = self._observed.brake.engaged
        return EdgeRoutes(self._state, self._nodes, self._places, self._apps, healthy, self._routed, brake=brake)

    def _healthy(self, app_id: str) -> Counter[str]:
        """Healthy replicas of an app by node, as nodes reported last; every node that holds one is in it."""
        counts: Counter[str] = Counter()
        routed = self._routed[app_id]
        for assigned in self._views.by_app.get(app_id, []):
            serves = assigned.row.healthy and not assigned.row.stopping and routed in ("", assigned.row.spec_hash)
            counts[assigned.view.node] += int(serves)
        return counts

    def _routed_hash(self, app: app_pb2.App) -> str:
        """What a rollout that runs two releases side by side says; empty when nothing healthy is left of that one."""
        row = self._state.rollouts.get(app.rollout)
        if row is None or not row.side_by_side:
            return ""
        names = (row.from_release, row.to_release)
        releases = {name: release for name in names if (release := self._state.releases.get(name)) is not None}
        routed = rollout_view(row, releases, 0.0).routed
        held = self._views.by_app.get(last_part(app.name), [])
        hashes = {a.row.spec_hash for a in held if a.row.healthy and not a.row.stopping}
        return routed.spec_hash if routed is not None and routed.spec_hash in hashes else ""

    # -- what DNS needs

    def _region(self, region_id: str, endpoints: list[resource_pb2.EdgeEndpoint]) -> resource_pb2.RegionRouting:
        region = self._state.regions.need(f"regions/{region_id}")
        return resource_pb2.RegionRouting(
            region=region_id,
            latitude=region.latitude,
            longitude=region.longitude,
            continent=region.continent,
            country=region.country,
            jurisdictions=region.jurisdictions,
            networks=region.networks,
            bias_km=region.bias_km,
            edges=endpoints,
        )

    def _edge(self, node_id: str, node: node_pb2.Node) -> resource_pb2.EdgeEndpoint:
        evidence = self._observed.evidence.get(node_id, {})
        return resource_pb2.EdgeEndpoint(
            node=node_id,
            addresses=node.addresses,
            condition=node.condition,
            probe_port=PROBE_PORT,
            evidence=[evidence[vantage] for vantage in sorted(evidence)],
            override=self._override(node),
        )

    def _override(self, node: node_pb2.Node) -> resource_pb2.EndpointOverride | None:
        """The order about a node, else the one about its region; DNS servers end it by their own clock."""
        for target in (node.name, node.region):
            row = self._state.overrides.get(f"routingOverrides/{target.replace('/', '-')}")
            if row is not None:
                override = resource_pb2.EndpointOverride(
                    mode=row.mode, percent=row.percent, expire_time=row.expire_time, reason=row.reason
                )
                if row.HasField("over"):
                    override.create_time.CopyFrom(row.create_time)
                    override.over.CopyFrom(row.over)
                return override
        return None

    def _hostnames(self, app: app_pb2.App, manifest: Manifest) -> Iterable[resource_pb2.HostnameRouting]:
        app_id = last_part(app.name)
        endpoints = [
            resource_pb2.HostnameEndpoint(region=last_part(node.region), node=node_id, healthy_replicas=healthy)
            for node_id, healthy in sorted(self._healthy(app_id).items())
            if (node := self._nodes.get(node_id)) is not None
        ]
        for hostname in manifest.hostnames:
            yield resource_pb2.HostnameRouting(
                hostname=hostname,
                app=app_id,
                routing=decode.routing_message(manifest.routing),
                endpoints=endpoints,
            )

    def _zone(self, origin: str) -> resource_pb2.ZoneData:
        zone = self._state.zones.need(f"zones/{origin}")
        ttl_s = decode.span_s(zone.ttl)
        negative_ttl_s = decode.span_s(zone.negative_ttl)
        return resource_pb2.ZoneData(
            origin=origin,
            serial=self._state.zone_contents.revision(origin) % 2**32,
            contact=zone.contact or f"hostmaster@{origin}",
            ttl=decode.duration(ttl_s or 3600.0),
            negative_ttl=decode.duration(negative_ttl_s or 10.0),
            name_servers=[
                resource_pb2.NameServer(hostname=f"{node_id}.ns.{origin}", addresses=node.addresses)
                for node_id, node in self._nodes.items()
                if edges.is_part(node, node_pb2.NODE_ROLE_DNS)
            ],
            records=fleet_resources.zone_records(
                self._state, origin, self._record_sets.get(f"zones/{origin}", ()), ttl_s
            ),
        )

    def zone_hashes(self) -> dict[str, str]:
        """By origin, the hash of what a zone serves: its own data and the hostnames below it, not their health."""
        result: dict[str, str] = {}
        for zone in self.zones:
            content = resource_pb2.ZoneData()
            content.CopyFrom(zone)
            content.serial = 0
            names = sorted(h.hostname for h in self.hostnames if _is_below(h.hostname, zone.origin))
            digest = hashlib.sha256(content.SerializeToString(deterministic=True) + "\n".join(names).encode())
            result[zone.origin] = digest.hexdigest()
        return result


def _is_below(hostname: str, origin: str) -> bool:
    return hostname == origin or hostname.endswith(f".{origin}")


def _named(resources: Iterable[resource_pb2.Resource]) -> Resources:
    """The resources by name, each with a version that is the hash of its content."""
    result: Resources = {}
    for resource in resources:
        content = resource.SerializeToString(deterministic=True)
        resource.version = hashlib.sha256(content).hexdigest()[:32]
        result[resource.name] = resource
    return result


def _revocation(node: str) -> resource_pb2.Resource:
    return resource_pb2.Resource(name=f"revocations/{node}", revoked_node=resource_pb2.RevokedNode(node=node))
