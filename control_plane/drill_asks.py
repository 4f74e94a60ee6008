"""What hosts are asked to do for a run: faults to inject, by step, and clients to be."""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Final

from control_plane import decode
from control_plane.core.image import DOCKER_HUB, parse_reference
from control_plane.core.model import Condition
from control_plane.drill_spec import (
    BAD_RELEASE,
    SURGE,
    duration_s,
    is_target,
    keeps_from,
    offset_s,
    overlap,
    steps_of,
    targets,
)
from control_plane.observed import Observed
from control_plane.state import State
from fleet.ids import last_part
from locci.v1 import drill_pb2, node_pb2, release_pb2

BEGIN_WITHIN_S: Final = 15.0
_CLIENT_REGIONS_MAX: Final = 20
_TARGET_ASKERS_MAX: Final = 3
_NAME_SERVERS_MAX: Final = 8
_SURGERS_MAX: Final = 8
_ADDRESSES_MAX: Final = 16
_HTTPS_PORT: Final = 443
_DOCKER_HUB_HOSTS: Final = ("registry-1.docker.io", "auth.docker.io", "production.cloudflare.docker.com")


def resource_of(row: drill_pb2.DrillRun, index: int = 0) -> str:
    """Name of the resource by which agents are asked for a step's fault. Agents that know no steps refuse all but the
    first."""
    _, drill, _, number = row.name.split("/")
    return f"faults/{drill}/{number}/{index + 1}" if index else f"faults/{drill}/{number}"


def clients_of(row: drill_pb2.DrillRun) -> str:
    """Name of the resource by which hosts are asked to be clients of a run."""
    _, drill, _, number = row.name.split("/")
    return f"drillclients/{drill}/{number}"


def holders(
    state: State, observed: Observed, spec: drill_pb2.DrillSpec, step: drill_pb2.DrillStep
) -> list[node_pb2.Node]:
    """The nodes whose agents inject a step's fault: its targets, but for a surge hosts elsewhere, and for a bad release
    nobody."""
    if step.fault == BAD_RELEASE:
        return []
    return _surgers(state, observed, spec, step) if step.fault == SURGE else targets(state, step)


def _surgers(
    state: State, observed: Observed, spec: drill_pb2.DrillSpec, surge: drill_pb2.DrillStep
) -> list[node_pb2.Node]:
    """The hosts that send the requests of a surge: some of those of edges that nothing keeps from it meanwhile. The
    same all the while: an earlier step may make a host suspect."""
    busy = [step for step in steps_of(spec) if overlap(step, surge) and keeps_from(step, "agent")]
    return [
        node
        for name, node in sorted(state.nodes.items())
        if node_pb2.NODE_ROLE_EDGE in node.roles
        and decode.condition_of(node) in (Condition.READY, Condition.SUSPECT)
        and not any(is_target(node, step) for step in (surge, *busy))
        and observed.session(last_part(name), node_pb2.NODE_ROLE_EDGE).takes_faults
    ][:_SURGERS_MAX]


