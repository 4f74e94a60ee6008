"""What a manifest means: its parts without the wire, its defaults, and what makes one impossible.

A `Manifest` is decoded with the zero values that were sent; `complete` checks it and fills the defaults in, so that
two manifests that mean the same are equal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from control_plane.core import balancing, cache_policy, container_options, http_policy, strategy
from control_plane.core.balancing import Balancing
from control_plane.core.cache_policy import CachePolicy
from control_plane.core.container_options import ContainerOptions
from control_plane.core.http_policy import HttpPolicy
from control_plane.core.image import parse_reference
from control_plane.core.steering import Routing, check_filters
from fleet.errors import LocciError, invalid
from fleet.ids import APP_ID_LENGTH_MAX, check_hostname, check_id

Kind = Literal["service", "daemon"]
Rejoin = Literal["original", "replacement", "best"]

REPLICAS_MAX: Final = 10_000
PORTS_MAX: Final = 32
DEADLINE_S_MAX: Final = 86_400.0
CLOCK_DRIFT: Final = 0.1
"""By which share the clocks of two hosts may run apart, with room to spare."""
FENCE_MARGIN_S: Final = 3.0
"""What a node's engine may take beyond the stop timeout to end a container."""

_FENCE_AFTER_S_MIN = 3.0
_DRAIN_S = 2.0
_STOP_TIMEOUT_S = 10.0
_HSTS_S_MAX: Final = 2 * 366 * 86_400.0
_OWN_PORTS = frozenset({53, 80, 443, 7446, 7447, 7448, 7449})
_AFFINITIES_MAX = 32
_WEIGHT_OF_AFFINITY_MAX = 100

_WEIGHT_MAX = 1000
_PLACE = re.compile(r"[A-Z]{2}(-[A-Z0-9]{1,3})?|continent:[A-Z]{2}|\*")
_PORT_NAME = re.compile(r"[a-z](?:[a-z0-9-]{0,14})")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Port:
    """A port inside the container."""

    name: str
    container_port: int
    protocol: Literal["http", "tcp"] = "http"
    host_port: int = 0


@dataclass(frozen=True, slots=True)
class Probe:
    """A question asked of a container; times in seconds. An empty `host` means the first hostname or the app."""

    method: Literal["http", "tcp", "grpc", "exec"] = "tcp"
    port: str = ""
    path: str = ""
    host: str = ""
    interval_s: float = 0.0
    timeout_s: float = 0.0
    start_period_s: float = 0.0
    healthy_after: int = 0
    unhealthy_after: int = 0
    service: str = ""
    command: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Constraint:
    """A demand on a node's labels."""

    label: str
    values: tuple[str, ...] = ()
    exclude: bool = False


@dataclass(frozen=True, slots=True)
class Affinity:
    """What draws replicas to nodes with a label or with another app, or keeps them away."""

    label: str = ""
    values: tuple[str, ...] = ()
    app: str = ""
    weight: int = 0


@dataclass(frozen=True, slots=True)
class Placement:
    """Where replicas run. Exactly one of `per_region` and `total` is set once it is complete."""

    regions: tuple[str, ...] = ()
    per_region: int = 0
    total: int = 0
    constraints: tuple[Constraint, ...] = ()
    lost_after_s: float = 0.0
    on_rejoin: Rejoin = "replacement"
    singleton: bool = False
    spread: str = ""
    affinities: tuple[Affinity, ...] = ()
    fence_after_s: float = 0.0
    """0 unless it is a singleton, once it is complete; `lost_after_s` is then never too short for it."""


@dataclass(frozen=True, slots=True)
class Wave:
    """Regions that get a release together, and how long they are watched."""

    regions: tuple[str, ...]
    bake_s: float = 0.0


