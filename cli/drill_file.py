"""A drill as people declare it, in a file or by options: from their words to the API's. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from cli.durations import seconds_text
from cli.failure import USAGE, Failure
from cli.yaml_source import Document, read

Json = dict[str, Any]

FAULTS: Final = (
    *("region-cut", "node-cut", "inbound-cut", "outbound-cut", "registry-cut", "control-plane-cut"),
    *("node-killed", "program-killed", "program-frozen", "link-lossy", "link-slow", "disk-full"),
    *("clock-jump", "bad-release", "traffic-surge"),
)
FAULT_DURATIONS: Final = {"duration": "fault_duration", "delay": "delay", "clock_offset": "clock_offset"}
OBJECTIVES: Final = {"withdraw_objective": "withdraw_objective", "reroute_objective": "reroute_objective"}
FAULT_NUMBERS: Final = ("loss_percent", "rate_kbit", "ballast_bytes", "requests_per_second")
GUARDS: Final = ("min_healthy_regions", "max_failed_percent", "max_load_percent")
FAULT_KEYS: Final = ("fault", "program", *FAULT_DURATIONS, *FAULT_NUMBERS)
STEP_KEYS: Final = ("title", "at", "targets", *FAULT_KEYS)
RUN_KEYS: Final = ("hostname", "schedule", "resolver", *OBJECTIVES, *GUARDS, "blocked")
KEYS: Final = ("name", "target", *FAULT_KEYS, *RUN_KEYS, "steps")
_STEP = re.compile(r"steps\[\d+\](?:\.\w+)?")

Wrong = Callable[[str, str], Failure]
"""A Failure for a key, and what is wrong with it."""


def spec_of(fields: Mapping[str, Any], label: str = "{}") -> Json:
    """The API's form of a drill; `label` is how a key is named to who wrote it. Raises a Failure for what is wrong."""

    def wrong(key: str, what: str) -> Failure:
        return Failure(f"{label.format(key)}: {what}", exit_code=USAGE)

    spec: Json = _run(fields, wrong, label)
    if "steps" not in fields:
        if not fields.get("target"):
            raise wrong("target", "is missing")
        return {**_fault(fields, wrong, label), "target": _text(fields, "target", wrong), **spec}
    alone = [key for key in ("target", *FAULT_KEYS) if key in fields]
    if alone:
        raise wrong(alone[0], "belongs into a step, where there are steps")
    steps = fields["steps"]
    if not isinstance(steps, list) or not steps:
        raise wrong("steps", "must be a list of faults, each with its targets")
    return {**spec, "steps": [_step(step, f"steps[{index}]") for index, step in enumerate(steps)]}


def _run(fields: Mapping[str, Any], wrong: Wrong, label: str) -> Json:
    """What is said of the whole run."""
    if not fields.get("hostname"):
        raise wrong("hostname", "is missing")
    spec: Json = {key: _text(fields, key, wrong) for key in ("hostname", "schedule", "resolver")}
    spec |= {key: _number(fields, key, wrong) for key in GUARDS}
    spec |= {to: seconds_text(str(fields[key]), label.format(key)) for key, to in OBJECTIVES.items() if key in fields}
    blocked = fields.get("blocked", [])
    if not isinstance(blocked, list) or not all(isinstance(window, str) for window in blocked):
        raise wrong("blocked", "must be a list of windows such as 'mon-fri 08:00-18:00'")
    return {**spec, "blocked": blocked}


def _fault(fields: Mapping[str, Any], wrong: Wrong, label: str) -> Json:
    """What is said of one fault."""
    fault = fields.get("fault")
    if not fault:
        raise wrong("fault", "is missing")
    if fault not in FAULTS:
        raise wrong("fault", f"{fault!r} is not known; use {', '.join(FAULTS)}")
    spec: Json = {"fault": f"FAULT_KIND_{fault.upper().replace('-', '_')}", "program": _text(fields, "program", wrong)}
    for key in FAULT_NUMBERS:
        value = _number(fields, key, wrong)
        spec[key] = str(value) if key == "ballast_bytes" else value
    for key, field in FAULT_DURATIONS.items():
        if key in fields:
            text = str(fields[key])
            back = "-" if key == "clock_offset" and text.startswith("-") else ""
            spec[field] = back + seconds_text(text.removeprefix(back), label.format(key))
    return spec


def _step(fields: Any, at: str) -> Json:
    """One step of a drill."""

    def wrong(key: str, what: str) -> Failure:
        return Failure(f"{at}.{key}: {what}", exit_code=USAGE)

    if not isinstance(fields, dict):
        raise Failure(f"{at}: must be a mapping of keys to values", exit_code=USAGE)
    for key in fields:
        if key not in STEP_KEYS:
            raise wrong(str(key), f"is no key of a step; the keys are {', '.join(STEP_KEYS)}")
    targets = fields.get("targets", [])
    if not isinstance(targets, list) or not targets or not all(isinstance(target, str) for target in targets):
        raise wrong("targets", "must be a list such as [regions/eu, nodes/us-1]")
    step = {"title": _text(fields, "title", wrong), "targets": targets, **_fault(fields, wrong, f"{at}.{{}}")}
    if "at" in fields:
        step["start_offset"] = seconds_text(str(fields["at"]), f"{at}.at")
    return step


def _text(fields: Mapping[str, Any], key: str, wrong: Wrong) -> str:
    value = fields.get(key, "")
    if not isinstance(value, str):
        raise wrong(key, f"{value!r} is no text; write it in quotes")
    return value


def _number(fields: Mapping[str, Any], key: str, wrong: Wrong) -> int:
    value = fields.get(key, 0)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise wrong(key, f"{value!r} is no whole number from 0")
    return value


def drills_in(text: str, file: str) -> list[tuple[str, Json]]:
    """Names and specs of the drills of a YAML file. Raises a Failure that names the file and the line."""
    found = [_drill(document, file) for document in read(text, file)]
    if not found:
        raise Failure("the file declares no drill", where=file, exit_code=USAGE)
    return found


def _drill(document: Document, file: str) -> tuple[str, Json]:
    value = document.value
    if not isinstance(value, dict):
        raise Failure("a drill is a mapping of keys to values", where=f"{file}:1", exit_code=USAGE)
    for key in value:
        if key not in KEYS:
            where = f"{file}:{document.line(str(key))}"
            hint = f"the keys are {', '.join(KEYS)}"
            raise Failure(f"{key!r} is no key of a drill", where=where, hint=hint, exit_code=USAGE)
    name = value.get("name")
    if not isinstance(name, str) or not name:
        raise Failure("name: is missing", where=f"{file}:{document.line('')}", exit_code=USAGE)
    try:
        return name, spec_of(value)
    except Failure as failure:
        step = _STEP.match(failure.what)
        key = step.group() if step else failure.what.partition(":")[0]
        failure.where = f"{file}:{document.line(key)}"
        raise
