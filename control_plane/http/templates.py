"""Path templates of `google.api.http`: `/v1/{name=apps/*/rollouts/*}:watch` (google/api/http.proto)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from fleet.errors import invalid

_VARIABLE = re.compile(r"\{(?P<path>[a-z0-9_.]+)(?:=(?P<pattern>[^{}]+))?\}")


@dataclass(frozen=True, slots=True)
class Template:
    """A compiled template; `variables` are the field paths that it binds, in order."""

    text: str
    regex: re.Pattern[str]
    variables: tuple[str, ...]

    def match(self, raw_path: str) -> Mapping[str, str] | None:
        """Field paths with their decoded values, or None when the (still percent-encoded) path is another's.

        Raises INVALID_ARGUMENT when what it binds is no UTF-8.
        """
        found = self.regex.fullmatch(raw_path)
        if found is None:
            return None
        return {path: _decode(value, path) for path, value in zip(self.variables, found.groups(), strict=True)}


def compile_template(text: str) -> Template:
    """The template of a rule. `*` stands for one segment, `**` for the rest; a colon never belongs to a segment."""
    pieces: list[str] = []
    variables: list[str] = []
    position = 0
    for variable in _VARIABLE.finditer(text):
        pieces.append(_pattern(text[position : variable.start()]))
        pieces.append(f"({_pattern(variable['pattern'] or '*')})")
        variables.append(variable["path"])
        position = variable.end()
    pieces.append(_pattern(text[position:]))
    return Template(text, re.compile("".join(pieces)), tuple(variables))


def _pattern(text: str) -> str:
    return re.escape(text).replace(r"\*\*", "[^:]+").replace(r"\*", "[^/:]+")


def _decode(value: str, path: str) -> str:
    try:
        return unquote_to_bytes(value).decode()
    except UnicodeDecodeError:
        raise invalid(path, f"{path}: the path is not UTF-8") from None
