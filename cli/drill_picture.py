"""The timeline of a drill's run as one SVG: its steps with what was seen of each, and below, on the same axis, the
share of requests that clients of each region got an answer to. Pure; colours come from the page's style."""

from __future__ import annotations

import html
import textwrap
from dataclasses import dataclass
from typing import Any, Final

from cli.drill_report import Stage, seconds, stages
from cli.drill_steps import begin_s, duration_s, seconds_of, steps_of, title_of

Json = dict[str, Any]

_WIDTH: Final = 1000
_LEFT: Final = 175
_TITLE_CHARS: Final = 27
_RIGHT: Final = 20
_TOP: Final = 8
_STEP_HEIGHT: Final = 74
_STRIP_HEIGHT: Final = 26
_STRIP_GAP: Final = 6
_LABEL_CHAR_PX: Final = 6.4
_TICKS_S: Final = (1, 2, 5, 10, 15, 30, 60, 120, 300)
_TICKS_MAX: Final = 12
GOOD_SHARE: Final = 0.999


@dataclass(frozen=True, slots=True)
class Span:
    """A part of the time, in seconds since the fault, and the share of requests in it that were answered."""

    begin_s: float
    end_s: float
    requests: int
    failed: int

    @property
    def share(self) -> float:
        """From 0 to 1."""
        return 1.0 - self.failed / self.requests if self.requests else 1.0


def spans_of(client: Json) -> list[Span]:
    """What clients of a region saw between one count of theirs and the next."""
    found, last_s, requests, failed = [], 0.0, 0, 0
    for index, sample in enumerate(client.get("samples", [])):
        at_s = seconds_of(sample.get("after", ""))
        counted, missed = int(sample.get("requests", 0)), int(sample.get("failed", 0))
        if index and counted > requests and at_s > last_s:
            found.append(Span(last_s, at_s, counted - requests, max(0, missed - failed)))
        if not index or counted > requests:
            last_s, requests, failed = at_s, counted, missed
    return found


def end_of(run: Json) -> float:
    """The end of the axis, in seconds since the fault."""
    ends = [seconds_of(mark.get("after", "")) for mark in run.get("marks", [])]
    if ends and not run.get("passed"):
        # What passed has healed in its time or before.
        ends += [begin_s(step) + duration_s(step) for step in steps_of(run.get("spec", {}))]
    ends += [span.end_s for client in run.get("clients", []) for span in spans_of(client)[-1:]]
    return max(ends, default=0.0) * 1.04 or 1.0


def picture(run: Json) -> str:
    """The SVG."""
    end_s = end_of(run)
    steps = steps_of(run.get("spec", {}))
    found = stages(run, 0.0)
    clients = [client for client in run.get("clients", []) if spans_of(client)]
    bottom = _TOP + _STEP_HEIGHT * len(steps)
    strips = 24 + (_STRIP_HEIGHT + _STRIP_GAP) * len(clients) if clients else 0
    height = bottom + strips + 34
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-labelledby="tl-title tl-desc" class="timeline">',
        '<title id="tl-title">Timeline of the run</title>',
        f'<desc id="tl-desc">{_(_described(found))}</desc>',
        '<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<rect width="6" height="6" class="bad"/><line x1="0" y1="0" x2="0" y2="6" class="hatch"/></pattern></defs>',
    ]
    parts += _axis(end_s, bottom + strips)
    for number, step in enumerate(steps, 1):
        mine = [stage for stage in found if stage.step == number]
        parts += _step(number, step, mine, end_s, _TOP + _STEP_HEIGHT * (number - 1), several=len(steps) > 1)
    if clients:
        parts.append(f'<text x="0" y="{bottom + 16}" class="head">Requests answered, by clients of</text>')
        for row, client in enumerate(clients):
            parts += _strip(client, end_s, bottom + 24 + (_STRIP_HEIGHT + _STRIP_GAP) * row)
    return "".join(parts) + "</svg>"