@dataclass(frozen=True, slots=True)
class RolloutPolicy:
    """Bounds and deadlines. `max_surge` 0 with `max_unavailable` 0 means one above in each region."""

    strategy: Literal["rolling", "canary", "blue-green"] = "rolling"
    max_surge: int = 0
    max_unavailable: int = 0
    healthy_for_s: float = 0.0
    health_deadline_s: float = 0.0
    progress_deadline_s: float = 0.0
    auto_rollback: bool = True
    drain_s: float = 0.0
    canary_replicas: int = 0
    canary_bake_s: float = 0.0
    manual_promotion: bool = False
    canary_percent: int = 0
    canary_regions: tuple[str, ...] = ()
    hold_s: float = 0.0
    prefetch_deadline_s: float = 0.0
    waves: tuple[Wave, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """What one container may use; 0 means no limit, for pids the default."""

    cpu_millis: int = 0
    memory_bytes: int = 0
    pids: int = 0


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything that a developer says about an app."""

    name: str
    image: str
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[Port, ...] = ()
    readiness: Probe | None = None
    liveness: Probe | None = None
    placement: Placement = Placement()
    rollout: RolloutPolicy = RolloutPolicy()
    hostnames: tuple[str, ...] = ()
    cache_disabled: bool = False
    cache_object_bytes_max: int = 0
    tls_redirect: bool = False
    hsts_s: float = 0.0
    cache_policy: CachePolicy = field(default_factory=CachePolicy)
    balancing: Balancing = field(default_factory=Balancing)
    http: HttpPolicy = field(default_factory=HttpPolicy)
    routing: Routing = field(default_factory=Routing)
    limits: Limits = Limits()
    stop_timeout_s: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)
    kind: Kind = "service"
    container: ContainerOptions = field(default_factory=ContainerOptions)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a manifest is checked against: region ids, and which app owns which hostname."""

    regions: frozenset[str]
    hostname_owners: Mapping[str, str]


def complete(manifest: Manifest, around: Surroundings) -> Manifest:
    """`manifest` with its defaults, or INVALID_ARGUMENT that names the field at fault."""
    check_id(manifest.name, "manifest.name", APP_ID_LENGTH_MAX)
    _check_image(manifest.image)
    _check_environment(manifest)
    container_options.check(manifest.container)
    cache_policy.check(manifest.cache_policy)
    _check_shield(manifest, around)
    balancing.check(manifest.balancing)
    ports = _complete_ports(manifest.ports)
    hostnames = _complete_hostnames(manifest, ports, around)
    http_policy.check(manifest.http, hostnames)
    return replace(
        manifest,
        ports=ports,
        readiness=_complete_readiness(manifest.readiness, ports),
        liveness=None if manifest.liveness is None else _complete_probe(manifest.liveness, "manifest.liveness", ports),
        placement=_fenced(_complete_placement(manifest.placement, manifest.kind, around), manifest),
        rollout=_complete_rollout(manifest.rollout, manifest, around),
        hostnames=hostnames,
        cache_object_bytes_max=manifest.cache_object_bytes_max or 8 << 20,
        hsts_s=_seconds(manifest.hsts_s, "manifest.tls.hsts", 0.0, most=_HSTS_S_MAX),
        routing=_complete_routing(manifest.routing, around),
        limits=_complete_limits(manifest.limits),
        stop_timeout_s=_seconds(manifest.stop_timeout_s, "manifest.stop_timeout", _STOP_TIMEOUT_S, most=600.0),
    )


def _seconds(value: float, path: str, default: float, *, least: float = 0.0, most: float = DEADLINE_S_MAX) -> float:
    if value == 0:
        return default
    if not least <= value <= most:
        raise invalid(path, f"{path}: {value:g}s is out of range: use {least:g}s to {most:g}s, or leave it out")
    return value


def _check_image(image: str) -> None:
    try:
        parse_reference(image)
    except LocciError as error:
        raise invalid("manifest.image", f"manifest.image: {error.message}", error.reason) from error


def _check_environment(manifest: Manifest) -> None:
    for name, value in manifest.env.items():
        path = f"manifest.env[{name}]"
        if not _ENV_NAME.fullmatch(name):
            raise invalid(path, f"{path}: {name!r} is no name of an environment variable")
        if "\0" in value:
            raise invalid(path, f"{path}: a value must not contain a NUL")


def _complete_ports(ports: Sequence[Port]) -> tuple[Port, ...]:
    if len(ports) > PORTS_MAX:
        raise invalid("manifest.ports", f"manifest.ports: {len(ports)} are too many; at most {PORTS_MAX}")
    result: list[Port] = []
    for index, port in enumerate(ports):
        path = f"manifest.ports[{index}]"
        named = replace(port, name=port.name or "http")
        if not _PORT_NAME.fullmatch(named.name):
            raise invalid(f"{path}.name", f"{path}.name: {port.name!r} must be 1-15 of a-z, 0-9 and '-'")
        if not 1 <= port.container_port <= 65535:
            at = f"{path}.container_port"
            raise invalid(at, f"{at}: {port.container_port} is not a port; use 1 to 65535")
        if any(named.name == other.name for other in result):
            raise invalid(f"{path}.name", f"{path}.name: {named.name!r} is used twice; give each port its own name")
        if any(named.container_port == other.container_port for other in result):
            at = f"{path}.container_port"
            raise invalid(at, f"{at}: {port.container_port} is listed twice")
        _check_host_port(named, f"{path}.host_port", result)
        result.append(named)
    return tuple(result)


def _check_host_port(port: Port, at: str, before: Sequence[Port]) -> None:
    if not port.host_port:
        return
    if port.host_port > 65535:
        raise invalid(at, f"{at}: {port.host_port} is not a port; use 1 to 65535, or leave it out")
    if port.host_port in _OWN_PORTS:
        raise invalid(at, f"{at}: {port.host_port} is used by this host's own programs; choose another")
    if any(port.host_port == other.host_port for other in before):
        raise invalid(at, f"{at}: {port.host_port} is listed twice")


def _complete_readiness(probe: Probe | None, ports: tuple[Port, ...]) -> Probe | None:
    if probe is None:
        return _complete_probe(Probe(), "manifest.readiness", ports) if ports else None
    return _complete_probe(probe, "manifest.readiness", ports)


def _complete_probe(probe: Probe, path: str, ports: tuple[Port, ...]) -> Probe:
    at = f"{path}.{probe.method}"
    if probe.method == "exec":
        if not probe.command or not probe.command[0] or any("\0" in part for part in probe.command):
            raise invalid(f"{at}.command", f"{at}.command: a command is needed, and no NUL in it")
    elif not ports:
        raise invalid(path, f"{path}: the manifest has no ports to probe; add one under ports, or drop the probe")
    port = "" if probe.method == "exec" else probe.port or ports[0].name
    if port and port not in {p.name for p in ports}:
        known = ", ".join(p.name for p in ports)
        raise invalid(f"{at}.port", f"{at}.port: there is no port {port!r}; the manifest has {known}")
    request_path = probe.path or "/" if probe.method == "http" else ""
    if request_path and (not request_path.startswith("/") or any(c <= " " or c > "~" for c in request_path)):
        raise invalid(f"{at}.path", f"{at}.path: {request_path!r} must start with '/' and hold no spaces")
    if any(c <= " " or c > "~" for c in probe.host):
        raise invalid(f"{at}.host", f"{at}.host: {probe.host!r} is no host name")
    interval_s = _seconds(probe.interval_s, f"{path}.interval", 2.0, least=0.1, most=3600.0)
    return replace(
        probe,
        port=port,
        path=request_path,
        interval_s=interval_s,
        timeout_s=_seconds(probe.timeout_s, f"{path}.timeout", 1.0, least=0.05, most=300.0),
        start_period_s=_seconds(probe.start_period_s, f"{path}.start_period", 0.0, most=3600.0),
        healthy_after=probe.healthy_after or 1,
        unhealthy_after=probe.unhealthy_after or 3,
    )


def _check_shield(manifest: Manifest, around: Surroundings) -> None:
    path, region = "manifest.cache.shield_region", manifest.cache_policy.shield_region
    if region and region not in around.regions:
        known = ", ".join(sorted(around.regions)) or "none"
        raise invalid(path, f"{path}: there is no region {region!r}; there are: {known}")
    if region and manifest.cache_disabled:
        raise invalid(path, f"{path}: nothing is stored while cache.disabled is set; leave out one of them")


def _check_regions(regions: Sequence[str], path: str, around: Surroundings) -> None:
    for index, region in enumerate(regions):
        at = f"{path}[{index}]"
        if region not in around.regions:
            known = ", ".join(sorted(around.regions)) or "none"
            raise invalid(at, f"{at}: there is no region {region!r}; there are: {known}")
        if region in regions[:index]:
            raise invalid(at, f"{at}: {region!r} is listed twice")


def _complete_placement(placement: Placement, kind: Kind, around: Surroundings) -> Placement:
    path = "manifest.placement"
    _check_regions(placement.regions, f"{path}.regions", around)
    if placement.per_region and placement.total:
        raise invalid(f"{path}.replicas", f"{path}.replicas: give either replicas or replicas_per_region, not both")
    if max(placement.per_region, placement.total) > REPLICAS_MAX:
        raise invalid(f"{path}.replicas", f"{path}.replicas: at most {REPLICAS_MAX} replicas")
    if kind == "daemon" and (placement.per_region or placement.total):
        raise invalid(f"{path}.replicas", f"{path}.replicas: a daemon runs once on each node; leave the number out")
    if placement.singleton and (kind == "daemon" or placement.per_region > 1 or placement.total > 1):
        raise invalid(f"{path}.singleton", f"{path}.singleton: a singleton has one replica in all")
    for index, constraint in enumerate(placement.constraints):
        if not constraint.label:
            at = f"{path}.constraints[{index}].label"
            raise invalid(at, f"{at}: a constraint needs the name of a label")
    for index, affinity in enumerate(placement.affinities):
        _check_affinity(affinity, f"{path}.affinities[{index}]")
    if len(placement.affinities) > _AFFINITIES_MAX:
        raise invalid(f"{path}.affinities", f"{path}.affinities: at most {_AFFINITIES_MAX}")
    if placement.fence_after_s and not placement.singleton:
        raise invalid(f"{path}.fence_after", f"{path}.fence_after: only a singleton is fenced; this is none")
    total = 1 if placement.singleton else placement.total
    per_region = 0 if total or kind == "daemon" else placement.per_region or 1
    lost_after_s = _seconds(placement.lost_after_s, f"{path}.lost_after", 30.0, least=3.0)
    return replace(placement, total=total, per_region=per_region, lost_after_s=lost_after_s)


def _check_affinity(affinity: Affinity, at: str) -> None:
    if bool(affinity.label) == bool(affinity.app):
        raise invalid(at, f"{at}: give either the name of a label or an app")
    if affinity.app:
        check_id(affinity.app, f"{at}.app", APP_ID_LENGTH_MAX)
    if affinity.app and affinity.values:
        raise invalid(f"{at}.values", f"{at}.values: values belong to a label; an app has none")
    if not 1 <= abs(affinity.weight) <= _WEIGHT_OF_AFFINITY_MAX:
        most = _WEIGHT_OF_AFFINITY_MAX
        raise invalid(f"{at}.weight", f"{at}.weight: {affinity.weight} must be from -{most} to {most}, and not 0")


def _fenced(placement: Placement, manifest: Manifest) -> Placement:
    """A singleton's placement with its fence, and with a `lost_after` after which its former node has stopped it."""
    if not placement.singleton:
        return placement
    default_s = max(_FENCE_AFTER_S_MIN, min(10.0, placement.lost_after_s / 3))
    at = "manifest.placement.fence_after"
    fence_after_s = _seconds(placement.fence_after_s, at, default_s, least=_FENCE_AFTER_S_MIN, most=3600.0)
    stop_s = (manifest.rollout.drain_s or _DRAIN_S) + (manifest.stop_timeout_s or _STOP_TIMEOUT_S)
    surely_s = (fence_after_s + stop_s) * (1 + CLOCK_DRIFT) + FENCE_MARGIN_S
    return replace(placement, fence_after_s=fence_after_s, lost_after_s=max(placement.lost_after_s, surely_s))


def _complete_rollout(policy: RolloutPolicy, manifest: Manifest, around: Surroundings) -> RolloutPolicy:
    path = "manifest.rollout"
    placement = manifest.placement
    strategy.check(policy, placement)
    _check_regions(policy.canary_regions, f"{path}.canary_regions", around)
    named: list[str] = []
    for index, wave in enumerate(policy.waves):
        at = f"{path}.waves[{index}]"
        if not wave.regions:
            raise invalid(f"{at}.regions", f"{at}.regions: a wave needs regions")
        _check_regions(wave.regions, f"{at}.regions", around)
        again = next((region for region in wave.regions if region in named), None)
        if again is not None:
            raise invalid(f"{at}.regions", f"{at}.regions: {again!r} is in an earlier wave already")
        named.extend(wave.regions)
        _seconds(wave.bake_s, f"{at}.bake", 0.0)
    healthy_for_s = _seconds(policy.healthy_for_s, f"{path}.healthy_for", 1.0, most=3600.0)
    health_deadline_s = _seconds(policy.health_deadline_s, f"{path}.health_deadline", 60.0, least=1.0)
    if healthy_for_s >= health_deadline_s:
        at = f"{path}.health_deadline"
        raise invalid(at, f"{at}: {health_deadline_s:g}s must be longer than healthy_for, {healthy_for_s:g}s")
    is_canary = policy.strategy == "canary"
    # Where the new replica needs what the old one has, the old one goes first.
    beside = policy.strategy == "blue-green"
    makes_room = any(port.host_port for port in manifest.ports) and not policy.max_surge and not beside
    by_share = policy.canary_percent or policy.canary_regions
    return replace(
        policy,
        canary_replicas=policy.canary_replicas or int(is_canary and not by_share),
        canary_bake_s=_seconds(policy.canary_bake_s, f"{path}.canary_bake", 30.0 if is_canary else 0.0),
        hold_s=_seconds(policy.hold_s, f"{path}.hold", 60.0 if beside else 0.0),
        max_surge=0 if placement.singleton else policy.max_surge,
        max_unavailable=1 if placement.singleton else policy.max_unavailable or int(makes_room),
        healthy_for_s=healthy_for_s,
        health_deadline_s=health_deadline_s,
        progress_deadline_s=_seconds(policy.progress_deadline_s, f"{path}.progress_deadline", 600.0, least=1.0),
        prefetch_deadline_s=_seconds(policy.prefetch_deadline_s, f"{path}.prefetch_deadline", 300.0, least=1.0),
        drain_s=_seconds(policy.drain_s, f"{path}.drain", _DRAIN_S, most=600.0),
    )


def _complete_hostnames(manifest: Manifest, ports: tuple[Port, ...], around: Surroundings) -> tuple[str, ...]:
    result: list[str] = []
    for index, given in enumerate(manifest.hostnames):
        path = f"manifest.hostnames[{index}]"
        hostname = check_hostname(given, path)
        if hostname in result:
            raise invalid(path, f"{path}: {hostname} is listed twice")
        owner = around.hostname_owners.get(hostname, manifest.name)
        if owner != manifest.name:
            message = f"{path}: {hostname} belongs to apps/{owner}; a hostname has one app"
            raise invalid(path, message, "HOSTNAME_TAKEN")
        result.append(hostname)
    if result and not any(port.protocol == "http" for port in ports[:1]):
        raise invalid("manifest.hostnames", "manifest.hostnames: the first port must speak HTTP to be served by name")
    return tuple(result)


def _complete_routing(routing: Routing, around: Surroundings) -> Routing:
    _check_regions(routing.order, "manifest.routing.order", around)
    if routing.policy == "failover" and not routing.order:
        at = "manifest.routing.order"
        raise invalid(at, f"{at}: failover needs the order of regions, most wanted first")
    _check_weights(routing, around)
    _check_geo(routing, around)
    check_filters(routing)
    return replace(routing, ttl_s=_seconds(routing.ttl_s, "manifest.routing.ttl", 5.0, least=1.0, most=86_400.0))


def _complete_limits(limits: Limits) -> Limits:
    if 0 < limits.memory_bytes < 6 << 20:
        at = "manifest.resources.memory_bytes"
        raise invalid(at, f"{at}: {limits.memory_bytes} is too little; Docker needs 6 MiB (6291456) or more")
    return replace(limits, pids=limits.pids or 1024)


def _check_weights(routing: Routing, around: Surroundings) -> None:
    path = "manifest.routing.weights"
    _check_regions([region for region, _ in routing.weights], path, around)
    if routing.weights and not routing.uses("weighted"):
        raise invalid(path, f"{path}: only policy and filter weighted go by weight; this is {routing.policy}")
    if any(weight > _WEIGHT_MAX for _, weight in routing.weights):
        raise invalid(path, f"{path}: a weight is at most {_WEIGHT_MAX}")


def _check_geo(routing: Routing, around: Surroundings) -> None:
    path = "manifest.routing.geo"
    if bool(routing.geo) != routing.uses("geo"):
        rule = "policy and filter geo need rules, and nothing else has them"
        raise invalid(path, f"{path}: {rule}; this is {routing.policy}")
    for index, (places, regions) in enumerate(routing.geo):
        at = f"{path}[{index}]"
        _check_regions(regions, f"{at}.regions", around)
        if not places or not regions:
            raise invalid(at, f"{at}: a rule names places and the regions that serve them")
        wrong = next((place for place in places if not _PLACE.fullmatch(place)), None)
        if wrong is not None:
            known = "a country as in DE, a subdivision as in US-CA, a continent as in continent:EU, and *"
            message = f"{at}.places: {wrong!r} is no place; known are {known}"
            raise invalid(f"{at}.places", message)
