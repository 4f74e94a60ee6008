"""Cutting a region off for real while a client keeps asking, and measuring what becomes of it, stage by stage."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from fleet.errors import Code, LocciError, failed_precondition
from lab import links
from lab.api import ApiClient
from lab.layout import Layout
from lab.lock import locked
from lab.observers import ClientLoop, ControlPlaneWatch, NameServerWatch
from lab.samples import Sample
from lab.timeline import DrillReport, Objectives, Observed, report, withdrawn
from lab.topology import Host, Topology

_WARM_UP_REQUESTS: Final = 10
_STEADY_REQUESTS: Final = 5
_WARM_UP_S: Final = 10.0
_HELD_BACK_S: Final = 30.0
_AFTER_REROUTE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class DrillPlan:
    """A region to cut off, who asks meanwhile and for what, and how long each stage may take in seconds."""

    region: str
    hostname: str
    client: Host
    rate: float = 20.0
    objectives: Objectives = field(default_factory=Objectives)
    fault_timeout_s: float = 15.0
    restore_timeout_s: float = 30.0


def nearest_region(samples: Sequence[Sample]) -> str:
    """The region that served the client last."""
    return next((sample.region for sample in reversed(samples) if sample.ok), "")


class _Scene:
    """The client and the watchers of one drill, and what they have seen so far."""

    def __init__(self, plan: DrillPlan, topology: Topology, api: ApiClient, stack: ExitStack) -> None:
        self._plan = plan
        self._nodes = topology.expand(plan.region)
        self._surviving = [server for server in topology.name_servers if server not in self._nodes]
        self.client = stack.enter_context(ClientLoop(topology, plan.client, plan.hostname, rate=plan.rate))
        self._servers = [
            stack.enter_context(NameServerWatch(topology, server, plan.hostname, plan.client))
            for server in self._surviving
        ]
        names = frozenset(host.name for host in self._nodes)
        self._control_plane = stack.enter_context(ControlPlaneWatch(api, plan.region, names))

    def observed(self, fault_at: float, healed_at: float, ended_at: float) -> Observed:
        """Everything seen until now."""
        return Observed(
            region=self._plan.region,
            region_addresses=frozenset(address for host in self._nodes for address in host.addresses),
            surviving_servers=frozenset(server.name for server in self._surviving),
            wall_offset=time.time() - time.monotonic(),
            fault_at=fault_at,
            healed_at=healed_at,
            ended_at=ended_at,
            samples=self.client.samples(),
            polls=[poll for server in self._servers for poll in list(server.polls)],
            sightings=list(self._control_plane.sightings),
        )

    def lacking(self) -> str:
        """A surviving DNS server that does not answer with the region as it is; empty when each does."""
        addresses = frozenset(address for host in self._nodes for address in host.addresses)
        for server in self._servers:
            last = server.polls[-1:]
            if not last or not (last[0].addresses or frozenset()) & addresses:
                return server.name
        return ""

    def wait_withdrawn(self, fault_at: float) -> None:
        """Returns when the region is out of every answer, or when it took too long."""
        deadline = fault_at + self._plan.fault_timeout_s
        while (now := time.monotonic()) < deadline:
            observed = self.observed(fault_at, now, now)
            if withdrawn(observed.polls, observed) is not None:
                return
            time.sleep(0.05)


def run_drill(plan: DrillPlan, topology: Topology, layout: Layout, api: ApiClient) -> DrillReport:
    """Runs the drill and returns what was measured; the links are whole again whatever happens.

    Raises FAILED_PRECONDITION, with nothing cut, when the client is not served from the region to begin with.
    """

    def heal() -> None:
        with locked(topology.lab):
            links.heal(topology.lab, layout, plan.region)

    with ExitStack() as stack:
        scene = _Scene(plan, topology, api, stack)
        _wait_everywhere(plan, scene)
        _warm_up(plan, scene.client)
        stack.callback(heal)
        with locked(topology.lab):
            fault_at = time.monotonic()
            links.partition(topology.lab, layout, plan.region)
        scene.client.wait(
            lambda samples: any(sample.ok and sample.region not in ("", plan.region) for sample in samples),
            since=fault_at,
            timeout_s=plan.fault_timeout_s,
        )
        scene.wait_withdrawn(fault_at)
        time.sleep(_AFTER_REROUTE_S)
        healed_at = time.monotonic()
        heal()
        scene.client.wait(
            lambda samples: _steady(samples, plan.region), since=healed_at, timeout_s=plan.restore_timeout_s
        )
        scene.client.stop()
        return report(scene.observed(fault_at, healed_at, time.monotonic()), plan.objectives)


def _warm_up(plan: DrillPlan, client: ClientLoop) -> None:
    if not client.wait(lambda samples: _steady(samples, plan.region, _WARM_UP_REQUESTS), timeout_s=_WARM_UP_S):
        last = client.samples()[-1:]
        seen = f"the last request: {last[0]}" if last else "it made no request"
        message = f"{plan.client.name} is not served from {plan.region}, so cutting that off proves nothing; {seen}"
        raise failed_precondition("NOT_SERVED", message)


def _wait_everywhere(plan: DrillPlan, scene: _Scene) -> None:
    """A server that holds the region back after its last failure would seem to withdraw it at once."""
    deadline = time.monotonic() + _HELD_BACK_S
    while name := scene.lacking():
        if time.monotonic() > deadline:
            message = f"{name} does not answer with {plan.region}, so cutting that off proves nothing of its answers"
            raise failed_precondition("NOT_SERVED", message)
        time.sleep(0.05)


def _steady(samples: Sequence[Sample], region: str, count: int = _STEADY_REQUESTS) -> bool:
    """Whether the last `count` requests were all served from the region."""
    last = samples[-count:]
    return len(last) == count and all(sample.ok and sample.region == region for sample in last)


def record_drill(plan: DrillPlan, measured: DrillReport, api: ApiClient) -> str:
    """Keeps the drill and its run at the control plane; the run's name."""
    drill = f"cut-{plan.region}"
    spec = {
        "fault": "FAULT_KIND_REGION_CUT",
        "target": f"regions/{plan.region}",
        "hostname": plan.hostname,
        "fault_duration": f"{plan.fault_timeout_s:g}s",
        "withdraw_objective": f"{plan.objectives.withdraw_s:g}s",
        "reroute_objective": f"{plan.objectives.reroute_s:g}s",
    }
    try:
        api.call("POST", "/v1/drills", {"spec": spec}, query={"drill_id": drill})
    except LocciError as error:
        if error.code is not Code.ALREADY_EXISTS:
            raise
    begun = datetime.fromtimestamp(measured.fault_time, UTC).isoformat().replace("+00:00", "Z")
    marks = [{"stage": m.stage, "after": f"{m.after_s:.3f}s", "detail": m.detail} for m in measured.marks]
    run = {
        "fault_time": begun,
        "marks": marks,
        "requests": measured.requests,
        "failed_requests": measured.failed,
        "clients": [_clients(plan, measured)],
    }
    return str(api.call("POST", f"/v1/drills/{drill}/runs", run)["name"])


def _clients(plan: DrillPlan, measured: DrillReport) -> dict[str, Any]:
    """What the client saw, in the API's form."""
    seen = measured.clients
    row: dict[str, Any] = {"region": f"regions/{plan.region}", "node": plan.client.name}
    row["resolver"] = f"the resolver of {plan.client.name}"
    if seen is not None:
        row |= {"requests": seen.requests, "failed": seen.failed, "slow": seen.slow}
        row["longest_gap"] = f"{seen.longest_gap_s:.3f}s"
    samples = ({"after": f"{at:.3f}s", "requests": n, "failed": bad} for at, n, bad in measured.course)
    return row | {"samples": list(samples)}
