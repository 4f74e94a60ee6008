"""Data on standard output as a table, JSON or YAML; progress on standard error."""

from __future__ import annotations

import datetime
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.text import Text

from cli.client import Json


class Format(StrEnum):
    """How data is written."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"

    @property
    def tabular(self) -> bool:
        """Whether people read it: not JSON or YAML."""
        return self in (Format.TABLE, Format.WIDE)


Output = Annotated[Format, typer.Option("-o", "--output", help="How to write: table, wide, json or yaml.")]

Column = tuple[str, Callable[[Json], str]]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_STYLES = {
    "ready": "green",
    "healthy": "green",
    "yes": "green",
    "succeeded": "green",
    "suspect": "yellow",
    "joining": "yellow",
    "warning": "yellow",
    "rolling-back": "yellow",
    "lost": "red",
    "revoked": "red",
    "failed": "red",
    "rolled-back": "red",
    "error": "red",
}


def show(
    items: Sequence[Json], columns: Sequence[Column], output: Format, empty: str, *, wide: Sequence[Column] = ()
) -> None:
    """A list: a table with these columns, or the items as the API has them. `empty` is said when there are none.

    `wide` are the columns of the wide form, where it has more.
    """
    columns = wide if output is Format.WIDE and wide else columns
    if not output.tabular:
        dump(list(items), output)
    elif items:
        table([name for name, _ in columns], [[cell(item) for _, cell in columns] for item in items])
    else:
        note(empty)


def show_one(item: Json, columns: Sequence[Column], output: Format) -> None:
    """One thing: its facts line by line, or the item as the API has it."""
    if not output.tabular:
        dump(item, output)
        return
    width = max(len(name) for name, _ in columns)
    for name, value in columns:
        first, *more = clean(value(item)).split("\n")
        line(f"{name.lower():<{width}}  {first}".rstrip())
        for text in more:
            line(f"{'':<{width}}  {text}".rstrip())


def dump(value: Any, output: Format) -> None:
    """A value as JSON or YAML, as the API has it."""
    if output is Format.YAML:
        line(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=1 << 20).rstrip("\n"))
    else:
        line(json.dumps(value, indent=2, ensure_ascii=False))


def table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Aligned columns, a row a line however long; in colour on a terminal that wants it."""
    lines = [list(names), *([clean(cell).replace("\n", " ") or "-" for cell in row] for row in rows)]
    widths = [max(len(row[index]) for row in lines) for index in range(len(names))]
    console = Console(color_system=None if "NO_COLOR" in os.environ else "auto") if sys.stdout.isatty() else None
    for number, row in enumerate(lines):
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        if console is None:
            line("  ".join(padded).rstrip())
        else:
            styles = ["bold" if number == 0 else _STYLES.get(cell, "") for cell in row]
            cells = [Text(cell, style) for cell, style in zip(padded, styles, strict=True)]
            console.print(Text("  ").join(cells), soft_wrap=True)


def line(text: str) -> None:
    """One line of data."""
    print(text, flush=True)


def note(text: str) -> None:
    """One line of progress or advice."""
    print(clean(text), file=sys.stderr, flush=True)


def clean(text: str) -> str:
    """Text without control characters: what a container wrote must not steer a terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def word(value: str, prefix: str) -> str:
    """An enum value as people say it: `NODE_CONDITION_READY` without `NODE_CONDITION_` is `ready`."""
    return value.removeprefix(prefix).lower().replace("_", "-")


def age(value: str | None, now: datetime.datetime | None = None) -> str:
    """How long ago a time of RFC 3339 was, as in `5m`; empty when it is unset."""
    if not value:
        return ""
    then = datetime.datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", value).replace("Z", "+00:00"))
    seconds = int(((now or datetime.datetime.now(datetime.UTC)) - then).total_seconds())
    ahead = "in " if seconds < 0 else ""
    seconds = abs(seconds)
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{ahead}{seconds // size}{unit}"
    return f"{ahead}{seconds}s"


def yes(value: object) -> str:
    """`yes` or `no`."""
    return "yes" if value else "no"


def pairs(values: dict[str, str] | None) -> str:
    """`a=1,b=2`."""
    return ",".join(f"{key}={value}" for key, value in sorted((values or {}).items()))


def last(name: str | None) -> str:
    """The id at the end of a resource name."""
    return (name or "").rsplit("/", 1)[-1]
