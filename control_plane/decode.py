"""From the wire to what the cores work with, and back: manifests, nodes, rollouts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.unknown_fields import UnknownFieldSet

from control_plane.core.balancing import Balancing, HashBy
from control_plane.core.cache_policy import CachePolicy
from control_plane.core.manifest import (
    Affinity,
    Constraint,
    Kind,
    Limits,
    Manifest,
    Placement,
    Port,
    Probe,
    Rejoin,
    RolloutPolicy,
    Wave,
)
from control_plane.core.model import Condition
from control_plane.core.rollout import State
from control_plane.core.steering import Routing, Steering
from control_plane.decode_container import container_options
from control_plane.decode_http import http_policy
from fleet.errors import invalid
from locci.v1 import manifest_pb2, node_pb2, release_pb2

CONDITIONS: Final = {
    Condition.JOINING: node_pb2.NODE_CONDITION_JOINING,
    Condition.READY: node_pb2.NODE_CONDITION_READY,
    Condition.SUSPECT: node_pb2.NODE_CONDITION_SUSPECT,
    Condition.LOST: node_pb2.NODE_CONDITION_LOST,
    Condition.DRAINING: node_pb2.NODE_CONDITION_DRAINING,
    Condition.REVOKED: node_pb2.NODE_CONDITION_REVOKED,
}
_CONDITIONS_BACK = {number: condition for condition, number in CONDITIONS.items()}

STATES: Final = {
    State.PENDING: release_pb2.ROLLOUT_STATE_PENDING,
    State.RUNNING: release_pb2.ROLLOUT_STATE_RUNNING,
    State.PAUSED: release_pb2.ROLLOUT_STATE_PAUSED,
    State.ROLLING_BACK: release_pb2.ROLLOUT_STATE_ROLLING_BACK,
    State.SUCCEEDED: release_pb2.ROLLOUT_STATE_SUCCEEDED,
    State.FAILED: release_pb2.ROLLOUT_STATE_FAILED,
    State.ROLLED_BACK: release_pb2.ROLLOUT_STATE_ROLLED_BACK,
    State.SUPERSEDED: release_pb2.ROLLOUT_STATE_SUPERSEDED,
    State.ABORTED: release_pb2.ROLLOUT_STATE_ABORTED,
}
_STATES_BACK = {number: state for state, number in STATES.items()}

_KINDS: dict[int, Kind] = {
    manifest_pb2.APP_KIND_UNSPECIFIED: "service",
    manifest_pb2.APP_KIND_SERVICE: "service",
    manifest_pb2.APP_KIND_DAEMON: "daemon",
}
_HASH_BY: dict[int, HashBy] = {
    manifest_pb2.HASH_BY_UNSPECIFIED: "",
    manifest_pb2.HASH_BY_CLIENT: "client",
    manifest_pb2.HASH_BY_PATH: "path",
    manifest_pb2.HASH_BY_HEADER: "header",
    manifest_pb2.HASH_BY_COOKIE: "cookie",
}
_REJOINS: dict[int, Rejoin] = {
    manifest_pb2.REJOIN_CHOICE_UNSPECIFIED: "replacement",
    manifest_pb2.REJOIN_CHOICE_KEEP_ORIGINAL: "original",
    manifest_pb2.REJOIN_CHOICE_KEEP_REPLACEMENT: "replacement",
    manifest_pb2.REJOIN_CHOICE_KEEP_BEST: "best",
}
_STEERINGS: dict[int, Steering] = {
    manifest_pb2.STEERING_POLICY_UNSPECIFIED: "nearest",
    manifest_pb2.STEERING_POLICY_NEAREST: "nearest",
    manifest_pb2.STEERING_POLICY_FAILOVER: "failover",
    manifest_pb2.STEERING_POLICY_ALL: "all",
    manifest_pb2.STEERING_POLICY_WEIGHTED: "weighted",
    manifest_pb2.STEERING_POLICY_GEO: "geo",
    manifest_pb2.STEERING_POLICY_LATENCY: "latency",
}


def condition_of(node: node_pb2.Node) -> Condition:
    """The node's condition; joining when it was never set."""
    return _CONDITIONS_BACK.get(node.condition, Condition.JOINING)


