"""Settings as TOML: the few kinds of values that the programs' settings have."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

Value = str | int | float | bool | Sequence[str]


def toml(settings: Mapping[str, Value]) -> str:
    """A flat TOML document. JSON's strings, numbers and arrays of strings are TOML's too."""
    return "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in settings.items())
