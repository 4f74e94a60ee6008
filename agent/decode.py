"""From an accepted snapshot to the agent's own nouns, and what there is to say against a snapshot."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from google.protobuf import duration_pb2

from agent import decode_options
from agent.adapters.wanted_version import VERSION
from agent.core.model import (
    DRAIN_DEFAULT_S,
    STOP_TIMEOUT_DEFAULT_S,
    Certificate,
    HeldImage,
    Identity,
    Peer,
    Probe,
    Replica,
    Route,
    Target,
)
from agent.core.options import Options
from agent.core.policy import DEFAULT_POLICY, LocalPolicy, violations
from fleet.errors import LocciError
from fleet.ids import APP_ID_LENGTH_MAX, check_hostname, check_id
from fleet.snapshot import Snapshot
from locci.v1 import agent_pb2, manifest_pb2, resource_pb2

RESOURCE_TYPES: Final = (
    "agentversions",
    "certificates",
    "drillclients",
    "faults",
    "images",
    "mirrors",
    "registries",
    "replicas",
    "revocations",
    "routes",
    "secrets",
)
"""The types of resources that an agent asks for."""

MEMORY_BYTES_MIN: Final = 6 * 2**20
"""Docker Engine refuses less."""
DURATION_S_MAX: Final = 3600.0
RESOURCES_MAX: Final = 10_000

SecretValues = Mapping[tuple[str, int], bytes]

_IMAGE = re.compile(
    r"(?P<host>[A-Za-z0-9.-]+(?::\d{1,5})?|\[[0-9a-fA-F:]+\](?::\d{1,5})?)"
    r"/(?P<repository>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)"
    r"@sha256:[0-9a-f]{64}"
)
_HOST = re.compile(r"[A-Za-z0-9.-]+(?::\d{1,5})?|\[[0-9a-fA-F:]+\](?::\d{1,5})?")
_SPEC_HASH = re.compile(r"[A-Za-z0-9:_.-]{1,128}")
_PEER_ADDRESS = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\]):(?P<port>\d{1,5})")
_ENV_NAME = re.compile(r"[^=\0]+")
_REQUEST = re.compile(r"(?:upgrades/\d{1,12})?")
_CONTROL = re.compile(r"[\x00-\x20\x7f]")


def problems(snapshot: Snapshot, policy: LocalPolicy = DEFAULT_POLICY) -> list[agent_pb2.ResourceProblem]:
    """What an agent cannot accept, resource by resource; empty when it can hold everything."""
    if len(snapshot.resources) > RESOURCES_MAX:
        message = f"{len(snapshot.resources)} resources are more than the {RESOURCES_MAX} that a node can hold"
        return [agent_pb2.ResourceProblem(message=message)]
    values = _secret_values(snapshot)
    found = [
        agent_pb2.ResourceProblem(name=name, message=message)
        for name, resource in sorted(snapshot.resources.items())
        for message in _resource_problems(name, resource, policy, values)
    ]
    return found + list(_duplicates(snapshot))


def target(snapshot: Snapshot) -> Target:
    """What the node must hold. The snapshot has no problems."""
    values = _secret_values(snapshot)
    replicas = (_replica(r, values) for r in snapshot.resources.values() if r.WhichOneof("body") == "replica")
    routes = (_route(r.route) for r in snapshot.resources.values() if r.WhichOneof("body") == "route")
    versions = list(snapshot.of_type("agentversions").values())
    wanted_agent = versions[0].agent_version if versions else resource_pb2.AgentVersion()
    return Target(
        revision=snapshot.revision,
        replicas={replica.identity: replica for replica in replicas},
        routes=tuple(sorted(routes, key=lambda route: route.app)),
        certificates=tuple(_certificates(snapshot)),
        images=tuple(
            HeldImage(name, resource.version, resource.image.image)
            for name, resource in sorted(snapshot.of_type("images").items())
        ),
        agent_version=wanted_agent.version,
        agent_request=wanted_agent.request,
        revoked=tuple(sorted(r.revoked_node.node for r in snapshot.of_type("revocations").values())),
    )


def logins(snapshot: Snapshot) -> dict[str, tuple[str, str]]:
    """By host of a registry, user name and password."""
    found = (resource.registry_login for resource in snapshot.of_type("registries").values())
    return {login.host: (login.username, login.password) for login in found}


def mirrors(snapshot: Snapshot) -> dict[str, tuple[str, ...]]:
    """By host of a registry, hosts with the same content."""
    found = (resource.registry_mirrors for resource in snapshot.of_type("mirrors").values())
    return {one.host: tuple(one.mirrors) for one in found}


def resource_types(policy: LocalPolicy, *, supervised: bool = True) -> tuple[str, ...]:
    """What the node asks for: nothing of drills when its policy forbids them, no version when none could be changed."""
    unwanted = {"drillclients", "faults"} if not policy.drills else set()
    return tuple(kind for kind in RESOURCE_TYPES if kind not in unwanted and (supervised or kind != "agentversions"))


# ---- what is wrong


def _resource_problems(
    name: str, resource: resource_pb2.Resource, policy: LocalPolicy, values: SecretValues
) -> Iterator[str]:
    if name != resource.name:
        yield f"its own name is {resource.name!r}"
    match resource.WhichOneof("body"):
        case "replica":
            yield from _replica_problems(name, resource.replica)
            secret_problems = list(decode_options.secret_problems(resource.replica, values))
            yield from secret_problems
            if not secret_problems:
                options = decode_options.options(resource.replica, values)
                yield from violations(policy, resource.replica.image, options)
        case "route":
            yield from _route_problems(name, resource.route)
        case "secret":
            expected = f"secrets/{resource.secret.secret}/{resource.secret.version}"
            if name != expected:
                yield f"its content belongs to {expected}"
        case "certificate":
            yield from _certificate_problems(name, resource.certificate)
        case "fault" | "drill_client":
            return  # A fault that this host does not do is refused for itself alone (decode_faults).
        case "agent_version":
            if not VERSION.fullmatch(resource.agent_version.version):
                yield f"version: {resource.agent_version.version!r} is no version"
            if not _REQUEST.fullmatch(resource.agent_version.request):
                yield f"request: {resource.agent_version.request!r} is no upgrade such as upgrades/3"
        case "registry_mirrors":
            for host in (resource.registry_mirrors.host, *resource.registry_mirrors.mirrors):
                if not _HOST.fullmatch(host):
                    yield f"host: {host!r} is no registry"
        case "registry_login":
            if not (_HOST.fullmatch(resource.registry_login.host) and resource.registry_login.username):
                yield f"host: {resource.registry_login.host!r} is no registry, or there is no user name"
        case "revoked_node":
            if name != f"revocations/{resource.revoked_node.node}":
                yield f"its content belongs to revocations/{resource.revoked_node.node}"
        case "image":
            if not _IMAGE.fullmatch(resource.image.image):
                yield f"image: {resource.image.image!r} is not an image by digest"
            yield from violations(policy, resource.image.image, Options())
        case "region":
            return
        case None:
            yield "this agent does not know this type of resource: upgrade it"
        case other:
            yield f"a {other} is nothing for an agent"


def _replica_problems(name: str, spec: resource_pb2.ReplicaSpec) -> Iterator[str]:
    yield from _wrong(lambda: check_id(spec.app, "app", APP_ID_LENGTH_MAX))
    expected = f"replicas/{spec.app}/{spec.ordinal}/{spec.release}"
    if name != expected:
        yield f"its content belongs to {expected}"
    if spec.release < 1:
        yield "release: releases are numbered from 1"
    if not spec.spec_hash:
        yield "spec_hash: is missing, so its container could not be told from others"
    elif not _SPEC_HASH.fullmatch(spec.spec_hash):
        yield f"spec_hash: {spec.spec_hash!r} cannot be a label"
    if not _IMAGE.fullmatch(spec.image):
        yield f"image: {spec.image!r} is not of the form host[:port]/repository@sha256:<64 hexadecimal digits>"
    if 0 < spec.resources.memory_bytes < MEMORY_BYTES_MIN:
        limit = spec.resources.memory_bytes
        yield f"resources.memory_bytes: {limit} is less than the engine's least, {MEMORY_BYTES_MIN}"
    for key, value in spec.env.items():
        if not _ENV_NAME.fullmatch(key) or "\0" in value:
            yield f"env: {key!r} is no name of an environment variable, or its value holds a zero byte"
    for part in (*spec.command, *spec.args):
        if "\0" in part:
            yield f"command, args: {part!r} holds a zero byte"
    yield from decode_options.problems(spec)
    yield from _port_problems(spec)
    yield from _probe_problems("readiness", spec, spec.readiness)
    yield from _probe_problems("liveness", spec, spec.liveness)
    for field in ("stop_timeout", "drain", "fence_after"):
        yield from _duration_problems(field, span_s(getattr(spec, field)))


def _port_problems(spec: resource_pb2.ReplicaSpec) -> Iterator[str]:
    for index, port in enumerate(spec.ports):
        if not 1 <= port.container_port <= 65535:
            yield f"ports[{index}].container_port: {port.container_port} is not from 1 to 65535"
        if port.host_port > 65535:
            yield f"ports[{index}].host_port: {port.host_port} is not from 1 to 65535"
    for port_name, count in Counter(port.name or "http" for port in spec.ports).items():
        if count > 1:
            yield f"ports: {count} ports have the name {port_name!r}"


def _probe_problems(field: str, spec: resource_pb2.ReplicaSpec, probe: manifest_pb2.Probe) -> Iterator[str]:
    method = probe.WhichOneof("method") if spec.HasField(field) else None  # type: ignore[arg-type]
    if not spec.HasField(field):  # type: ignore[arg-type]
        return
    if method == "exec":
        yield from _command_problems(f"{field}.exec.command", probe.exec.command)
    elif not spec.ports:
        yield f"{field}: there is no port to probe"
    port_name = getattr(probe, method).port if method and method != "exec" else ""
    if port_name and port_name not in {port.name or "http" for port in spec.ports}:
        yield f"{field}: no port has the name {port_name!r}"
    if method == "http":
        path, host = probe.http.path or "/", probe.http.host
        if not path.startswith("/") or _CONTROL.search(path) or not path.isascii():
            yield f"{field}.http.path: {path!r} must begin with '/' and hold neither spaces nor control characters"
        if _CONTROL.search(host) or not host.isascii():
            yield f"{field}.http.host: {host!r} is no host name"
    for part in ("interval", "timeout", "start_period"):
        yield from _duration_problems(f"{field}.{part}", span_s(getattr(probe, part)))


def _command_problems(field: str, command: Sequence[str]) -> Iterator[str]:
    if not command or not command[0]:
        yield f"{field}: there is no command"
    if any("\0" in part for part in command):
        yield f"{field}: holds a zero byte"


def _duration_problems(field: str, seconds: float) -> Iterator[str]:
    if not 0 <= seconds <= DURATION_S_MAX:
        yield f"{field}: {seconds:g} s is not from 0 to {DURATION_S_MAX:g} s"


def _route_problems(name: str, route: resource_pb2.AppRoute) -> Iterator[str]:
    yield from _wrong(lambda: check_id(route.app, "app", APP_ID_LENGTH_MAX))
    if name != f"routes/{route.app}":
        yield f"its content belongs to routes/{route.app}"
    for hostname in route.hostnames:
        yield from _wrong(lambda hostname=hostname: check_hostname(hostname, "hostnames"))  # type: ignore[misc]
    for peer in (*route.peers, *route.shield):
        match = _PEER_ADDRESS.fullmatch(peer.address)
        if match is None or not 1 <= int(match["port"]) <= 65535:
            yield f"peers: {peer.address!r} is not of the form address:port"


def _certificate_problems(name: str, material: resource_pb2.CertificateMaterial) -> Iterator[str]:
    if name != f"certificates/{material.certificate}":
        yield f"its content belongs to certificates/{material.certificate}"
    for hostname in material.hostnames:
        yield from _wrong(
            lambda hostname=hostname: check_hostname(hostname.removeprefix("*."), "hostnames")  # type: ignore[misc]
        )
    if "-----BEGIN CERTIFICATE-----" not in material.chain_pem or "PRIVATE KEY-----" not in material.private_key_pem:
        yield "it lacks the chain or the private key"


def _wrong(check: Callable[[], str]) -> Iterator[str]:
    try:
        check()
    except LocciError as error:
        yield error.message


def _duplicates(snapshot: Snapshot) -> Iterator[agent_pb2.ResourceProblem]:
    """Two resources that want the same container, or the same host name."""
    owners: dict[object, str] = {}
    for name, resource in sorted(snapshot.resources.items()):
        spec, route = resource.replica, resource.route
        keys: list[tuple[object, str]] = []
        if resource.WhichOneof("body") == "replica":
            keys = [(Identity(spec.app, spec.ordinal, spec.spec_hash), "container")]
        elif resource.WhichOneof("body") == "route":
            keys = [(hostname.lower(), f"host name {hostname}") for hostname in route.hostnames]
        for key, what in keys:
            owner = owners.setdefault(key, name)
            if owner != name:
                yield agent_pb2.ResourceProblem(name=name, message=f"{owner} claims the same {what}")


# ---- what is meant


def _secret_values(snapshot: Snapshot) -> SecretValues:
    secrets = (r.secret for r in snapshot.resources.values() if r.WhichOneof("body") == "secret")
    return {(secret.secret, secret.version): secret.value for secret in secrets}


def _replica(resource: resource_pb2.Resource, values: SecretValues) -> Replica:
    spec = resource.replica
    readiness = _probe(spec, spec.readiness) if spec.HasField("readiness") else None
    if readiness is None and spec.ports:
        readiness = Probe("tcp", spec.ports[0].container_port)
    return Replica(
        resource=resource.name,
        version=resource.version,
        app=spec.app,
        ordinal=spec.ordinal,
        release=spec.release,
        spec_hash=spec.spec_hash,
        image=spec.image,
        command=tuple(spec.command),
        args=tuple(spec.args),
        env=tuple(sorted(spec.env.items())),
        ports=tuple(port.container_port for port in spec.ports),
        speaks_http=bool(spec.ports) and spec.ports[0].protocol != manifest_pb2.PORT_PROTOCOL_TCP,
        readiness=readiness,
        liveness=_probe(spec, spec.liveness) if spec.HasField("liveness") else None,
        cpu_millis=spec.resources.cpu_millis,
        memory_bytes=spec.resources.memory_bytes,
        pids=spec.resources.pids,
        stop_timeout_s=_seconds(spec.stop_timeout, STOP_TIMEOUT_DEFAULT_S),
        drain_s=_seconds(spec.drain, DRAIN_DEFAULT_S),
        options=decode_options.options(spec, values),
        fence_after_s=span_s(spec.fence_after),
        host_ports=tuple((port.container_port, port.host_port) for port in spec.ports if port.host_port),
    )


def _probe(spec: resource_pb2.ReplicaSpec, probe: manifest_pb2.Probe) -> Probe:
    method = probe.WhichOneof("method") or "tcp"
    name = "" if method == "exec" else getattr(probe, method).port
    port = next((p.container_port for p in spec.ports if name in ("", p.name or "http")), 0)
    return Probe(
        kind=method,
        port=port,
        path=probe.http.path or "/",
        host=probe.http.host or spec.app,
        service=probe.grpc.service,
        command=tuple(probe.exec.command),
        interval_s=_seconds(probe.interval, 2.0),
        timeout_s=_seconds(probe.timeout, 1.0),
        start_period_s=_seconds(probe.start_period, 0.0),
        healthy_after=probe.healthy_after or 1,
        unhealthy_after=probe.unhealthy_after or 3,
    )


def _certificates(snapshot: Snapshot) -> Iterator[Certificate]:
    for _, resource in sorted(snapshot.resources.items()):
        if resource.WhichOneof("body") == "certificate":
            found = resource.certificate
            names = tuple(name.lower() for name in found.hostnames)
            until = found.expire_time.seconds
            yield Certificate(found.certificate, names, found.chain_pem, found.private_key_pem, until)


def _seconds(duration: duration_pb2.Duration, default_s: float) -> float:
    return span_s(duration) or default_s


def span_s(duration: duration_pb2.Duration) -> float:
    """Seconds, of any duration that the wire can carry."""
    return duration.seconds + duration.nanos / 1e9


def _peers(found: Iterable[resource_pb2.PeerEndpoint]) -> tuple[Peer, ...]:
    return tuple(Peer(peer.region, peer.node, peer.address, peer.healthy_replicas) for peer in found)


def _route(route: resource_pb2.AppRoute) -> Route:
    return Route(
        app=route.app,
        hostnames=tuple(hostname.lower() for hostname in route.hostnames),
        cache_disabled=route.cache.disabled,
        cache_object_bytes_max=route.cache.max_object_bytes,
        cache_policy=route.cache.SerializeToString(deterministic=True),
        purges=route.purges.SerializeToString(deterministic=True),
        proofs=route.proofs.SerializeToString(deterministic=True),
        balancing=route.balancing.SerializeToString(deterministic=True),
        http=route.http.SerializeToString(deterministic=True),
        maintenance=route.maintenance,
        peers=_peers(route.peers),
        shield=_peers(route.shield),
        redirect=route.tls.redirect,
        hsts_s=max(0, route.tls.hsts.seconds),
        only_spec_hash=route.only_spec_hash,
    )
