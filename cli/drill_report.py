"""The report of a drill's run, for people: text, or one HTML page with a picture of the timeline. Pure."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any, Final

Json = dict[str, Any]

PROVEN_WITHIN_S: Final = 2.15
"""From a cut to the last probe that proves it, where no DNS server has said it: by the default settings of theirs."""
_CLIENT_RETRY_S: Final = 1.0
_CLIENT_WAIT_S: Final = 3.0
"""A synthetic client waits so long for an answer before it counts as failed (agent/drill_clients.py)."""

_COLOURS: Final = {
    "fault": "#b3261e",
    "detected": "#b26a00",
    "withdrawn": "#6750a4",
    "rerouted": "#146c2e",
    "healed": "#00639b",
    "restored": "#146c2e",
}
_OBJECTIVES: Final = {"withdrawn": ("withdraw_objective", 3.0), "rerouted": ("reroute_objective", 10.0)}


@dataclass(frozen=True, slots=True)
class Stage:
    """A mark on the timeline beside what it was to be. Seconds since the fault; None where nothing is said."""

    name: str
    after_s: float
    detail: str
    objective_s: float | None
    bound_s: float | None


def seconds_of(text: str) -> float:
    """Seconds of a duration such as `1.5s`; 0 for an empty one."""
    return float(text.removesuffix("s") or 0)


def proven_within_s(told: Json) -> float:
    """How long the slowest DNS server needs to prove a cut, by its settings, as a run or the routing table says."""
    return seconds_of(told.get("cut_proven_within", "")) or PROVEN_WITHIN_S


def bound_s(stage: str, ttl_s: float, proven_s: float) -> float | None:
    """The worst case of the configuration: probes, then what resolvers keep, then a client's next try."""
    if stage == "withdrawn":
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
        after_s = seconds_of(mark.get("after", ""))
        found.append(
            Stage(name, after_s, str(mark.get("detail", "")), objective_s, bound_s(name, ttl_s, proven_within_s(run)))
        )
    return sorted(found, key=lambda stage: stage.after_s)


def as_text(run: Json, ttl_s: float) -> str:
    """The report as lines."""
    lines = [_title(run), f"fault at {run.get('fault_time', 'unknown')}", ""]
    lines.append(f"{'STAGE':<11}{'AFTER':>9}{'OBJECTIVE':>11}{'BOUND':>9}  WHAT WAS SEEN")
    for stage in stages(run, ttl_s):
        objective, bound = (_seconds(value) for value in (stage.objective_s, stage.bound_s))
        lines.append(f"{stage.name:<11}{_seconds(stage.after_s):>9}{objective:>11}{bound:>9}  {stage.detail}")
    lines += ["", _requests(run), *_clients(run, ttl_s)]
    lines += [f"missed: {failure}" for failure in run.get("failures", [])] or ["passed"]
    return "\n".join(lines)


def compared(before: Json, after: Json) -> str:
    """Two runs side by side; later and more is worse."""
    times = [{stage.name: stage.after_s for stage in reversed(stages(run, 0.0))} for run in (before, after)]
    lines = [f"{'STAGE':<18}{_number(before):>10}{_number(after):>10}{'CHANGE':>10}"]
    for name in dict.fromkeys([*reversed(times[0]), *reversed(times[1])]):
        old, new = (found.get(name) for found in times)
        change = "" if old is None or new is None else f"{new - old:+.2f} s"
        lines.append(f"{name:<18}{_seconds(old):>10}{_seconds(new):>10}{change:>10}")
    for label, field in (("requests", "requests"), ("failed requests", "failed_requests")):
        old_count, new_count = int(before.get(field, 0)), int(after.get(field, 0))
        lines.append(f"{label:<18}{old_count:>10}{new_count:>10}{new_count - old_count:>+10}")
    return "\n".join(lines)


def as_html(run: Json, ttl_s: float) -> str:
    """The report as one page without anything from elsewhere."""
    passed = bool(run.get("passed"))
    found = stages(run, ttl_s)
    rows = "".join(
        f"<tr><td><b style='color:{_COLOURS.get(s.name, '#444')}'>{_(s.name)}</b><td class=n>{_seconds(s.after_s)}"
        f"<td class=n>{_seconds(s.objective_s)}<td class=n>{_seconds(s.bound_s)}<td>{_(s.detail)}"
        for s in found
    )
    failures = "".join(f"<li>{_(failure)}" for failure in run.get("failures", []))
    verdict, colour = ("passed", "#146c2e") if passed else ("missed its objectives", "#b3261e")
    return f"""<!doctype html><html lang=en><meta charset=utf-8><title>{_(_title(run))}</title>
<meta name=viewport content="width=device-width"><style>
body{{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1c1b1f}}
h1{{font-size:1.5rem}} table{{border-collapse:collapse;width:100%}} td,th{{text-align:left;padding:.4rem .6rem;
border-bottom:1px solid #ddd}} .n{{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}}
.verdict{{display:inline-block;padding:.2rem .8rem;border-radius:1rem;color:#fff;background:{colour}}}
svg{{width:100%;height:auto;margin:1rem 0}}</style>
<h1>{_(_title(run))}</h1><p><span class=verdict>{verdict}</span> Fault at {_(str(run.get("fault_time", "unknown")))}.
{_(_requests(run))}.</p>{_picture(found)}
<table><tr><th>Stage<th class=n>After<th class=n>Objective<th class=n>Computed bound<th>What was seen{rows}</table>
{_client_rows(run, ttl_s)}
{f"<h2>Missed</h2><ul>{failures}</ul>" if failures else ""}
<p><small>Seconds since the fault. The bound is the worst case of the configuration: probes of DNS servers with their
default settings, then the time to live of answers, then a client's next try.</small></p></html>
"""


