"""What a drill's run came to, in sentences for whoever was not there. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from cli.drill_report import Check
from cli.drill_steps import begin_s, duration_s, extent_of, fault_of, seconds_of, steps_of

Json = dict[str, Any]

_DEEDS: Final = {
    "region-cut": "was cut off from everything",
    "node-cut": "was cut off from everything",
    "inbound-cut": "heard nothing of what was sent to it",
    "outbound-cut": "was not heard by anybody",
    "registry-cut": "reached no registry of images",
    "control-plane-cut": "reached no control plane",
    "link-lossy": "lost a share of all packets",
    "link-slow": "had a slow link",
    "program-frozen": "had its {} hang",
    "program-killed": "had its {} killed and kept down",
    "node-killed": "lost every program at once, as by a loss of power",
    "disk-full": "had a full disk",
    "clock-jump": "had a clock that jumped",
    "bad-release": "got a release that never gets healthy",
    "traffic-surge": "got a surge of requests",
}


def summary(run: Json, found: list[Check]) -> str:
    """Some sentences; empty for a run of which nothing was measured."""
    return " ".join(_sentences(run, found)) if run.get("marks") else ""


def _sentences(run: Json, found: list[Check]) -> Iterator[str]:
    steps = steps_of(run.get("spec", {}))
    for number, step in enumerate(steps, 1):
        deed, program = _DEEDS.get(fault_of(step), "was broken"), str(step.get("program", ""))
        extent = extent_of(step) if not program else ""
        deed = deed.format({"dockerd": "Docker Engine", "dns": "DNS server"}.get(program, program))
        lasted = _lasted(run, number if len(steps) > 1 else 0, step)
        yield f"For {lasted} {_who(step)} {deed}{f' ({extent})' if extent else ''}."
    yield from _withdrawals(found, [_who(step) for step in steps])
    yield from _clients(run)
    back = [check.measured_s for check in found if "back in every" in check.what]
    if back and None not in back:
        worst_s = max(after_s for after_s in back if after_s is not None)
        faults = "each fault" if len(steps) > 1 else "the fault"
        yield f"All was as before within {max(0.1, worst_s):.1f} s of the end of {faults}."
    elif back:
        yield "Not everything was as before when the run ended."


def _lasted(run: Json, number: int, step: Json) -> str:
    """How long a fault lasted, as far as that is known."""
    for mark in run.get("marks", []):
        if mark.get("stage") == "healed" and int(mark.get("step", 0)) == number:
            return f"{max(0.0, seconds_of(mark.get('after', '')) - begin_s(step)):.1f} s"
    return f"{duration_s(step):g} s at most"


def _who(step: Json) -> str:
    return ", ".join(target.rpartition("/")[2] for target in step.get("targets", ())) or "something"


def _withdrawals(found: list[Check], who: list[str]) -> Iterator[str]:
    for check in (check for check in found if "withdrawn" in check.what):
        head = check.what.partition(":")[0]
        it = who[int(head.split()[-1]) - 1] if head.startswith("Step") else who[0]
        if check.measured_s is None:
            yield f"Not every DNS server took {it} out of its answers."
            continue
        bound = "" if check.bound_s is None else f", {bound_words(check)}"
        yield f"After {check.measured_s:.2f} s no DNS answer named {it}{bound}."
    for check in (check for check in found if "rolled back" in check.what):
        if check.measured_s is not None:
            yield f"The bad release was rolled back by itself after {check.measured_s:.1f} s."


def bound_words(check: Check) -> str:
    """Whether what was measured is within the computed bound; empty where one of them is not known."""
    if check.bound_s is None or check.measured_s is None:
        return ""
    held = check.measured_s <= check.bound_s
    return f"{'within' if held else 'beyond'} the computed bound of {check.bound_s:.2f} s"


def _clients(run: Json) -> Iterator[str]:
    asked, failed = int(run.get("requests", 0)), int(run.get("failed_requests", 0))
    if not asked:
        return
    rows = run.get("clients", [])
    where = f" of clients in {len(rows)} regions" if len(rows) > 1 else " of clients"
    if not failed:
        yield f"All {asked} requests{where} were answered."
        return
    yield f"Of {asked} requests{where} {asked - failed} were answered."
    gaps = {str(row.get("region", "")).rpartition("/")[2]: seconds_of(row.get("longest_gap", "")) for row in rows}
    if gaps and max(gaps.values()):
        region = max(gaps, key=lambda name: gaps[name])
        yield f"Nobody was without an answer for longer than {gaps[region]:.1f} s, in {region}."
