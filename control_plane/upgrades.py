"""Upgrades of the fleet's agents: what is seen of the hosts, and each upgrade's next step in the store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from control_plane import decode
from control_plane.core.model import Condition
from control_plane.core.upgrade import BAKE_S, DEADLINE_S, TERMINAL, Host, Plan, State, Upgrade, Wave, pending, step
from control_plane.observed import Observed
from control_plane.state import Batch
from control_plane.state import State as Store
from fleet.ids import last_part
from locci.v1 import event_pb2, node_pb2, resource_pb2, upgrade_pb2

LOOK_S: Final = 0.5
"""Least time between two looks at the hosts of an upgrade: each is over the whole fleet."""
_NAMED_IN_REASON: Final = 5
_EDGE: Final = node_pb2.NODE_ROLE_EDGE
_STATES: Final = {
    State.RUNNING: upgrade_pb2.Upgrade.STATE_RUNNING,
    State.PAUSED: upgrade_pb2.Upgrade.STATE_PAUSED,
    State.SUCCEEDED: upgrade_pb2.Upgrade.STATE_SUCCEEDED,
    State.FAILED: upgrade_pb2.Upgrade.STATE_FAILED,
    State.ABORTED: upgrade_pb2.Upgrade.STATE_ABORTED,
}
_STATE_OF: Final = {number: state for state, number in _STATES.items()}
_SEVERITIES: Final = {State.FAILED: event_pb2.SEVERITY_ERROR, State.ABORTED: event_pb2.SEVERITY_WARNING}
_AGENT_EVENTS: Final = {
    node_pb2.AgentUpgrade.STATE_NOT_INSTALLED: ("AgentVersionNotInstalled", "cannot be installed so far"),
    node_pb2.AgentUpgrade.STATE_TRIED: ("AgentVersionTried", "is tried"),
    node_pb2.AgentUpgrade.STATE_STAYED: ("AgentVersionStayed", "runs and stays"),
    node_pb2.AgentUpgrade.STATE_TAKEN_BACK: ("AgentVersionTakenBack", "was taken back"),
}
_AGENT_SEVERITIES: Final = {
    node_pb2.AgentUpgrade.STATE_NOT_INSTALLED: event_pb2.SEVERITY_WARNING,
    node_pb2.AgentUpgrade.STATE_TAKEN_BACK: event_pb2.SEVERITY_ERROR,
}


def under_way(state: Store) -> upgrade_pb2.Upgrade | None:
    """The upgrade that has not ended; there is one at most."""
    return next((row for row in state.upgrades.values() if _STATE_OF[row.state] not in TERMINAL), None)


def upgrade_of(row: upgrade_pb2.Upgrade) -> Upgrade:
    """A stored upgrade as the core sees it."""
    plan = Plan(
        version=row.version,
        waves=tuple(
            Wave(frozenset(last_part(region) for region in wave.regions), wave.percent, wave.nodes)
            for wave in row.waves
        ),
        bake_s=decode.span_s(row.bake) if row.HasField("bake") else BAKE_S,
        deadline_s=decode.span_s(row.node_deadline) if row.HasField("node_deadline") else DEADLINE_S,
        failures_max=row.failures_max,
    )
    return Upgrade(
        plan=plan,
        state=_STATE_OF[row.state],
        reason=row.reason,
        waves_begun=row.waves_begun,
        named={last_part(told.node): decode.seconds_of(told.named_time) for told in row.nodes},
        failures={last_part(told.node): told.failure for told in row.nodes if told.failure},
        since=decode.seconds_of(row.since_time),
        good_since=decode.seconds_of(row.good_time) if row.HasField("good_time") else None,
    )


def hosts_of(state: Store, observed: Observed, row: upgrade_pb2.Upgrade) -> list[Host]:
    """Every host with an agent, as an upgrade sees it."""
    before = {told.node: told.version_before for told in row.nodes}
    return [_host(node, observed, row, before) for node in state.nodes.values() if _EDGE in node.roles]


def _host(node: node_pb2.Node, observed: Observed, row: upgrade_pb2.Upgrade, before: dict[str, str]) -> Host:
    node_id, said = last_part(node.name), node.agent_upgrade
    facts = observed.session(node_id, _EDGE)
    stayed = said.version == row.version and said.state == node_pb2.AgentUpgrade.STATE_STAYED
    gave_up = said.request == row.name and said.state == node_pb2.AgentUpgrade.STATE_TAKEN_BACK
    return Host(
        name=node_id,
        region=last_part(node.region),
        version=version_of(node),
        ready=facts.connected and decode.condition_of(node) is Condition.READY,
        follows=facts.takes_versions,
        trying=node.name in before and before[node.name] != row.version and not stayed,
        failure=f"{row.version} was taken back: {said.reason}" if gave_up else "",
        progress=said.reason if said.request == row.name else "",
    )


def version_of(node: node_pb2.Node) -> str:
    """What a node's agent ran when it connected last."""
    return next((session.program_version for session in node.sessions if session.role == _EDGE), "")


