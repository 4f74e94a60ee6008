"""From what was seen during a drill to its report. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lab.samples import Clients, Poll, Sample, Sighting, clients_of, course


@dataclass(frozen=True, slots=True)
class Objectives:
    """Seconds from the fault within which things must have happened."""

    withdraw_s: float = 3.0
    reroute_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything that was seen while one region was cut off and healed.

    `wall_offset` added to one of the times here gives seconds since 1970.
    """

    region: str
    region_addresses: frozenset[str]
    surviving_servers: frozenset[str]
    wall_offset: float
    fault_at: float
    healed_at: float
    ended_at: float
    samples: Sequence[Sample]
    polls: Sequence[Poll]
    sightings: Sequence[Sighting]


@dataclass(frozen=True, slots=True)
class Mark:
    """A point of the timeline, in seconds since the fault."""

    stage: str
    after_s: float
    detail: str


@dataclass(frozen=True, slots=True)
class DrillReport:
    """A drill as measured; times are seconds since the fault, None for what did not happen.

    Only `fault_time` is in seconds since 1970.
    """

    region: str
    fault_time: float
    detected_s: float | None
    withdrawn_s: float | None
    rerouted_s: float | None
    restored_s: float | None
    requests: int
    failed: int
    marks: tuple[Mark, ...]
    failures: tuple[str, ...]
    clients: Clients | None = None
    course: tuple[tuple[float, int, int], ...] = ()
    """Seconds since the fault, requests that had begun by then, and those of them that failed."""

    @property
    def passed(self) -> bool:
        """Whether every objective was met."""
        return not self.failures

    def to_text(self) -> str:
        """The timeline, the requests and the verdict, for people."""
        lines = [f"{mark.after_s:8.2f} s  {mark.stage:<10} {mark.detail}" for mark in self.marks]
        lines.append(f"{self.requests} requests, {self.failed} failed")
        verdict = [f"missed: {failure}" for failure in self.failures] or ["passed"]
        return "\n".join(lines + verdict)

    def to_json(self) -> dict[str, Any]:
        """The `drill` part of the demo's report."""
        return {
            "region": self.region,
            "detected_s": self.detected_s,
            "withdrawn_s": self.withdrawn_s,
            "rerouted_s": self.rerouted_s,
            "restored_s": self.restored_s,
            "requests": self.requests,
            "failed": self.failed,
        }


def report(observed: Observed, objectives: Objectives) -> DrillReport:
    """The drill's timeline, and which objectives were missed."""
    during = [sample for sample in observed.samples if observed.fault_at <= sample.at <= observed.ended_at]
    detected = _first_sighting(observed)
    withdrawn_at = withdrawn(observed.polls, observed)
    rerouted = _first_answer(during, lambda sample: sample.region not in ("", observed.region), observed.fault_at)
    restored = _first_answer(during, lambda sample: sample.region == observed.region, observed.healed_at)
    marks = [Mark("fault", 0.0, f"every link of region {observed.region} is cut")]
    if detected is not None:
        marks.append(Mark("detected", _since(observed, detected.at), f"{detected.kind}: {detected.text}"))
    if withdrawn_at is not None:
        detail = f"no name server in reach answers with {observed.region} any more"
        marks.append(Mark("withdrawn", _since(observed, withdrawn_at), detail))
    if rerouted is not None:
        detail = f"the client is served from {rerouted.region} through its resolver"
        marks.append(Mark("rerouted", _since(observed, rerouted.ended), detail))
    marks.append(Mark("healed", _since(observed, observed.healed_at), "links are whole again"))
    if restored is not None:
        detail = f"the client is served from {observed.region} again"
        marks.append(Mark("restored", _since(observed, restored.ended), detail))
    times = {mark.stage: mark.after_s for mark in marks}
    return DrillReport(
        region=observed.region,
        fault_time=observed.fault_at + observed.wall_offset,
        detected_s=times.get("detected"),
        withdrawn_s=times.get("withdrawn"),
        rerouted_s=times.get("rerouted"),
        restored_s=times.get("restored"),
        requests=len(during),
        failed=sum(not sample.ok for sample in during),
        marks=tuple(sorted(marks, key=lambda mark: mark.after_s)),
        failures=tuple(_failures(times, objectives)),
        clients=clients_of(observed.region, during, observed.fault_at),
        course=course(during, observed.fault_at),
    )


def withdrawn(polls: Iterable[Poll], observed: Observed) -> float | None:
    """When the last surviving server began to answer only with other regions, for good until the heal.

    None while one of them answers with the region, answers nothing at all, or was never asked.
    """
    begun: dict[str, float] = {}
    for poll in sorted(polls, key=lambda poll: poll.at):
        if poll.server not in observed.surviving_servers or not observed.fault_at <= poll.at < observed.healed_at:
            continue
        if poll.addresses and not poll.addresses & observed.region_addresses:
            begun.setdefault(poll.server, poll.at)
        else:
            begun.pop(poll.server, None)
    return max(begun.values()) if begun.keys() == observed.surviving_servers and begun else None


def _first_sighting(observed: Observed) -> Sighting | None:
    later = [sighting for sighting in observed.sightings if observed.fault_at <= sighting.at < observed.healed_at]
    return min(later, key=lambda sighting: sighting.at, default=None)


def _first_answer(samples: Collection[Sample], wanted: Callable[[Sample], bool], after: float) -> Sample | None:
    good = [sample for sample in samples if sample.ok and sample.at >= after and wanted(sample)]
    return min(good, key=lambda sample: sample.ended, default=None)


def _since(observed: Observed, at: float) -> float:
    return round(at - observed.fault_at, 3)


def _failures(times: dict[str, float], objectives: Objectives) -> list[str]:
    wanted = {
        "detected": objectives.withdraw_s,
        "withdrawn": objectives.withdraw_s,
        "rerouted": objectives.reroute_s,
        "restored": float("inf"),
    }
    failures = []
    for stage, limit_s in wanted.items():
        if stage not in times:
            failures.append(f"{stage}: never")
        elif times[stage] > limit_s:
            failures.append(f"{stage}: after {times[stage]:.2f} s, wanted within {limit_s:g} s")
    return failures