def state_of(rollout: release_pb2.Rollout) -> State:
    """The rollout's state; pending when it was never set."""
    return _STATES_BACK.get(rollout.state, State.PENDING)


def seconds_of(timestamp: Timestamp) -> float:
    """Seconds since 1970."""
    return timestamp.seconds + timestamp.nanos / 1e9


def timestamp(seconds: float) -> Timestamp:
    """The moment `seconds` after 1970."""
    result = Timestamp()
    result.FromMicroseconds(int(seconds * 1_000_000))
    return result


def duration(seconds: float) -> Duration:
    """A duration of so many seconds."""
    result = Duration()
    result.FromMicroseconds(int(seconds * 1_000_000))
    return result


def span_s(value: Duration) -> float:
    """Seconds, of any duration that the wire can carry."""
    return value.seconds + value.nanos / 1e9


def _cache_policy(message: manifest_pb2.CachePolicy) -> CachePolicy:
    key = message.key
    return CachePolicy(
        query_ignored=key.ignore_query,
        query_allow=tuple(key.query_allow),
        query_ignore=tuple(key.query_ignore),
        query_sort=key.query_sort,
        headers=tuple(key.headers),
        cookies=tuple(key.cookies),
        negative_s=span_s(message.negative_ttl),
        heuristic_max_s=span_s(message.heuristic_max),
        compress=message.compress,
        shield_region=message.shield_region,
    )


def balancing_message(balancing: Balancing) -> manifest_pb2.BalancingPolicy | None:
    """What edges are told of the choice among replicas; None where nothing is wanted."""
    if balancing == Balancing():
        return None
    by = next(number for number, name in _HASH_BY.items() if name == balancing.hash_by)
    return manifest_pb2.BalancingPolicy(
        hash_by=by,  # type: ignore[arg-type]
        hash_name=balancing.hash_name,
        sticky_cookie=balancing.sticky_cookie,
        hedge_after=duration(balancing.hedge_s) if balancing.hedge_s else None,
    )


def cache_policy_message(manifest: Manifest) -> manifest_pb2.CachePolicy:
    """What edges are told of an app's cache."""
    policy = manifest.cache_policy
    message = manifest_pb2.CachePolicy(
        disabled=manifest.cache_disabled, max_object_bytes=manifest.cache_object_bytes_max
    )
    if policy == CachePolicy():
        return message
    key = manifest_pb2.CacheKey(
        ignore_query=policy.query_ignored,
        query_allow=policy.query_allow,
        query_ignore=policy.query_ignore,
        query_sort=policy.query_sort,
        headers=policy.headers,
        cookies=policy.cookies,
    )
    message.key.CopyFrom(key)
    message.negative_ttl.CopyFrom(duration(policy.negative_s))
    message.heuristic_max.CopyFrom(duration(policy.heuristic_max_s))
    message.compress = policy.compress
    return message


