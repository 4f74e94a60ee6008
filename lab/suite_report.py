"""The default list of drills, and the one report of a run through it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class AgentDrill:
    """A drill that the fleet's agents carry out; `spec` is the API's, without hostname and duration."""

    name: str
    spec: dict[str, Any]
    duration_s: int = 8


@dataclass(frozen=True, slots=True)
class KillDrill:
    """A program that the lab kills, and whose region's clients go on to ask."""

    name: str
    host: str
    program: str


@dataclass(frozen=True, slots=True)
class CutDrill:
    """A region that the lab cuts off while its own clients ask."""

    name: str
    region: str


Drill = AgentDrill | KillDrill | CutDrill


def _one(name: str, fault: str, target: str, duration_s: int = 8, **extent: Any) -> AgentDrill:
    return AgentDrill(name, {"fault": f"FAULT_KIND_{fault}", "target": target, **extent}, duration_s)


_GAME_DAY: Final = (
    {"title": "Europe loses its network", "fault": "FAULT_KIND_REGION_CUT", "targets": ["regions/eu"]}
    | {"fault_duration": "12s"},
    {"title": "Meanwhile the cache of us dies", "fault": "FAULT_KIND_PROGRAM_KILLED", "targets": ["nodes/us-1"]}
    | {"program": "redis", "start_offset": "4s", "fault_duration": "6s"},
    {"title": "Clients rush to ap", "fault": "FAULT_KIND_TRAFFIC_SURGE", "targets": ["regions/ap"]}
    | {"requests_per_second": 50, "start_offset": "16s", "fault_duration": "6s"},
)

SUITE: Final[tuple[Drill, ...]] = (
    CutDrill("cut-eu", "eu"),
    _one("suite-cut-us", "REGION_CUT", "regions/us", 12),
    _one("suite-deaf-ap", "INBOUND_CUT", "nodes/ap-1", 12),
    _one("suite-mute-ap", "OUTBOUND_CUT", "nodes/ap-1", 12),
    _one("suite-lossy-us", "LINK_LOSSY", "regions/us", loss_percent=10),
    _one("suite-narrow-eu", "LINK_SLOW", "regions/eu", rate_kbit=2_000),
    _one("suite-late-ap", "LINK_SLOW", "nodes/ap-1", delay="0.1s"),
    _one("suite-registry-us", "REGISTRY_CUT", "regions/us"),
    _one("suite-control-eu", "CONTROL_PLANE_CUT", "regions/eu", 12),
    _one("suite-freeze-edge-ap", "PROGRAM_FROZEN", "nodes/ap-1", 10, program="edge"),
    _one("suite-freeze-dns-eu", "PROGRAM_FROZEN", "nodes/eu-1", program="dns"),
    _one("suite-freeze-redis-us", "PROGRAM_FROZEN", "nodes/us-1", program="redis"),
    _one("suite-freeze-engine-us", "PROGRAM_FROZEN", "nodes/us-1", program="dockerd"),
    _one("suite-kill-agent-us", "PROGRAM_KILLED", "nodes/us-1", program="agent"),
    _one("suite-kill-edge-us", "PROGRAM_KILLED", "nodes/us-1", 12, program="edge"),
    _one("suite-kill-dns-eu", "PROGRAM_KILLED", "nodes/eu-1", program="dns"),
    _one("suite-kill-redis-ap", "PROGRAM_KILLED", "nodes/ap-1", program="redis"),
    _one("suite-kill-engine-us", "PROGRAM_KILLED", "nodes/us-1", program="dockerd"),
    _one("suite-kill-node-ap", "NODE_KILLED", "nodes/ap-1", 12),
    _one("suite-disk-eu", "DISK_FULL", "nodes/eu-1", ballast_bytes="67108864"),
    _one("suite-clock-us", "CLOCK_JUMP", "nodes/us-1", clock_offset="600s"),
    _one("suite-surge-ap", "TRAFFIC_SURGE", "regions/ap", requests_per_second=100),
    _one("suite-bad-release", "BAD_RELEASE", "apps/hello", 45),
    AgentDrill("suite-game-day", {"steps": list(_GAME_DAY)}, 22),
    KillDrill("kill-agent-eu", "eu-1", "agent"),
    KillDrill("kill-edge-us", "us-1", "edge"),
    KillDrill("kill-dns-us", "us-1", "dns"),
    KillDrill("kill-redis-eu", "eu-1", "redis"),
    KillDrill("kill-engine-ap", "ap-1", "dockerd"),
    KillDrill("kill-registry", "cp", "registry"),
    KillDrill("kill-control-plane", "cp", "server"),
)
"""A fresh lab of three regions bears all of these."""
SHORT: Final = ("suite-kill-edge-us", "suite-game-day", "kill-agent-eu")
"""A part that takes a minute, beside the tests of cuts."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one drill. Times in seconds; `marks` are since the fault."""

    name: str
    passed: bool
    seconds: float
    marks: dict[str, float] = field(default_factory=dict)
    requests: int = 0
    failed: int = 0
    reason: str = ""


def as_text(outcomes: Sequence[Outcome]) -> str:
    """The report as lines."""
    lines = [f"{'DRILL':<24}{'':<8}{'DETECTED':>9}{'WITHDRAWN':>10}{'REROUTED':>9}{'REQUESTS':>9}{'FAILED':>8}"]
    for outcome in outcomes:
        marks = (_seconds(outcome.marks.get(stage)) for stage in ("detected", "withdrawn", "rerouted"))
        detected, withdrawn, rerouted = marks
        verdict = "passed" if outcome.passed else "MISSED"
        counts = f"{outcome.requests:>9}{outcome.failed:>8}"
        line = f"{outcome.name:<24}{verdict:<8}{detected:>9}{withdrawn:>10}{rerouted:>9}{counts}"
        lines.append(line if outcome.passed else f"{line}  {outcome.reason}")
    passed = sum(outcome.passed for outcome in outcomes)
    return "\n".join([*lines, "", f"{passed} of {len(outcomes)} drills passed"])


def to_json(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The report's form in a file."""
    return {"ok": all(o.passed for o in outcomes), "drills": [asdict(outcome) for outcome in outcomes]}


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"
