"""The report of a run through the suite as one HTML page: nothing from elsewhere, for screens and for paper. Pure."""

from __future__ import annotations

import html
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Final

from fleet.report_style import STYLE
from lab.suite_drills import CHAPTERS
from lab.suite_report import Outcome

_ROW_PX: Final = 30
_LEFT_PX: Final = 390
_WIDTH_PX: Final = 1000
_NOTE: Final = (
    "Every fault was real: the lab is a whole fleet on one machine, with the programs that are shipped, a Docker "
    "Engine for each host, and real links between hosts. Times are in seconds since the fault. A gap is the time from "
    "a good answer to the next with a failure in between. The computed bound is the worst case of the configuration "
    "for the probes of the slowest DNS server, as `locci routing show` names it. Requests of drills that left no "
    "region to serve from are in the tables alone."
)


def as_html(outcomes: Sequence[Outcome], began_at: float, ended_at: float, folder: str) -> str:
    """The report of what was run between two times (seconds since 1970); `folder` holds the drills' own reports."""
    rest = [o for o in outcomes if o.name not in {d.name for chapter in CHAPTERS for d in chapter.drills}]
    chapters = [(c.title, [o for o in outcomes if o.name in {d.name for d in c.drills}]) for c in CHAPTERS]
    body = "".join(
        (
            _header(outcomes, began_at, ended_at),
            _failures(outcomes),
            _section("How soon what failed was out of every DNS answer", _bars(outcomes)),
            *(_section(title, _table(found, folder)) for title, found in [*chapters, ("The fleet", rest)] if found),
        )
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Failover drills: the suite</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><style>{STYLE}</style></head><body><main>{body}</main>'
        f"<footer><p>{_(_NOTE)}</p></footer></body></html>\n"
    )


def summary(outcomes: Sequence[Outcome]) -> str:
    """What came of it, in sentences."""
    return " ".join(_sentences(outcomes))


def _sentences(outcomes: Sequence[Outcome]) -> Iterator[str]:
    asked, failed = _counts(outcomes)
    yield f"A fresh fleet of three regions went through {len(outcomes)} drills, one after the other."
    if asked:
        share = f"{100 * (asked - failed) / asked:.1f} %"
        yield f"All the while clients of every region went on to ask: of {asked} requests {share} were answered."
    times = withdrawals(outcomes)
    if times:
        found = [after_s for _, after_s, _ in times]
        worst = max(found)
        yield (
            f"What had to go was out of every DNS answer after {statistics.median(found):.1f} s in the median and "
            f"{worst:.1f} s at worst, in {sum(_is_within(row) for row in times)} of {len(times)} drills within the "
            "bound that had been computed before."
        )
    gaps = [(o.gap_s, o) for o in outcomes if o.gap_s is not None and o.marks.get("withdrawn") is not None]
    if gaps:
        gap_s, worst_of = max(gaps, key=lambda pair: pair[0])
        longest = f"{gap_s:.1f} s" if gap_s else "no time at all"
        yield f"Clients of a region that was lost were without an answer for {longest} at most ({worst_of.name})."
    missed = [outcome.name for outcome in outcomes if not outcome.passed]
    yield f"Not passed: {', '.join(missed)}." if missed else "Every fault was undone, and the fleet was whole again."


def _counts(outcomes: Sequence[Outcome]) -> tuple[int, int]:
    """Requests, and those that failed, wherever a place was left that could serve."""
    hopeful = [outcome for outcome in outcomes if not outcome.hopeless]
    return sum(o.requests for o in hopeful), sum(o.failed for o in hopeful)


def _is_within(row: tuple[Outcome, float, float | None]) -> bool:
    return row[2] is None or row[1] <= row[2]


def withdrawals(outcomes: Sequence[Outcome]) -> list[tuple[Outcome, float, float | None]]:
    """The drills that had to be answered by a withdrawal: when it was complete, and the computed bound."""
    return [(o, o.marks["withdrawn"], o.bound_s) for o in outcomes if "withdrawn" in o.marks]


def _header(outcomes: Sequence[Outcome], began_at: float, ended_at: float) -> str:
    passed = sum(outcome.passed for outcome in outcomes)
    whole = bool(outcomes) and passed == len(outcomes)
    state, word = ("passed", "Passed") if whole else ("failed", "Not all passed")
    begun = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(began_at))
    facts = (("Begun", begun), ("Took", f"{(ended_at - began_at) / 60:.1f} min"), ("Fleet", "a lab of three regions"))
    found = "".join(f"<div><dt>{_(name)}</dt><dd>{_(value)}</dd></div>" for name, value in facts)
    return (
        f'<header><p class="kicker">Failover drills</p><h1>{passed} of {len(outcomes)} drills passed</h1>'
        f'<p class="verdict {state}" role="status"><strong>{word}</strong> <span>{_(summary(outcomes))}</span></p>'
        f"<dl class=facts>{found}</dl>{_cards(outcomes)}</header>"
    )


