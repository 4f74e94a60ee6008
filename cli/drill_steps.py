"""The steps of a drill as the API gives it: a drill of a single fault has one. Pure."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

_SINGLE = (
    *("fault", "program", "fault_duration", "loss_percent", "delay", "rate_kbit", "ballast_bytes"),
    *("clock_offset", "requests_per_second"),
)
_WITHDRAWN = ("region-cut", "node-cut", "inbound-cut", "outbound-cut", "node-killed")
DURATION_DEFAULT_S = 30.0


def steps_of(spec: Json) -> list[Json]:
    """Each with `targets`."""
    if spec.get("steps"):
        return list(spec["steps"])
    target = spec.get("target", "")
    return [{key: spec[key] for key in _SINGLE if key in spec} | {"targets": [target] if target else []}]


def fault_of(step: Json) -> str:
    """The fault as people write it, as in `region-cut`."""
    return str(step.get("fault", "")).removeprefix("FAULT_KIND_").lower().replace("_", "-")


def title_of(step: Json) -> str:
    """What people call a step."""
    what = f"{fault_of(step)} {step.get('program', '')}".strip()
    return str(step.get("title", "")) or f"{what} of {', '.join(step.get('targets', ())) or '?'}"


def seconds_of(text: str) -> float:
    """Seconds of a duration such as `1.5s`; 0 for an empty one."""
    return float(text.removesuffix("s") or 0)


def begin_s(step: Json) -> float:
    """When it begins, in seconds since the first."""
    return seconds_of(step.get("start_offset", ""))


def duration_s(step: Json) -> float:
    """How long its fault lasts at most."""
    return seconds_of(step.get("fault_duration", "")) or DURATION_DEFAULT_S


def withdraws(step: Json) -> bool:
    """Whether DNS servers must answer it by withdrawing the targets."""
    fault = fault_of(step)
    return fault in _WITHDRAWN or (fault in ("program-killed", "program-frozen") and step.get("program") == "edge")


def extent_of(step: Json) -> str:
    """How bad the fault is, in a few words; empty where its name says all."""
    said = []
    for key, form in (
        ("program", "{}"),
        ("loss_percent", "{} % lost"),
        ("delay", "{} later"),
        ("rate_kbit", "{} kbit/s"),
        ("ballast_bytes", "{} bytes"),
        ("clock_offset", "by {}"),
        ("requests_per_second", "{} requests/s"),
    ):
        value = step.get(key)
        if value and value not in ("0", "0s"):
            said.append(form.format(value))
    return ", ".join(said)
