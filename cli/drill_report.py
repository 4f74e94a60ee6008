"""The report of a drill's run, for people: what was measured beside what it was to be, and as text. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from cli.drill_steps import begin_s, duration_s, fault_of, seconds_of, steps_of, title_of, withdraws

Json = dict[str, Any]

RESTORE_S: Final = 90.0
"""Targets are to be back within this after the fault (control_plane/core/drill.py)."""
_CLIENT_RETRY_S: Final = 1.0
_CLIENT_WAIT_S: Final = 3.0
"""A synthetic client waits so long for an answer before it counts as failed (agent/drill_clients.py)."""
_OBJECTIVES: Final = {"withdrawn": ("withdraw_objective", 3.0), "rerouted": ("reroute_objective", 10.0)}


@dataclass(frozen=True, slots=True)
class Stage:
    """A mark on the timeline beside what it was to be. Seconds since the fault; None where nothing is said."""

    name: str
    after_s: float
    detail: str
    objective_s: float | None
    bound_s: float | None
    step: int = 1
    """Number of the step, from 1."""


@dataclass(frozen=True, slots=True)
class Check:
    """One objective: what it is about, what was measured, and whether that is met. None where nothing was measured."""

    what: str
    measured_s: float | None
    objective_s: float
    bound_s: float | None
    met: bool


def proven_within_s(told: Json) -> float | None:
    """How long the slowest DNS server needs to prove a cut, as a run or the routing table says; None when none said."""
    return seconds_of(told.get("cut_proven_within", "")) or None


def bound_s(stage: str, ttl_s: float, proven_s: float | None) -> float | None:
    """The worst case of the configuration: probes, then what resolvers keep, then a client's next try."""
    if stage == "withdrawn" or proven_s is None:
        return proven_s
    return proven_s + ttl_s + _CLIENT_RETRY_S if stage == "rerouted" else None


def stages(run: Json, ttl_s: float) -> list[Stage]:
    """The marks of a run, in the order of time."""
    spec = run.get("spec", {})
    found = []
    for mark in run.get("marks", []):
        name = str(mark.get("stage", ""))
        field, default_s = _OBJECTIVES.get(name, ("", 0.0))
        objective_s = seconds_of(spec.get(field, "")) or default_s if field else None
        bound = bound_s(name, ttl_s, proven_within_s(run))
        step = int(mark.get("step", 0)) or 1
        after_s = seconds_of(mark.get("after", ""))
        found.append(Stage(name, after_s, str(mark.get("detail", "")), objective_s, bound, step))
    return sorted(found, key=lambda stage: stage.after_s)


def checks(run: Json, ttl_s: float) -> list[Check]:
    """Every objective of a run, and whether it was met."""
    spec = run.get("spec", {})
    proven_s = proven_within_s(run)
    first: dict[tuple[int, str], float] = {}
    for stage in stages(run, ttl_s):
        first.setdefault((stage.step, stage.name), stage.after_s)
    found: list[Check] = []
    steps = steps_of(spec)
    for number, step in enumerate(steps, 1):
        found += _step_checks(step, number, len(steps), spec, first, proven_s)
    limit_s = seconds_of(spec.get("reroute_objective", "")) or 10.0
    bound = bound_s("rerouted", ttl_s, proven_s)
    if (rerouted_s := first.get((1, "rerouted"))) is not None:
        found.append(_check("Clients are served from elsewhere", rerouted_s, limit_s, bound))
    if clients := run.get("clients", []):
        gap_s = max(seconds_of(client.get("longest_gap", "")) for client in clients)
        bound = bound + _CLIENT_WAIT_S if bound is not None and ttl_s else None
        found.append(_check("No client is without an answer for longer", gap_s, limit_s, bound))
    return found


def _step_checks(
    step: Json, number: int, count: int, spec: Json, first: dict[tuple[int, str], float], proven_s: float | None
) -> Iterator[Check]:
    where = f"Step {number}: " if count > 1 else ""

    def since_s(stage: str, since_s: float) -> float | None:
        at_s = first.get((number, stage))
        return None if at_s is None else max(0.0, at_s - since_s)

    if withdraws(step):
        limit_s = seconds_of(spec.get("withdraw_objective", "")) or 3.0
        measured_s = since_s("withdrawn", begin_s(step))
        yield _check(f"{where}withdrawn from every DNS answer", measured_s, limit_s, proven_s)
    if fault_of(step) == "bad-release":
        measured_s = since_s("rolled-back", begin_s(step))
        yield _check(f"{where}the bad release is rolled back by itself", measured_s, duration_s(step), None)
    end_s = first.get((number, "healed"), begin_s(step) + duration_s(step))
    yield _check(f"{where}back in every DNS answer after the fault", since_s("restored", end_s), RESTORE_S, None)


def _check(what: str, measured_s: float | None, objective_s: float, bound: float | None) -> Check:
    return Check(what, measured_s, objective_s, bound, measured_s is not None and measured_s <= objective_s)


