"""Durations as people type them."""

from __future__ import annotations

import re

from cli.failure import USAGE, Failure

_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def seconds_text(text: str, option: str) -> str:
    """`90m` as the API takes it: `5400s`."""
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise Failure(f"{option}: {text!r} is not a duration such as 30s, 10m, 1h or 7d", exit_code=USAGE)
    return f"{float(found[1]) * _SECONDS[found[2]]:.3f}".rstrip("0").rstrip(".") + "s"
