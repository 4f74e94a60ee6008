"""What came of a run through the suite, as text and as data. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lab.samples import Clients


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
    title: str = ""
    done: str = ""
    """What was done, in a few words."""
    clients: tuple[Clients, ...] = ()
    bound_s: float | None = None
    """The computed bound of the withdrawal; None where nothing is to be withdrawn, or nobody knew."""
    hopeless: bool = False
    """No place was left that could serve: what failed is not counted with the others."""
    page: str = ""
    """The file of its own report, beside that of the suite."""

    @property
    def gap_s(self) -> float | None:
        """The longest time that clients of a region were without an answer; None when none asked."""
        return max((clients.longest_gap_s for clients in self.clients), default=None)


def as_text(outcomes: Sequence[Outcome]) -> str:
    """The report as lines."""
    heads = f"{'DETECTED':>9}{'WITHDRAWN':>10}{'REROUTED':>9}{'LONGEST GAP':>12}{'REQUESTS':>9}{'FAILED':>8}"
    lines = [f"{'DRILL':<30}{'':<8}{heads}"]
    for outcome in outcomes:
        marks = (_seconds(outcome.marks.get(stage)) for stage in ("detected", "withdrawn", "rerouted"))
        detected, withdrawn, rerouted = marks
        verdict = "passed" if outcome.passed else "MISSED"
        counts = f"{_seconds(outcome.gap_s):>12}{outcome.requests:>9}{outcome.failed:>8}"
        line = f"{outcome.name:<30}{verdict:<8}{detected:>9}{withdrawn:>10}{rerouted:>9}{counts}"
        lines.append(line if outcome.passed else f"{line}  {outcome.reason}")
    passed = sum(outcome.passed for outcome in outcomes)
    return "\n".join([*lines, "", f"{passed} of {len(outcomes)} drills passed"])


def to_json(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The report's form in a file."""
    return {"ok": all(o.passed for o in outcomes), "drills": [asdict(outcome) for outcome in outcomes]}


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"