def manifest(message: manifest_pb2.AppManifest) -> Manifest:
    """The manifest as it was sent, zero values and all. Raises INVALID_ARGUMENT for what no decoder can take."""
    _refuse_unknown(message, "manifest")
    return Manifest(
        name=message.name,
        image=message.image,
        command=tuple(message.command),
        args=tuple(message.args),
        env=dict(message.env),
        ports=tuple(_port(port, index) for index, port in enumerate(message.ports)),
        readiness=_probe(message.readiness) if message.HasField("readiness") else None,
        liveness=_probe(message.liveness) if message.HasField("liveness") else None,
        placement=_placement(message.placement),
        rollout=_rollout_policy(message.rollout),
        hostnames=tuple(message.hostnames),
        cache_disabled=message.cache.disabled,
        cache_object_bytes_max=message.cache.max_object_bytes,
        tls_redirect=message.tls.redirect,
        hsts_s=span_s(message.tls.hsts),
        cache_policy=_cache_policy(message.cache),
        balancing=Balancing(
            hash_by=_known(_HASH_BY, message.balancing.hash_by, "manifest.balancing.hash_by"),
            hash_name=message.balancing.hash_name,
            sticky_cookie=message.balancing.sticky_cookie,
            hedge_s=span_s(message.balancing.hedge_after),
        ),
        http=http_policy(message.http),
        routing=Routing(
            policy=_known(_STEERINGS, message.routing.policy, "manifest.routing.policy"),
            ttl_s=span_s(message.routing.ttl),
            order=tuple(message.routing.order),
            fail_closed=message.routing.fail_closed,
            jurisdictions=tuple(message.routing.jurisdictions),
            weights=tuple((weight.region, weight.weight) for weight in message.routing.weights),
            geo=tuple((tuple(rule.places), tuple(rule.regions)) for rule in message.routing.geo),
            filters=tuple(_known(_STEERINGS, p, "manifest.routing.filters") for p in message.routing.filters),
            latency_within_s=span_s(message.routing.latency_within),
            nearest_within_km=message.routing.nearest_within_km,
        ),
        limits=Limits(message.resources.cpu_millis, message.resources.memory_bytes, message.resources.pids),
        stop_timeout_s=span_s(message.stop_timeout),
        labels=dict(message.labels),
        kind=_known(_KINDS, message.kind, "manifest.kind"),
        container=container_options(message),
    )


def _known(table: Mapping[int, Kind | Rejoin | Steering | HashBy], value: int, path: str):  # type: ignore[no-untyped-def]
    if value not in table:
        raise invalid(path, f"{path}: {value} is not known to this control plane")
    return table[value]


def _refuse_unknown(message: manifest_pb2.AppManifest, path: str) -> None:
    unknown = UnknownFieldSet(message)
    if len(unknown):
        numbers = ", ".join(str(unknown[index].field_number) for index in range(len(unknown)))
        raise invalid(path, f"{path}: fields {numbers} are not known to this control plane", "UNKNOWN_FIELD")


def _port(port: manifest_pb2.Port, index: int) -> Port:
    path = f"manifest.ports[{index}].protocol"
    if port.protocol > manifest_pb2.PORT_PROTOCOL_TCP:
        raise invalid(path, f"{path}: {port.protocol} is not known to this control plane")
    is_tcp = port.protocol == manifest_pb2.PORT_PROTOCOL_TCP
    return Port(port.name, port.container_port, "tcp" if is_tcp else "http", port.host_port)


def _probe(probe: manifest_pb2.Probe) -> Probe:
    method = probe.WhichOneof("method") or "tcp"
    return Probe(
        method=method,
        port="" if method == "exec" else getattr(probe, method).port,
        path=probe.http.path,
        host=probe.http.host,
        interval_s=span_s(probe.interval),
        timeout_s=span_s(probe.timeout),
        start_period_s=span_s(probe.start_period),
        healthy_after=probe.healthy_after,
        unhealthy_after=probe.unhealthy_after,
        service=probe.grpc.service,
        command=tuple(probe.exec.command),
    )


def _placement(placement: manifest_pb2.Placement) -> Placement:
    return Placement(
        regions=tuple(placement.regions),
        per_region=placement.replicas_per_region,
        total=placement.replicas,
        constraints=tuple(Constraint(c.label, tuple(c.values), c.exclude) for c in placement.constraints),
        lost_after_s=span_s(placement.lost_after),
        on_rejoin=_known(_REJOINS, placement.on_rejoin, "manifest.placement.on_rejoin"),
        singleton=placement.singleton,
        spread=placement.spread,
        affinities=tuple(Affinity(a.label, tuple(a.values), a.app, a.weight) for a in placement.affinities),
        fence_after_s=span_s(placement.fence_after),
    )