def _cards(outcomes: Sequence[Outcome]) -> str:
    cards = []
    times = withdrawals(outcomes)
    if times:
        bounds = [bound_s for _, _, bound_s in times if bound_s is not None]
        below = f"computed bound {max(bounds):.2f} s" if bounds else "after the fault"
        cards.append(("Out of every DNS answer, at worst", f"{max(t for _, t, _ in times):.2f} s", below))
    gaps = [o.gap_s for o in outcomes if o.gap_s is not None and not o.hopeless]
    if gaps:
        cards.append(("Longest gap of a client", f"{max(gaps):.2f} s", "while a region was left"))
    asked, failed = _counts(outcomes)
    if asked:
        share = f"{100 * (asked - failed) / asked:.2f} %"
        cards.append(("Requests answered", share, f"{asked} asked, {failed} failed"))
    untouched = sum(bool(o.requests) and not o.failed for o in outcomes)
    cards.append(("Drills that no client noticed", str(untouched), f"of {len(outcomes)}"))
    items = "".join(f"<li><span>{_(a)}</span><b>{_(b)}</b><small>{_(c)}</small></li>" for a, b, c in cards)
    return f"<ul class=cards>{items}</ul>"


def _failures(outcomes: Sequence[Outcome]) -> str:
    missed = "".join(f"<li>{_(o.name)}: {_(o.reason)}</li>" for o in outcomes if not o.passed)
    return _section("What was missed", f"<ul class=failures>{missed}</ul>") if missed else ""


def _bars(outcomes: Sequence[Outcome]) -> str:
    """A bar for each withdrawal, with the computed bound as a line across."""
    times = sorted(withdrawals(outcomes), key=lambda row: row[1])
    if not times:
        return "<p>No drill had to be answered by a withdrawal.</p>"
    bound_s = max((bound for _, _, bound in times if bound is not None), default=None)
    end_s = 1.15 * max([after_s for _, after_s, _ in times] + ([bound_s] if bound_s else []))
    height = _ROW_PX * len(times) + 34

    def x(at_s: float) -> float:
        return _LEFT_PX + (_WIDTH_PX - _LEFT_PX - 70) * at_s / end_s

    parts = [f'<svg viewBox="0 0 {_WIDTH_PX} {height}" role="img" aria-label="Times to withdrawal" class="timeline">']
    for row, (outcome, after_s, bound) in enumerate(times):
        y = _ROW_PX * row
        label = outcome.title or outcome.name
        parts.append(f'<text x="{_LEFT_PX - 12}" y="{y + 19}" text-anchor="end" class="region">{_(label)}</text>')
        css = "bar" if bound is None or after_s <= bound else "bar beyond"
        width = max(2.0, x(after_s) - _LEFT_PX)
        parts.append(f'<rect x="{_LEFT_PX}" y="{y + 5}" width="{width:.1f}" height="20" rx="3" class="{css}"/>')
        parts.append(f'<text x="{x(after_s) + 6:.1f}" y="{y + 19}" class="label">{after_s:.2f} s</text>')
    if bound_s is not None:
        at, foot = x(bound_s), _ROW_PX * len(times)
        parts.append(f'<line x1="{at:.1f}" y1="0" x2="{at:.1f}" y2="{foot + 6}" class="bound"/>')
        said = f"computed bound {bound_s:.2f} s"
        parts.append(f'<text x="{at:.1f}" y="{foot + 22}" text-anchor="middle" class="label">{said}</text>')
    return f"<div class=scroll>{''.join(parts)}</svg></div>"


def _table(outcomes: Sequence[Outcome], folder: str) -> str:
    heads = ("Drill", "n:Withdrawn", "n:Longest gap", "n:Requests", "n:Failed", "n:Slow", "Verdict")
    cells = "".join(
        f'<th scope="col" class=n>{head[2:]}</th>' if head.startswith("n:") else f'<th scope="col">{head}</th>'
        for head in heads
    )
    rows = "".join(_row(outcome, folder) for outcome in outcomes)
    return f"<div class=scroll><table><thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table></div>"


def _row(outcome: Outcome, folder: str) -> str:
    title = _(outcome.title or outcome.name)
    if outcome.page:
        title = f'<a href="{_(folder)}/{_(outcome.page)}">{title}</a>'
    below = f"<div class=below>{_(outcome.done)}</div>" if outcome.done else ""
    slow = sum(clients.slow for clients in outcome.clients)
    seen = ", ".join(f"{c.region} {c.requests - c.failed} of {c.requests}" for c in outcome.clients)
    below += f"<div class=below>answered to clients of {_(seen)}</div>" if seen else ""
    verdict = "<td class=met>✓ passed</td>" if outcome.passed else "<td class=missed>✗ missed</td>"
    return (
        f'<tr><th scope="row" class=wide>{title}{below}</th><td class=n>{_seconds(outcome.marks.get("withdrawn"))}</td>'
        f"<td class=n>{_seconds(outcome.gap_s)}</td><td class=n>{outcome.requests}</td>"
        f"<td class=n>{outcome.failed}</td><td class=n>{slow}</td>{verdict}</tr>"
    )


def _section(heading: str, content: str) -> str:
    return f"<section><h2>{_(heading)}</h2>{content}</section>"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


def _(text: str) -> str:
    return html.escape(text, quote=True)
