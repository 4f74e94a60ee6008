"""Upgrades of the fleet's agents: a version is named wave by wave, each must do well before the next begins.

`step` decides from the hosts as they are, and keeps no script: a control plane that restarts in the middle goes on
where it was. A host that is worse off goes back by itself; this halts, so that no other follows it. Every wait ends: of
a host by its deadline, of a wave by its bake time, of the whole in a terminal state with a reason. Only an operator's
pause has no end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

BAKE_S = 300.0
DEADLINE_S = 900.0


class State(Enum):
    """Where an upgrade stands."""

    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ABORTED = "aborted"


TERMINAL = frozenset({State.SUCCEEDED, State.FAILED, State.ABORTED})


@dataclass(frozen=True, slots=True)
class Wave:
    """Regions, or a share of the fleet with the waves before, or a number of hosts more; one of the three."""

    regions: frozenset[str] = frozenset()
    percent: int = 0
    nodes: int = 0


@dataclass(frozen=True, slots=True)
class Host:
    """A host as it is now. `version` runs on it; `failure` is why its agent gave up on this upgrade's request."""

    name: str
    region: str
    version: str
    ready: bool
    """It is connected and in order."""
    follows: bool = True
    """Its agent can be told a version."""
    trying: bool = False
    """Its agent has not made up its mind on the version that runs."""
    failure: str = ""
    progress: str = ""
    """What its agent says meanwhile."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How to go about it."""

    version: str
    waves: tuple[Wave, ...] = ()
    bake_s: float = BAKE_S
    deadline_s: float = DEADLINE_S
    failures_max: int = 0


@dataclass(frozen=True, slots=True)
class Upgrade:
    """An upgrade in progress: `named` says when each host was told, `failures` why hosts do not run the version."""

    plan: Plan
    state: State = State.RUNNING
    reason: str = ""
    waves_begun: int = 0
    named: Mapping[str, float] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    since: float = 0.0
    """Deadlines count from here at the earliest."""
    good_since: float | None = None
    """Since when all that were named do well."""


def waves_of(plan: Plan, hosts: Sequence[Host]) -> tuple[Wave, ...]:
    """The waves that were asked for; else one host, then region after region."""
    regions = sorted({host.region for host in hosts if host.follows})
    return plan.waves or (Wave(nodes=1), *(Wave(regions=frozenset({region})) for region in regions))


def does_well(host: Host, plan: Plan) -> bool:
    """Whether a host runs the version, for good and in order."""
    return host.version == plan.version and host.ready and not host.trying


def pending(upgrade: Upgrade, hosts: Sequence[Host]) -> list[Host]:
    """Hosts that were named, and neither do well nor have failed."""
    told = (host for host in hosts if host.name in upgrade.named and host.name not in upgrade.failures)
    return [host for host in told if not does_well(host, upgrade.plan)]


def step(upgrade: Upgrade, hosts: Sequence[Host], now: float, *, braked: bool = False) -> Upgrade:
    """The upgrade after a look at the fleet; equal to `upgrade` when nothing changed. `now`: seconds, steady clock.

    With `braked` (most of the fleet went dark at once) nothing is judged and nobody is named. A terminal upgrade, and
    one that is paused, never change here.
    """
    if upgrade.state is not State.RUNNING or braked:
        return upgrade
    upgrade = replace(upgrade, failures={**upgrade.failures, **dict(_failing(upgrade, hosts, now))})
    if len(upgrade.failures) > upgrade.plan.failures_max:
        return _halted(upgrade)
    if pending(upgrade, hosts):
        since = upgrade.since if upgrade.good_since is None else now
        return replace(upgrade, since=since, good_since=None, reason=f"{_wave(upgrade)}: not all do well yet")
    if upgrade.named and upgrade.good_since is None:
        upgrade = replace(upgrade, good_since=now)
    if upgrade.good_since is not None and now < upgrade.good_since + upgrade.plan.bake_s:
        return replace(upgrade, reason=f"{_wave(upgrade)} does well and is watched for {upgrade.plan.bake_s:g} s")
    return _next_wave(upgrade, hosts, now)