def _described(found: list[Stage]) -> str:
    said = (f"{stage.name} of step {stage.step} after {seconds(stage.after_s)}" for stage in found)
    return "; ".join(said) or "nothing was seen"


def _x(at_s: float, end_s: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * min(max(at_s, 0.0), end_s) / end_s


def _axis(end_s: float, bottom: float) -> list[str]:
    tick = next((every for every in _TICKS_S if end_s / every <= _TICKS_MAX), _TICKS_S[-1])
    parts = []
    for at_s in range(0, int(end_s) + 1, tick):
        x = _x(at_s, end_s)
        parts.append(f'<line x1="{x:.1f}" y1="{_TOP - 6}" x2="{x:.1f}" y2="{bottom + 6}" class="grid"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 22}" class="tick" text-anchor="middle">{at_s} s</text>')
    return parts


def _step(number: int, step: Json, found: list[Stage], end_s: float, y: float, *, several: bool) -> list[str]:
    begin, over = begin_s(step), begin_s(step) + duration_s(step)
    over = next((stage.after_s for stage in found if stage.name == "healed"), over)
    x1, x2 = _x(begin, end_s), _x(over, end_s)
    line = y + 36
    name = f"Step {number}" if several else "Fault"
    lines = textwrap.wrap(title_of(step), _TITLE_CHARS, max_lines=2, placeholder="…")
    parts = [
        f'<text x="0" y="{line - 8}" class="head">{name}</text>',
        *(f'<text x="0" y="{line + 8 + 13 * row}" class="title">{_(text)}</text>' for row, text in enumerate(lines)),
        f'<rect x="{x1:.1f}" y="{line - 9}" width="{max(2.0, x2 - x1):.1f}" height="18" rx="3" class="fault">'
        f"<title>{_(title_of(step))}, {begin:g} s to {over:.1f} s</title></rect>",
    ]
    taken: dict[int, float] = {}
    for stage in found:
        x = _x(stage.after_s, end_s)
        label = f"{stage.name} {seconds(stage.after_s)}"
        width = len(label) * _LABEL_CHAR_PX
        anchor, left = ("end", x - width) if x + width > _WIDTH else ("start", x)
        level = next((one for one in (0, 1, 2) if taken.get(one, -1.0) <= left - 8), 2)
        taken[level] = left + width
        label_y = (line - 20, line + 26, line + 38)[level]
        stem = line - 16 if level == 0 else label_y - 10
        css = f"m-{stage.name.replace(' ', '-')}"
        parts.append(f'<line x1="{x:.1f}" y1="{line}" x2="{x:.1f}" y2="{stem}" class="stem {_(css)}"/>')
        parts.append(f'<circle cx="{x:.1f}" cy="{line}" r="5.5" class="mark {_(css)}"/>')
        shift = 2 if anchor == "start" else -2
        parts.append(f'<text x="{x + shift:.1f}" y="{label_y}" text-anchor="{anchor}" class="label">{_(label)}</text>')
    return parts


def _strip(client: Json, end_s: float, y: float) -> list[str]:
    region = str(client.get("region", "")).rpartition("/")[2]
    parts = [f'<text x="{_LEFT - 12}" y="{y + 18}" text-anchor="end" class="region">{_(region)}</text>']
    for span in spans_of(client):
        x1, x2 = _x(span.begin_s, end_s), _x(span.end_s, end_s)
        css = "ok" if span.share >= GOOD_SHARE else "some" if span.share > 0 else "none"
        parts.append(
            f'<rect x="{x1:.1f}" y="{y}" width="{max(1.0, x2 - x1):.1f}" height="{_STRIP_HEIGHT}" class="{css}">'
            f"<title>{_(region)}, {span.begin_s:.1f} to {span.end_s:.1f} s: {span.share * 100:.0f} % of "
            f"{span.requests} requests answered</title></rect>"
        )
    return parts


def _(text: str) -> str:
    return html.escape(text, quote=True)