def as_text(run: Json, ttl_s: float) -> str:
    """The report as lines."""
    lines = [title(run), f"fault at {run.get('fault_time', 'unknown')}", ""]
    steps = steps_of(run.get("spec", {}))
    if len(steps) > 1:
        for number, step in enumerate(steps, 1):
            span = f"{begin_s(step):g}-{begin_s(step) + duration_s(step):g} s"
            lines.append(f"step {number:<3}{span:<12}{title_of(step)}")
        lines.append("")
    head = "STEP " if len(steps) > 1 else ""
    lines.append(f"{head}{'STAGE':<11}{'AFTER':>9}{'OBJECTIVE':>11}{'BOUND':>9}  WHAT WAS SEEN")
    for stage in stages(run, ttl_s):
        objective, bound = (seconds(value) for value in (stage.objective_s, stage.bound_s))
        at = f"{stage.step:<5}" if head else ""
        lines.append(f"{at}{stage.name:<11}{seconds(stage.after_s):>9}{objective:>11}{bound:>9}  {stage.detail}")
    lines += ["", requests(run), *_clients(run, ttl_s)]
    lines += [f"missed: {failure}" for failure in run.get("failures", [])] or ["passed"]
    return "\n".join(lines)


def compared(before: Json, after: Json) -> str:
    """Two runs side by side; later and more is worse."""
    times: list[dict[str, float]] = []
    for run in (before, after):
        several = len(steps_of(run.get("spec", {}))) > 1
        named = ((f"{s.step} {s.name}" if several else s.name, s.after_s) for s in reversed(stages(run, 0.0)))
        times.append(dict(named))
    lines = [f"{'STAGE':<18}{_number(before):>10}{_number(after):>10}{'CHANGE':>10}"]
    for name in dict.fromkeys([*reversed(times[0]), *reversed(times[1])]):
        old, new = (found.get(name) for found in times)
        change = "" if old is None or new is None else f"{new - old:+.2f} s"
        lines.append(f"{name:<18}{seconds(old):>10}{seconds(new):>10}{change:>10}")
    for label, field in (("requests", "requests"), ("failed requests", "failed_requests")):
        old_count, new_count = int(before.get(field, 0)), int(after.get(field, 0))
        lines.append(f"{label:<18}{old_count:>10}{new_count:>10}{new_count - old_count:>+10}")
    return "\n".join(lines)


def title(run: Json) -> str:
    """What the run is about, on one line."""
    spec = run.get("spec", {})
    steps = steps_of(spec)
    if len(steps) > 1:
        what = f"{len(steps)} steps"
    else:
        what = f"{fault_of(steps[0]).replace('-', ' ')} of {', '.join(steps[0]['targets']) or '?'}"
    return f"{run.get('name', 'a drill')}: {what}, asked for {spec.get('hostname', '?')}"


def requests(run: Json) -> str:
    """What synthetic clients asked, in a sentence."""
    count, failed = int(run.get("requests", 0)), int(run.get("failed_requests", 0))
    share = f" ({100 * failed / count:.1f} %)" if count else ""
    return f"{count} requests, {failed} failed{share}"


def gap_bound(run: Json, ttl_s: float) -> str:
    """The worst case for a client beside what was measured; empty where the time to live is not known."""
    gaps = [seconds_of(client.get("longest_gap", "")) for client in run.get("clients", [])]
    bound = bound_s("rerouted", ttl_s, proven_within_s(run))
    if not gaps or not ttl_s or bound is None:
        return ""
    limit_s = bound + _CLIENT_WAIT_S
    verdict = "held" if max(gaps) <= limit_s else "exceeded"
    return f"computed bound of a gap {limit_s:.2f} s, measured {max(gaps):.2f} s: {verdict}"


def _clients(run: Json, ttl_s: float) -> list[str]:
    """What clients of each region saw; nothing when nobody asked by region."""
    found = run.get("clients", [])
    if not found:
        return []
    heads = f"{'REQUESTS':>9}{'FAILED':>8}{'SLOW':>6}{'LONGEST GAP':>13}"
    lines = [f"{'CLIENTS OF':<14}{'ASKED BY':<14}{heads}  LAST FAILURE"]
    for client in found:
        region, node = (str(client.get(key, "")).rpartition("/")[2] for key in ("region", "node"))
        counts = (int(client.get(key, 0)) for key in ("requests", "failed", "slow"))
        asked, failed, slow = counts
        gap = seconds(seconds_of(client.get("longest_gap", "")))
        failure = str(client.get("last_failure", ""))
        row = f"{region:<14}{node:<14}{asked:>9}{failed:>8}{slow:>6}{gap:>13}  {failure}"
        lines.append(row.rstrip())
    bound = gap_bound(run, ttl_s)
    return ["", *lines, *([bound] if bound else []), ""]


def _number(run: Json) -> str:
    return f"run {str(run.get('name', '')).rpartition('/')[2]}"


def seconds(value: float | None) -> str:
    """Seconds for people; a dash for none."""
    return "-" if value is None else f"{value:.2f} s"