def aborted(upgrade: Upgrade, reason: str) -> Upgrade:
    """The upgrade, ended by an operator. Raises ValueError when it has ended already."""
    if upgrade.state in TERMINAL:
        raise ValueError(f"it has {upgrade.state.value} already")
    return replace(upgrade, state=State.ABORTED, reason=f"{reason}; {_extent(upgrade)}")


def paused(upgrade: Upgrade, who: str) -> Upgrade:
    """The upgrade, held. Raises ValueError unless it runs."""
    if upgrade.state is not State.RUNNING:
        raise ValueError(f"it is {upgrade.state.value}, not running")
    return replace(upgrade, state=State.PAUSED, reason=f"{who} holds it; {_extent(upgrade)}")


def resumed(upgrade: Upgrade, now: float) -> Upgrade:
    """The upgrade, let go on: deadlines and the bake time begin anew. Raises ValueError unless it is paused."""
    if upgrade.state is not State.PAUSED:
        raise ValueError(f"it is {upgrade.state.value}, not paused")
    return replace(upgrade, state=State.RUNNING, since=now, good_since=None, reason=f"{_wave(upgrade)} goes on")


def _failing(upgrade: Upgrade, hosts: Sequence[Host], now: float) -> Iterator[tuple[str, str]]:
    plan = upgrade.plan
    for host in pending(upgrade, hosts):
        told_at = upgrade.named[host.name]
        since = max(told_at, upgrade.since if upgrade.good_since is None else now)
        if host.failure:
            yield host.name, host.failure
        elif now - since > plan.deadline_s:
            yield host.name, f"{_where(host, plan)} within {plan.deadline_s:g} s"


def _where(host: Host, plan: Plan) -> str:
    if host.version == plan.version:
        return "its agent had not made up its mind" if host.ready else "it was not connected and in order"
    said = f" ({host.progress})" if host.progress else ""
    return f"it ran {host.version or 'no known version'} and not {plan.version}{said}"


def _halted(upgrade: Upgrade) -> Upgrade:
    name, why = next(iter(upgrade.failures.items()))
    others = len(upgrade.failures) - 1
    more = f" (and {others} more)" if others else ""
    return replace(upgrade, state=State.FAILED, reason=f"node {name}{more}: {why}; {_extent(upgrade)}")


def _next_wave(upgrade: Upgrade, hosts: Sequence[Host], now: float) -> Upgrade:
    """Names the hosts of the next wave that has any; succeeds when nobody is left."""
    waves = waves_of(upgrade.plan, hosts)
    able = [host for host in sorted(hosts, key=lambda h: (h.region, h.name)) if host.follows and host.ready]
    left = [host for host in able if host.name not in upgrade.named]
    if not left:
        count = len(upgrade.named) - len(upgrade.failures)
        failed = f"; {len(upgrade.failures)} failed" if upgrade.failures else ""
        return replace(upgrade, state=State.SUCCEEDED, reason=f"{count} nodes run {upgrade.plan.version}{failed}")
    begun = upgrade.waves_begun
    chosen: Sequence[Host] = []
    while not chosen:
        chosen = _chosen(waves[begun], left, able) if begun < len(waves) else left
        begun += 1
    upgrade = replace(upgrade, waves_begun=begun, since=now, good_since=None)
    named = {**upgrade.named, **{host.name: now for host in chosen}}
    return replace(upgrade, named=named, reason=f"{_wave(upgrade)}: {len(chosen)} nodes are told")


def _chosen(wave: Wave, left: Sequence[Host], able: Sequence[Host]) -> Sequence[Host]:
    if wave.regions:
        return [host for host in left if host.region in wave.regions]
    if wave.nodes:
        return left[: wave.nodes]
    told = len(able) - len(left)
    return left[: max(0, -(-len(able) * wave.percent // 100) - told)]


def _wave(upgrade: Upgrade) -> str:
    return f"wave {upgrade.waves_begun}"


def _extent(upgrade: Upgrade) -> str:
    count = len(upgrade.named)
    return f"{count} {'node was' if count == 1 else 'nodes were'} told, no further one is"
