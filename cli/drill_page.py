"""The report of a drill's run as one HTML page: nothing from elsewhere, for screens and for paper. Pure."""

from __future__ import annotations

import hashlib
import html
from typing import Any, Final

from cli.drill_picture import picture
from cli.drill_report import Check, checks, gap_bound, requests, seconds, stages
from cli.drill_steps import begin_s, duration_s, extent_of, fault_of, seconds_of, steps_of, title_of
from cli.drill_summary import bound_words, summary
from fleet.report_style import STYLE

Json = dict[str, Any]

_NOTE: Final = (
    "Times are in seconds since the first fault, as the control plane heard of them. The computed bound is the worst "
    "case of the configuration: the probes of the slowest DNS server, then the time to live of answers, then a "
    "client's time-out and next try."
)


def as_html(run: Json, ttl_s: float, signed: Json | None = None) -> str:
    """The report; `signed` is the run as it is stored, with its signature."""
    found = checks(run, ttl_s) if run.get("marks") else []
    body = "".join(
        (
            _header(run, found),
            _section("Timeline", f"<div class=scroll>{picture(run)}</div>{_legend(run)}"),
            _section("Objectives", _objectives(found)) if found else "",
            _failures(run),
            _section("Clients", _clients(run, ttl_s)) if run.get("clients") else "",
            _section("What was seen", _marks(run)),
            _section("What agents said", _words(run)) if run.get("said") else "",
            _section("Configuration", _configuration(run)),
            _section("Signature", _signature(signed or run)),
        )
    )
    name = _(f"{_drill(run)}, run {_number(run)}")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Failover drill {name}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><style>{STYLE}</style></head><body><main>{body}</main>'
        f"<footer><p>{_(_NOTE)}</p></footer></body></html>\n"
    )


def _header(run: Json, found: list[Check]) -> str:
    spec = run.get("spec", {})
    state, word = _verdict(run)
    met = sum(check.met for check in found)
    said = f"{met} of {len(found)} objectives met." if found else ""
    subject = "; ".join(title_of(step) for step in steps_of(spec))
    rows = (
        ("Hostname", str(spec.get("hostname", "?"))),
        ("Fault at", _moment(str(run.get("fault_time", "")))),
        ("Run", str(run.get("name", "")) or "-"),
    )
    facts = "".join(f"<div><dt>{_(name)}</dt><dd>{_(value)}</dd></div>" for name, value in rows)
    return (
        f'<header><p class="kicker">Failover drill</p><h1>{_(_drill(run))} '
        f'<span class="run">run {_(_number(run))}</span></h1><p class="subject">{_(subject)}</p>'
        f'<p class="verdict {state}" role="status"><strong>{word}</strong> '
        f"<span>{_(said)} {_(requests(run))}.</span></p>{_summary(run, found)}<dl class=facts>{facts}</dl>"
        f"{_cards(run, found)}</header>"
    )


def _summary(run: Json, found: list[Check]) -> str:
    text = summary(run, found)
    return f"<p class=summary>{_(text)}</p>" if text else ""


def _verdict(run: Json) -> tuple[str, str]:
    if run.get("passed"):
        return "passed", "Passed"
    if run.get("state") == "STATE_ABORTED":
        return "aborted", "Called off"
    if str(run.get("state", "")) in ("STATE_STARTING", "STATE_FAULTY", "STATE_RECOVERING"):
        return "aborted", "Goes on"
    return "failed", "Missed its objectives"


def _cards(run: Json, found: list[Check]) -> str:
    """The few figures that are read first."""
    cards = []
    withdrawn = [check.measured_s for check in found if "withdrawn" in check.what]
    if withdrawn:
        worst = None if None in withdrawn else max(value for value in withdrawn if value is not None)
        cards.append(("Out of every DNS answer", "never" if worst is None else seconds(worst), "after the fault"))
    gaps = [seconds_of(client.get("longest_gap", "")) for client in run.get("clients", [])]
    if gaps:
        cards.append(("Longest gap of a client", seconds(max(gaps)), "without an answer"))
    rerouted = next((check.measured_s for check in found if "from elsewhere" in check.what), None)
    if rerouted is not None:
        cards.append(("Client served from elsewhere", seconds(rerouted), "after the fault"))
    asked, failed = int(run.get("requests", 0)), int(run.get("failed_requests", 0))
    if asked:
        cards.append(
            ("Requests answered", f"{100 * (asked - failed) / asked:.2f} %", f"{asked} asked, {failed} failed")
        )
    items = "".join(f"<li><span>{_(a)}</span><b>{_(b)}</b><small>{_(c)}</small></li>" for a, b, c in cards)
    return f"<ul class=cards>{items}</ul>" if items else ""


