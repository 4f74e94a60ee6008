"""`locci top`."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

import typer

from cli import columns
from cli.client import Client
from cli.listing import names_of
from cli.output import Format, Output, line, show
from cli.session import name_of, run

LOOK_S: Final = 2.0


def top(
    app: Annotated[
        str, typer.Argument(metavar="APP", help="The app's id; without it, all.", autocompletion=names_of("apps"))
    ] = "",
    by_memory: Annotated[bool, typer.Option("--memory", "-m", help="Most memory first, instead of most CPU.")] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look again every two seconds.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="So many at most.")] = 50,
    output: Output = Format.TABLE,
) -> None:
    """What replicas use at the moment, most first."""
    parent = name_of("apps", app) if app else "apps/-"
    key = "memory_bytes" if by_memory else "cpus"

    async def look(client: Client) -> None:
        while True:
            rows = (await client.get(f"{parent}/usage")).get("usage", [])
            rows.sort(key=lambda row: float(row.get(key, 0)), reverse=True)
            show(rows[:limit], columns.USAGE, output, "no node has said what its replicas use")
            if not watch:
                return
            await asyncio.sleep(LOOK_S)
            line("")

    run(look)