def named_for(node: node_pb2.Node | None) -> tuple[str, ...]:
    """What, besides the regions' own versions, decides which version a node is to run."""
    return (node.region, node.wanted_agent_version, node.wanted_by) if node is not None else ()


def wanted_version(state: Store, node: node_pb2.Node | None) -> Iterator[resource_pb2.Resource]:
    """Which agent a node is to run: what an upgrade named for it, else what its region names; nothing leaves it be."""
    region = state.regions.get(node.region) if node is not None else None
    if node is None or region is None:
        return
    version = node.wanted_agent_version or region.agent_version
    if version:
        body = resource_pb2.AgentVersion(version=version, request=node.wanted_by)
        yield resource_pb2.Resource(name=f"agentversions/{last_part(region.name)}", agent_version=body)


def shown(state: Store, observed: Observed, row: upgrade_pb2.Upgrade) -> upgrade_pb2.Upgrade:
    """A stored upgrade with what follows from the hosts as they are now."""
    result = upgrade_pb2.Upgrade()
    result.CopyFrom(row)
    hosts = hosts_of(state, observed, row)
    result.fleet_nodes = sum(1 for host in hosts if host.follows)
    result.running_nodes = sum(1 for host in hosts if host.version == row.version and host.ready and host.follows)
    waiting = pending(upgrade_of(row), hosts) if row.state == upgrade_pb2.Upgrade.STATE_RUNNING else []
    if waiting:
        names = [f"{host.name} ({host.progress or _stands(host)})" for host in waiting[:_NAMED_IN_REASON]]
        more = f" and {len(waiting) - len(names)} more" if len(waiting) > len(names) else ""
        result.reason = f"{row.reason}; it waits for {', '.join(names)}{more}"
    return result


def _stands(host: Host) -> str:
    return f"runs {host.version or 'no known version'}" if host.ready else "not connected and in order"


def put(state: Store, batch: Batch, row: upgrade_pb2.Upgrade, after: Upgrade, now: float, who: str = "") -> None:
    """Keeps an upgrade's step, tells the nodes that it names, and says what turned. `who` acted, if anybody did."""
    before, kept = upgrade_of(row), upgrade_pb2.Upgrade()
    kept.CopyFrom(row)
    kept.state, kept.reason, kept.waves_begun = _STATES[after.state], after.reason, after.waves_begun
    kept.since_time.CopyFrom(decode.timestamp(after.since))
    kept.ClearField("good_time")
    if after.good_since is not None:
        kept.good_time.CopyFrom(decode.timestamp(after.good_since))
    for told in kept.nodes:
        told.failure = after.failures.get(last_part(told.node), "")
    fresh = [f"nodes/{name}" for name in after.named if name not in before.named]
    for name in fresh:
        node = state.nodes.copy(name)
        told = kept.nodes.add(node=name, version_before=version_of(node))
        told.named_time.CopyFrom(decode.timestamp(now))
        node.wanted_agent_version, node.wanted_by = row.version, row.name
        batch.put(state.nodes, name, node)
    if after.state in TERMINAL:
        kept.end_time.CopyFrom(decode.timestamp(now))
    if after.state is State.SUCCEEDED:
        _settle(state, batch, row.version)
    batch.put(state.upgrades, kept.name, kept)
    _tell(batch, kept, before, after, fresh, who)