def _legend(run: Json) -> str:
    names = list(dict.fromkeys(stage.name for stage in stages(run, 0.0)))
    marks = "".join(f'<li><i class="dot m-{_(n.replace(" ", "-"))}"></i>{_(n)}</li>' for n in names)
    shares = (("ok", "all answered"), ("some", "some failed"), ("none", "none answered"))
    strips = "".join(f'<li><i class="box {css}"></i>{what}</li>' for css, what in shares)
    return f"<ul class=legend>{marks}{strips if run.get('clients') else ''}</ul>"


def _objectives(found: list[Check]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{_(check.what[:1].upper() + check.what[1:])}</th>'
        f"<td class=n>{seconds(check.measured_s) if check.measured_s is not None else 'never'}</td>"
        f"<td class=n>{seconds(check.objective_s)}</td><td class=n>{_bound(check)}</td>"
        f'<td class="{"met" if check.met else "missed"}">{"✓ met" if check.met else "✗ missed"}</td></tr>'
        for check in found
    )
    return _table(
        "What the run had to show", ("Objective", "n:Measured", "n:At most", "n:Computed bound", "Verdict"), rows
    )


def _bound(check: Check) -> str:
    words = bound_words(check)
    if not words:
        return seconds(check.bound_s)
    verdict = "<span class=met>held</span>" if words.startswith("within") else "<span class=missed>exceeded</span>"
    return f"{seconds(check.bound_s)}, {verdict}"


def _failures(run: Json) -> str:
    failures = "".join(f"<li>{_(str(failure))}</li>" for failure in run.get("failures", []))
    heading = "Why it was called off" if run.get("state") == "STATE_ABORTED" else "What was missed"
    return _section(heading, f"<ul class=failures>{failures}</ul>") if failures else ""


def _marks(run: Json) -> str:
    several = len(steps_of(run.get("spec", {}))) > 1
    rows = "".join(
        f"<tr><td class=n>{seconds(stage.after_s)}</td>{f'<td class=n>{stage.step}</td>' if several else ''}"
        f'<th scope="row" class=stage><i class="dot m-{_(stage.name.replace(" ", "-"))}"></i>{_(stage.name)}</th>'
        f"<td>{_(stage.detail)}</td></tr>"
        for stage in stages(run, 0.0)
    )
    heads = ("n:After", *(("n:Step",) if several else ()), "Stage", "What was seen")
    return _table("Every stage, in the order of time", heads, rows) if rows else "<p>Nothing was seen.</p>"


def _words(run: Json) -> str:
    rows = ""
    # A host that was cut off told it only afterwards.
    for word in sorted(run.get("said", []), key=lambda word: str(word.get("time", ""))):
        node = str(word.get("node", "")).rpartition("/")[2]
        rows += f"<tr><td class=n>{_(_clock(str(word.get('time', ''))))}</td>"
        rows += f'<th scope="row">{_(node)}</th><td>{_(str(word.get("text", "")))}</td></tr>'
    return _table(
        "Faults that were begun and undone, by each host's own clock (UTC)", ("n:At", "Node", "What it said"), rows
    )


def _clock(text: str) -> str:
    """The time of the day to a tenth of a second."""
    return text.partition("T")[2].removesuffix("Z")[:10]


