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

SUITE: Final[tuple[Drill, ...]] = (
    CutDrill("cut-eu", "eu"),
    AgentDrill("suite-cut-us", {"fault": "FAULT_KIND_REGION_CUT", "target": "regions/us"}, 12),
    AgentDrill("suite-deaf-ap", {"fault": "FAULT_KIND_INBOUND_CUT", "target": "nodes/ap-1"}, 12),
    AgentDrill("suite-mute-ap", {"fault": "FAULT_KIND_OUTBOUND_CUT", "target": "nodes/ap-1"}, 12),
    AgentDrill("suite-lossy-us", {"fault": "FAULT_KIND_LINK_LOSSY", "target": "regions/us", "loss_percent": 10}),
    AgentDrill("suite-narrow-eu", {"fault": "FAULT_KIND_LINK_SLOW", "target": "regions/eu", "rate_kbit": 2_000}),
    AgentDrill("suite-edge-ap", {"fault": "FAULT_KIND_PROGRAM_FROZEN", "target": "nodes/ap-1", "program": "edge"}, 10),
    AgentDrill("suite-dns-eu", {"fault": "FAULT_KIND_PROGRAM_FROZEN", "target": "nodes/eu-1", "program": "dns"}),
    AgentDrill("suite-redis-us", {"fault": "FAULT_KIND_PROGRAM_FROZEN", "target": "nodes/us-1", "program": "redis"}),
    AgentDrill("suite-engine-us", {"fault": "FAULT_KIND_PROGRAM_FROZEN", "target": "nodes/us-1", "program": "dockerd"}),
    AgentDrill("suite-disk-eu", {"fault": "FAULT_KIND_DISK_FULL", "target": "nodes/eu-1", "ballast_bytes": "67108864"}),
    KillDrill("kill-agent-eu", "eu-1", "agent"),
    KillDrill("kill-edge-us", "us-1", "edge"),
    KillDrill("kill-dns-us", "us-1", "dns"),
    KillDrill("kill-redis-eu", "eu-1", "redis"),
    KillDrill("kill-engine-ap", "ap-1", "dockerd"),
    KillDrill("kill-registry", "cp", "registry"),
    KillDrill("kill-control-plane", "cp", "server"),
)
"""A fresh lab of three regions bears all of these."""
SHORT: Final = ("suite-edge-ap", "suite-disk-eu", "kill-agent-eu")
"""A part that takes half a minute, beside the tests of cuts."""


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
    lines = [f"{'DRILL':<20}{'':<8}{'DETECTED':>9}{'WITHDRAWN':>10}{'REROUTED':>9}{'REQUESTS':>9}{'FAILED':>8}"]
    for outcome in outcomes:
        marks = (_seconds(outcome.marks.get(stage)) for stage in ("detected", "withdrawn", "rerouted"))
        detected, withdrawn, rerouted = marks
        verdict = "passed" if outcome.passed else "MISSED"
        counts = f"{outcome.requests:>9}{outcome.failed:>8}"
        line = f"{outcome.name:<20}{verdict:<8}{detected:>9}{withdrawn:>10}{rerouted:>9}{counts}"
        lines.append(line if outcome.passed else f"{line}  {outcome.reason}")
    passed = sum(outcome.passed for outcome in outcomes)
    return "\n".join([*lines, "", f"{passed} of {len(outcomes)} drills passed"])


def to_json(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The report's form in a file."""
    return {"ok": all(o.passed for o in outcomes), "drills": [asdict(outcome) for outcome in outcomes]}


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"