def faults_of(
    state: State, observed: Observed, row: drill_pb2.DrillRun
) -> Iterator[tuple[node_pb2.Node, str, drill_pb2.InjectedFault]]:
    """Each node that is asked for a fault, with the resource's name and what it says."""
    for index, step in enumerate(steps_of(row.spec)):
        nodes = holders(state, observed, row.spec, step)
        for node in nodes:
            fault = _injected(state, row, step)
            if step.fault == SURGE:
                fault.requests_per_second = max(1, step.requests_per_second // len(nodes))
            yield node, resource_of(row, index), fault


def _injected(state: State, row: drill_pb2.DrillRun, step: drill_pb2.DrillStep) -> drill_pb2.InjectedFault:
    """What an agent is asked for."""
    fault = drill_pb2.InjectedFault(run=row.name, fault=step.fault, program=step.program)
    fault.duration.CopyFrom(decode.duration(duration_s(step)))
    fault.loss_percent, fault.rate_kbit, fault.ballast_bytes = step.loss_percent, step.rate_kbit, step.ballast_bytes
    for field in ("delay", "clock_offset", "start_offset"):
        if step.HasField(field):
            getattr(fault, field).CopyFrom(getattr(step, field))
    begin_before = decode.seconds_of(row.create_time) + BEGIN_WITHIN_S + offset_s(step)
    fault.begin_before.CopyFrom(decode.timestamp(begin_before))
    if step.fault == drill_pb2.FAULT_KIND_REGISTRY_CUT:
        fault.destinations.extend(registries_of(state, row.spec.hostname))
    if step.fault == SURGE:
        fault.hostname = row.spec.hostname
        addresses = [a for node in targets(state, step) for a in node.addresses if ":" not in a]
        fault.destinations.extend(addresses[:_ADDRESSES_MAX])
    return fault


def apps_of(state: State, hostname: str) -> Iterator[release_pb2.Release]:
    """The releases in effect of the apps with a hostname."""
    for app in state.apps.values():
        release = state.releases.get(app.target_release)
        if release is not None and hostname in release.manifest.hostnames:
            yield release


def registries_of(state: State, hostname: str) -> list[str]:
    """Where the images of a hostname's apps are pulled from, as `host:port`: their registries and those' mirrors."""
    found: dict[str, None] = {}
    for release in apps_of(state, hostname):
        host = parse_reference(release.pinned_image).host
        found |= dict.fromkeys(_DOCKER_HUB_HOSTS if host == DOCKER_HUB else (host,))
        mirrors = (m.host for row in state.registries.values() if row.host == host for m in row.mirrors)
        found |= dict.fromkeys(mirrors)
    return [host if host.rpartition(":")[2].isdecimal() else f"{host}:{_HTTPS_PORT}" for host in found]


def asking(state: State, observed: Observed, row: drill_pb2.DrillRun) -> dict[str, drill_pb2.DrillClient]:
    """By node's name, the clients that hosts are which no step keeps from it: one host in each region, and as many as
    there are at most. Each asks for its own region; the first also for the regions of the targets."""
    hosts: dict[str, node_pb2.Node] = {}
    single = not row.spec.steps
    busy = [step for step in steps_of(row.spec) if single or keeps_from(step, "agent")]
    for name, node in sorted(state.nodes.items()):
        usable = observed.session(last_part(name), node_pb2.NODE_ROLE_EDGE).asks_as_clients
        if usable and not any(is_target(node, step) for step in busy) and _is_ready_edge(node):
            hosts.setdefault(node.region, node)
    servers = [
        next((a for a in node.addresses if ":" not in a), "")
        for node in state.nodes.values()
        if node_pb2.NODE_ROLE_DNS in node.roles
    ]
    asked: dict[str, drill_pb2.DrillClient] = {}
    for node in list(hosts.values())[:_CLIENT_REGIONS_MAX]:
        client = drill_pb2.DrillClient(run=row.name, hostname=row.spec.hostname, resolver=row.spec.resolver)
        client.name_servers.extend(sorted(filter(None, servers))[:_NAME_SERVERS_MAX])
        client.askers.add(region=node.region)
        if not asked:
            for region, address in _target_clients(state, row.spec, hosts.keys()):
                client.askers.add(region=region, address=address)
        asked[node.name] = client
    return asked


def _target_clients(state: State, spec: drill_pb2.DrillSpec, own: Container[str]) -> list[tuple[str, str]]:
    """Regions of the targets, each with an address there: the subnet of a client is an IPv4 one, as the answers
    asked."""
    found: dict[str, str] = {}
    for step in steps_of(spec):
        for target in targets(state, step):
            address = next((a for a in target.addresses if ":" not in a), "")
            if address and target.region not in own:
                found.setdefault(target.region, address)
    return list(found.items())[:_TARGET_ASKERS_MAX]


def _is_ready_edge(node: node_pb2.Node) -> bool:
    return node_pb2.NODE_ROLE_EDGE in node.roles and decode.condition_of(node) is Condition.READY
