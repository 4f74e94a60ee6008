"""Listings: `--filter`, `--order-by` and `--watch` of every command that lists, and names for the shell to complete."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final

import typer

from cli.client import Client, Json
from cli.context import load, path_in_effect
from cli.failure import Failure
from cli.follow import follow
from cli.output import Column, Format, clean, dump, line, note, show
from cli.session import CONTEXT_FILE, run, run_with

Filter = Annotated[
    str, typer.Option("--filter", metavar="FILTER", help="Which to list, as in 'labels.tier = gold AND NOT name:test'.")
]
OrderBy = Annotated[str, typer.Option("--order-by", metavar="FIELDS", help="In which order, as in 'create_time desc'.")]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Go on with changes; end with Ctrl-C.")]


@dataclass(frozen=True, slots=True)
class How:
    """How to list: what a command was given."""

    filter: str = ""
    order_by: str = ""
    watch: bool = False

    def within(self, restriction: str) -> How:
        """The same within what the restriction names."""
        both = f"{restriction} AND ({self.filter})" if self.filter else restriction
        return replace(self, filter=both)


WATCHED: Final = frozenset({"regions", "nodes", "apps", "replicas", "rollouts", "operations"})
"""What the API has watches of; the rest is asked for every POLL_S."""
POLL_S: Final = 2.0
_COMPLETE_S: Final = 1.5


def show_list(
    path: str,
    key: str,
    columns: Sequence[Column],
    output: Format,
    empty: str,
    how: How,
    *,
    wide: Sequence[Column] = (),
) -> None:
    """Lists what is at `path` of the API, whose answer has it as `key`; with `how.watch` goes on with what changes."""
    asked: Json = {"filter": how.filter, "order_by": how.order_by}
    if not how.watch:
        show(run(lambda client: client.pages(path, key, asked)), columns, output, empty, wide=wide)
        return
    shown = wide if output is Format.WIDE and wide else columns

    async def go_on(client: Client) -> None:
        if output.tabular:
            line("  ".join(name for name, _ in shown))
        source = _watched if key in WATCHED else _polled
        async for change in source(client, path, key, asked):
            _say(change, shown, output)

    run(go_on)


async def _watched(client: Client, path: str, key: str, asked: Json) -> AsyncIterator[Json]:
    if asked.get("order_by"):
        note("--order-by has no meaning with --watch")
    # After a broken connection the server tells everything again: what is known already is not said twice.
    known: dict[str, Json] = {}
    async for change in follow(client, f"{path}:watch", {"filter": asked["filter"]}, note):
        kind = str(change.get("kind", "")).removeprefix("KIND_").lower()
        item = next((value for name, value in change.items() if name not in ("kind", "name")), None)
        if item is None and kind == "removed":
            known.pop(change["name"], None)
            yield {"name": change["name"]}
        elif isinstance(item, dict) and known.get(change["name"]) != item:
            known[change["name"]] = item
            yield item


async def _polled(client: Client, path: str, key: str, asked: Json) -> AsyncIterator[Json]:
    known: dict[str, Json] = {}
    while True:
        present = {item["name"]: item for item in await client.pages(path, key, asked)}
        for name in [name for name in known if name not in present]:
            yield {"name": name}
        for name, item in present.items():
            if known.get(name) != item:
                yield item
        known = present
        await asyncio.sleep(POLL_S)


def _say(item: Json, columns: Sequence[Column], output: Format) -> None:
    gone = set(item) == {"name"}
    if output is Format.JSON:
        line(json.dumps({**item, "removed": True} if gone else item, ensure_ascii=False))
    elif output is Format.YAML:
        line("---")
        dump({**item, "removed": True} if gone else item, output)
    elif gone:
        line(f"{clean(item['name'])}  removed")
    else:
        line("  ".join(clean(cell(item)).replace("\n", " ") or "-" for _, cell in columns))


def names_of(collection: str) -> Callable[[str], list[str]]:
    """Completes ids of a collection by asking the API; silent when that cannot be had at once."""

    def complete(incomplete: str) -> list[str]:
        async def work(client: Client) -> list[Any]:
            async with asyncio.timeout(_COMPLETE_S):
                return await client.pages(collection, collection, most=500)

        try:
            found = run_with(load(path_in_effect(CONTEXT_FILE.get())), work)
        except (Failure, TimeoutError):
            return []
        ids = [str(item["name"]).rpartition("/")[2] for item in found]
        return sorted(each for each in ids if each.startswith(incomplete))

    return complete