def _rollout_policy(policy: manifest_pb2.RolloutPolicy) -> RolloutPolicy:
    return RolloutPolicy(
        strategy={
            manifest_pb2.ROLLOUT_STRATEGY_CANARY: "canary",
            manifest_pb2.ROLLOUT_STRATEGY_BLUE_GREEN: "blue-green",
        }.get(policy.strategy, "rolling"),  # type: ignore[arg-type]
        max_surge=policy.max_surge,
        max_unavailable=policy.max_unavailable,
        healthy_for_s=span_s(policy.healthy_for),
        health_deadline_s=span_s(policy.health_deadline),
        progress_deadline_s=span_s(policy.progress_deadline),
        auto_rollback=not policy.no_auto_rollback,
        drain_s=span_s(policy.drain),
        canary_replicas=policy.canary_replicas,
        canary_bake_s=span_s(policy.canary_bake),
        manual_promotion=policy.manual_promotion,
        canary_percent=policy.canary_percent,
        canary_regions=tuple(policy.canary_regions),
        hold_s=span_s(policy.hold),
        prefetch_deadline_s=span_s(policy.prefetch_deadline),
        waves=tuple(Wave(tuple(wave.regions), span_s(wave.bake)) for wave in policy.waves),
    )


def ports_message(ports: Iterable[Port]) -> list[manifest_pb2.Port]:
    """Ports on the wire."""
    protocols = {"http": manifest_pb2.PORT_PROTOCOL_HTTP, "tcp": manifest_pb2.PORT_PROTOCOL_TCP}
    return [
        manifest_pb2.Port(
            name=p.name, container_port=p.container_port, protocol=protocols[p.protocol], host_port=p.host_port
        )
        for p in ports
    ]


def probe_message(probe: Probe, host: str) -> manifest_pb2.Probe:
    """A probe on the wire; `host` stands in for an empty Host header."""
    message = manifest_pb2.Probe(
        interval=duration(probe.interval_s),
        timeout=duration(probe.timeout_s),
        start_period=duration(probe.start_period_s),
        healthy_after=probe.healthy_after,
        unhealthy_after=probe.unhealthy_after,
    )
    match probe.method:
        case "http":
            message.http.CopyFrom(manifest_pb2.HttpProbe(path=probe.path, port=probe.port, host=probe.host or host))
        case "grpc":
            message.grpc.CopyFrom(manifest_pb2.GrpcProbe(service=probe.service, port=probe.port))
        case "exec":
            message.exec.CopyFrom(manifest_pb2.ExecProbe(command=probe.command))
        case "tcp":
            message.tcp.CopyFrom(manifest_pb2.TcpProbe(port=probe.port))
    return message


def routing_message(routing: Routing) -> manifest_pb2.RoutingPolicy:
    """A routing policy on the wire, its defaults filled in."""
    policies = {
        "nearest": manifest_pb2.STEERING_POLICY_NEAREST,
        "failover": manifest_pb2.STEERING_POLICY_FAILOVER,
        "all": manifest_pb2.STEERING_POLICY_ALL,
        "weighted": manifest_pb2.STEERING_POLICY_WEIGHTED,
        "geo": manifest_pb2.STEERING_POLICY_GEO,
        "latency": manifest_pb2.STEERING_POLICY_LATENCY,
    }
    return manifest_pb2.RoutingPolicy(
        policy=policies[routing.policy],
        ttl=duration(routing.ttl_s),
        order=routing.order,
        fail_closed=routing.fail_closed,
        jurisdictions=routing.jurisdictions,
        weights=[manifest_pb2.RegionWeight(region=region, weight=weight) for region, weight in routing.weights],
        geo=[manifest_pb2.GeoRule(places=places, regions=regions) for places, regions in routing.geo],
        filters=[policies[policy] for policy in routing.filters],
        latency_within=duration(routing.latency_within_s) if routing.latency_within_s else None,
        nearest_within_km=routing.nearest_within_km,
    )