def _picture(found: list[Stage]) -> str:
    """The timeline as SVG, labels on two levels so that close marks stay readable."""
    end_s = max((stage.after_s for stage in found), default=0.0) * 1.08 or 1.0
    parts = [
        '<svg viewBox="0 0 1000 170" role=img aria-label="timeline"><line x1=20 y1=90 x2=980 y2=90 stroke="#888"/>'
    ]
    for tick in range(int(end_s) + 1):
        if end_s <= 20 or tick % 5 == 0:
            x = 20 + 960 * tick / end_s
            parts.append(f'<line x1={x:.1f} y1=86 x2={x:.1f} y2=94 stroke="#888"/>')
            parts.append(f'<text x={x:.1f} y=110 font-size=11 text-anchor=middle fill="#666">{tick} s</text>')
    for number, stage in enumerate(found):
        x, high = 20 + 960 * stage.after_s / end_s, number % 2 == 0
        colour, y = _COLOURS.get(stage.name, "#444"), 40 if high else 145
        parts.append(f'<line x1={x:.1f} y1=90 x2={x:.1f} y2={y + 6 if high else y - 14} stroke="{colour}"/>')
        parts.append(f'<circle cx={x:.1f} cy=90 r=6 fill="{colour}"/>')
        anchor = "start" if x < 80 else "end" if x > 920 else "middle"
        label = f"{stage.name} {_seconds(stage.after_s)}"
        parts.append(f'<text x={x:.1f} y={y} font-size=14 text-anchor={anchor} fill="{colour}">{_(label)}</text>')
    return "".join(parts) + "</svg>"


def _title(run: Json) -> str:
    spec = run.get("spec", {})
    fault = str(spec.get("fault", "")).removeprefix("FAULT_KIND_").lower().replace("_", " ")
    return f"{run.get('name', 'a drill')}: {fault} of {spec.get('target', '?')}, asked for {spec.get('hostname', '?')}"


def _requests(run: Json) -> str:
    requests, failed = int(run.get("requests", 0)), int(run.get("failed_requests", 0))
    share = f" ({100 * failed / requests:.1f} %)" if requests else ""
    return f"{requests} requests, {failed} failed{share}"


def _gap_bound(run: Json, ttl_s: float) -> str:
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
        requests, failed, slow = (int(client.get(key, 0)) for key in ("requests", "failed", "slow"))
        gap = _seconds(seconds_of(client.get("longest_gap", "")))
        failure = str(client.get("last_failure", ""))
        row = f"{region:<14}{node:<14}{requests:>9}{failed:>8}{slow:>6}{gap:>13}  {failure}"
        lines.append(row.rstrip())
    bound = _gap_bound(run, ttl_s)
    return ["", *lines, *([bound] if bound else []), ""]


def _client_rows(run: Json, ttl_s: float) -> str:
    """The same as a table of HTML."""
    rows = ""
    for client in run.get("clients", []):
        region, node = (_(str(client.get(key, "")).rpartition("/")[2]) for key in ("region", "node"))
        counts = "".join(f"<td class=n>{int(client.get(key, 0))}" for key in ("requests", "failed", "slow"))
        gap = _seconds(seconds_of(client.get("longest_gap", "")))
        rows += f"<tr><td>{region}<td>{node}{counts}<td class=n>{gap}<td>{_(str(client.get('last_failure', '')))}"
    if not rows:
        return ""
    heads = "<th class=n>Requests<th class=n>Failed<th class=n>Slow<th class=n>Longest gap<th>Last failure"
    return f"<h2>Clients</h2><table><tr><th>Clients of<th>Asked by{heads}{rows}</table><p>{_(_gap_bound(run, ttl_s))}"


def _number(run: Json) -> str:
    return f"run {str(run.get('name', '')).rpartition('/')[2]}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


def _(text: str) -> str:
    return html.escape(text, quote=True)