def _tell(batch: Batch, row: upgrade_pb2.Upgrade, before: Upgrade, after: Upgrade, fresh: list[str], who: str) -> None:
    by = f" ({who})" if who else ""
    for name, why in after.failures.items():
        if name not in before.failures:
            message = f"{row.name}: node {name}: {why}"
            batch.event("UpgradeNodeFailed", message, f"nodes/{name}", row.name, severity=event_pb2.SEVERITY_ERROR)
    if after.waves_begun > before.waves_begun:
        message = f"{row.name} to {row.version}: wave {after.waves_begun} begins with {len(fresh)} nodes"
        batch.event("UpgradeWaveBegan", message, row.name, *fresh[:_NAMED_IN_REASON])
    if after.state is not before.state:
        kind = "UpgradeResumed" if after.state is State.RUNNING else f"Upgrade{after.state.value.capitalize()}"
        message = f"{row.name} to {row.version} is {after.state.value}{by}: {after.reason}"
        batch.event(kind, message, row.name, severity=_SEVERITIES.get(after.state, event_pb2.SEVERITY_INFO))


def _settle(state: Store, batch: Batch, version: str) -> None:
    """Every region names the version from now on: nodes that were away, and those that join, follow."""
    for region in state.regions.values():
        if region.agent_version != version:
            row = state.regions.copy(region.name)
            row.agent_version = version
            batch.put(state.regions, row.name, row)
    forget_names(state, batch, state.nodes.values())


def forget_names(state: Store, batch: Batch, nodes: Iterable[node_pb2.Node]) -> None:
    """What upgrades named for nodes counts no more: their regions' version does."""
    for node in nodes:
        if node.wanted_by:
            row = state.nodes.copy(node.name)
            row.ClearField("wanted_agent_version")
            row.ClearField("wanted_by")
            batch.put(state.nodes, row.name, row)


class UpgradeSteps:
    """Looks at the upgrade that goes on, and keeps what agents say of the versions that they were told to run."""

    def __init__(self, state: Store, observed: Observed):
        self._state = state
        self._observed = observed
        self._looked_at = 0.0

    def step(self, batch: Batch, now: float) -> None:
        """Takes the next step. Nothing else may be in the batch: it writes whole nodes."""
        self._note_agents(batch)
        if batch or now - self._looked_at < LOOK_S or now < self._observed.judged_from:
            return
        row = under_way(self._state)
        if row is None:
            return
        self._looked_at = now
        before = upgrade_of(row)
        hosts = hosts_of(self._state, self._observed, row)
        after = step(before, hosts, now, braked=self._observed.brake.engaged)
        if after != before:
            put(self._state, batch, row, after, now)

    def _note_agents(self, batch: Batch) -> None:
        for node_id in list(self._observed.agents_said):
            node = self._state.nodes.get(f"nodes/{node_id}")
            said = self._observed.session(node_id, _EDGE).agent_upgrade
            if node is None or node.agent_upgrade == said:
                self._observed.agents_said.discard(node_id)
                continue
            row = self._state.nodes.copy(node.name)
            row.agent_upgrade.CopyFrom(said)
            batch.put(self._state.nodes, row.name, row)
            if said.state in _AGENT_EVENTS:
                kind, words = _AGENT_EVENTS[said.state]
                why = f": {said.reason}" if said.reason else ""
                message = f"node {node_id}: agent version {said.version} {words}{why}"
                severity = _AGENT_SEVERITIES.get(said.state, event_pb2.SEVERITY_INFO)
                batch.event(kind, message, node.name, node.region, severity=severity)
