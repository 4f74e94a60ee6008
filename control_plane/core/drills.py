"""Whether a drill's run met its objectives, judged from the marks on its timeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Objectives:
    """Times from the fault, in seconds."""

    withdraw_s: float = 3.0
    reroute_s: float = 10.0


def judge(
    objectives: Objectives, marks: Mapping[str, float], *, clients: bool = True, withdraws: bool = True
) -> tuple[str, ...]:
    """Which objectives were missed, in sentences; `marks` are the first times of each stage, in seconds.

    Without `clients` nobody asked as a client does, and nothing can be said of `rerouted`. Without `withdraws` the
    fault is one that clients need not be taken elsewhere for.
    """
    failures: list[str] = []
    wanted = [("withdrawn", objectives.withdraw_s)] if withdraws else []
    if clients and withdraws:
        wanted.append(("rerouted", objectives.reroute_s))
    for stage, limit_s in wanted:
        at = marks.get(stage)
        if at is None:
            failures.append(f"{stage}: it was never seen; the objective is {limit_s:g} s")
        elif at > limit_s:
            failures.append(f"{stage}: after {at:.3f} s; the objective is {limit_s:g} s")
    if "restored" not in marks:
        failures.append("restored: the endpoint was not seen to come back")
    return tuple(failures)
