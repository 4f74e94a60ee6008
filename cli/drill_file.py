"""A drill as people declare it, in a file or by options: from their words to the API's. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cli.durations import seconds_text
from cli.failure import USAGE, Failure
from cli.yaml_source import Document, read

Json = dict[str, Any]

FAULTS: Final = (
    *("region-cut", "node-cut", "inbound-cut", "outbound-cut", "program-killed"),
    *("link-lossy", "link-slow", "program-frozen", "disk-full"),
)
DURATIONS: Final = {
    "duration": "fault_duration",
    "withdraw_objective": "withdraw_objective",
    "reroute_objective": "reroute_objective",
    "delay": "delay",
}
NUMBERS: Final = (
    *("loss_percent", "rate_kbit", "ballast_bytes"),
    *("min_healthy_regions", "max_failed_percent", "max_load_percent"),
)
WORDS: Final = ("target", "program", "hostname", "schedule")
REQUIRED: Final = ("fault", "target", "hostname")
KEYS: Final = ("name", "fault", *WORDS, *DURATIONS, *NUMBERS, "blocked")


def spec_of(fields: Mapping[str, Any], label: str = "{}") -> Json:
    """The API's form of a drill; `label` is how a key is named to who wrote it. Raises a Failure for what is wrong."""

    def wrong(key: str, what: str) -> Failure:
        return Failure(f"{label.format(key)}: {what}", exit_code=USAGE)

    for key in REQUIRED:
        if not fields.get(key):
            raise wrong(key, "is missing")
    fault = fields["fault"]
    if fault not in FAULTS:
        raise wrong("fault", f"{fault!r} is not known; use {', '.join(FAULTS)}")
    spec: Json = {"fault": f"FAULT_KIND_{fault.upper().replace('-', '_')}"}
    for key in WORDS:
        value = fields.get(key, "")
        if not isinstance(value, str):
            raise wrong(key, f"{value!r} is no text; write it in quotes")
        spec[key] = value
    for key in NUMBERS:
        value = fields.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
            raise wrong(key, f"{value!r} is no whole number from 0")
        spec[key] = str(value) if key == "ballast_bytes" else value
    for key, field in DURATIONS.items():
        if key in fields:
            spec[field] = seconds_text(str(fields[key]), label.format(key))
    blocked = fields.get("blocked", [])
    if not isinstance(blocked, list) or not all(isinstance(window, str) for window in blocked):
        raise wrong("blocked", "must be a list of windows such as 'mon-fri 08:00-18:00'")
    return {**spec, "blocked": blocked}


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
        key = failure.what.partition(":")[0]
        failure.where = f"{file}:{document.line(key)}"
        raise