def _clients(run: Json, ttl_s: float) -> str:
    rows, failures = "", any(client.get("last_failure") for client in run.get("clients", []))
    for client in run.get("clients", []):
        region, node = (_(str(client.get(key, "")).rpartition("/")[2]) for key in ("region", "node"))
        asked, failed, slow = (int(client.get(key, 0)) for key in ("requests", "failed", "slow"))
        share = f"{100 * (asked - failed) / asked:.2f} %" if asked else "-"
        rows += (
            f'<tr><th scope="row">{region}</th><td>{node}</td><td>{_(str(client.get("resolver", "")) or "-")}</td>'
            f"<td class=n>{asked}</td><td class=n>{failed}</td><td class=n>{share}</td><td class=n>{slow}</td>"
            f"<td class=n>{seconds(seconds_of(client.get('longest_gap', '')))}</td>"
        )
        rows += f"<td>{_(str(client.get('last_failure', '')) or '-')}</td></tr>" if failures else "</tr>"
    heads: tuple[str, ...] = (
        "Clients of",
        "Asked by",
        "Through",
        "n:Requests",
        "n:Failed",
        "n:Answered",
        "n:Slow",
        "n:Longest gap",
    )
    bound = gap_bound(run, ttl_s)
    below = f"<p>{_(bound[:1].upper() + bound[1:])}.</p>" if bound else ""
    heads = (*heads, "Last failure") if failures else heads
    return _table("What synthetic clients saw, by region", heads, rows) + below


def _configuration(run: Json) -> str:
    spec = run.get("spec", {})
    rows = ""
    for number, step in enumerate(steps_of(spec), 1):
        span = f"{begin_s(step):g} s to {begin_s(step) + duration_s(step):g} s"
        rows += (
            f"<tr><td class=n>{number}</td><th scope=row>{_(fault_of(step))}</th>"
            f"<td>{_(', '.join(step['targets']))}</td>"
            f"<td>{_(extent_of(step)) or '-'}</td><td>{span}</td></tr>"
        )
    steps = _table("Faults", ("n:Step", "Fault", "Targets", "Extent", "Planned"), rows)
    guards = (
        ("Regions with healthy replicas besides the targets, at least", str(spec.get("min_healthy_regions") or 1)),
        ("Failed requests of clients, at most", _percent(spec.get("max_failed_percent"))),
        ("Load of the other hosts before it begins, at most", _percent(spec.get("max_load_percent"))),
        ("Schedule (UTC)", str(spec.get("schedule") or "by hand")),
        ("Blocked windows (UTC)", ", ".join(spec.get("blocked", [])) or "none"),
        ("Clients ask for addresses", str(spec.get("resolver") or "as each agent's settings say")),
    )
    rows = "".join(f'<tr><th scope="row">{_(name)}</th><td>{_(value)}</td></tr>' for name, value in guards)
    return steps + _table("Guards and times", ("Guard", "Value"), rows)


def _percent(value: Any) -> str:
    return f"{int(value)} %" if value else "no bound"


def _signature(run: Json) -> str:
    text = str(run.get("signed_report", ""))
    if not text:
        return "<p>This run is not signed: a run is signed by the fleet's CA when it ends.</p>"
    digest = hashlib.sha256(text.encode()).hexdigest()
    command = f"locci drill report {_drill(run)} --run {_number(run)} --verify"
    rows = (
        ("Signed by", "<span>the fleet's CA (ECDSA P-256, SHA-256)</span>"),
        ("SHA-256 of the signed report", f"<code>{digest}</code>"),
        ("Signature (DER, base64)", f"<code>{_(str(run.get('signature', '')))}</code>"),
        ("Check it", f"<code>{_(command)}</code>"),
    )
    return "<dl class=signature>" + "".join(f"<dt>{_(a)}</dt><dd>{b}</dd>" for a, b in rows) + "</dl>"


def _section(heading: str, content: str) -> str:
    return f"<section><h2>{_(heading)}</h2>{content}</section>"


def _table(caption: str, heads: tuple[str, ...], rows: str) -> str:
    """Heads that begin with `n:` are those of numbers."""
    cells = "".join(
        f'<th scope="col" class=n>{_(head[2:])}</th>' if head.startswith("n:") else f'<th scope="col">{_(head)}</th>'
        for head in heads
    )
    head = f"<thead><tr>{cells}</tr></thead>"
    return f"<div class=scroll><table><caption>{_(caption)}</caption>{head}<tbody>{rows}</tbody></table></div>"


def _moment(text: str) -> str:
    return text.replace("T", " ").partition(".")[0].removesuffix("Z") + " UTC" if text else "it did not begin"


def _drill(run: Json) -> str:
    parts = str(run.get("name", "")).split("/")
    return parts[1] if len(parts) > 1 else "a drill"


def _number(run: Json) -> str:
    return str(run.get("name", "")).rpartition("/")[2] or "-"


def _(text: str) -> str:
    return html.escape(text, quote=True)
