"""The demo's report, `build/demo-report.json`. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lab.samples import Sample
from lab.timeline import DrillReport


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the demo: what, whether it did what it should, how long it took, what was seen."""

    name: str
    ok: bool
    seconds: float
    detail: str


@dataclass(frozen=True, slots=True)
class RolloutFigures:
    """A rolling update as clients saw it."""

    requests: int = 0
    failed: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class RollbackFigures:
    """A bad release: whether it was taken back by itself, and how long after it was applied."""

    automatic: bool = False
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class DemoReport:
    """Everything that the demo measured."""

    regions: tuple[str, ...]
    steps: tuple[Step, ...]
    rollout: RolloutFigures | None = None
    rollback: RollbackFigures | None = None
    drill: DrillReport | None = None
    complete: bool = False

    @property
    def ok(self) -> bool:
        """Whether every step was reached and did what it should."""
        return self.complete and all(step.ok for step in self.steps)

    def to_json(self) -> dict[str, Any]:
        """The report's form; a part that was not reached is null."""
        return {
            "ok": self.ok,
            "regions": list(self.regions),
            "steps": [asdict(step) for step in self.steps],
            "rollout": asdict(self.rollout) if self.rollout else None,
            "rollback": asdict(self.rollback) if self.rollback else None,
            "drill": self.drill.to_json() if self.drill else None,
        }


def rollout_figures(samples: Sequence[Sample], seconds: float) -> RolloutFigures:
    """What clients saw of a rolling update."""
    return RolloutFigures(len(samples), sum(not sample.ok for sample in samples), round(seconds, 2))


def failures(samples: Sequence[Sample], most: int = 3) -> str:
    """The failed requests by what was wrong, the most frequent first."""
    counts: dict[str, int] = {}
    for sample in samples:
        if not sample.ok:
            counts[sample.error] = counts.get(sample.error, 0) + 1
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]
    return "; ".join(f"{count} x {error}" for error, count in ranked)
