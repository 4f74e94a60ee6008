"""`locci operations`: what takes long, whatever it is."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from cli import columns
from cli.client import Client, Json
from cli.durations import seconds_text
from cli.failure import FAILED, Failure
from cli.follow import follow
from cli.listing import Filter, How, OrderBy, Watch, names_of, show_list
from cli.output import Format, Output, note, show_one
from cli.session import name_of, run

app = typer.Typer(help="Operations: rollouts, drains, drills and upgrades that take a while.", no_args_is_help=True)

Operation = Annotated[
    str, typer.Argument(metavar="OPERATION", help="The operation's id.", autocompletion=names_of("operations"))
]


@app.command()
def ls(filter_: Filter = "", order_by: OrderBy = "", watch: Watch = False, output: Output = Format.TABLE) -> None:
    """List operations."""
    how = How(filter_, order_by, watch)
    show_list("operations", "operations", columns.OPERATIONS, output, "nothing goes on", how)


@app.command("show")
def show_(operation: Operation, output: Output = Format.TABLE) -> None:
    """Show an operation."""
    show_one(run(lambda c: c.get(name_of("operations", operation))), columns.OPERATIONS, output)


@app.command()
def wait(
    operation: Operation,
    timeout: Annotated[str, typer.Option(help="How long to wait at most, as in 10m.")] = "30m",
    output: Output = Format.TABLE,
) -> None:
    """Wait for the end of an operation; exit code 1 when it did not succeed."""
    name = name_of("operations", operation)
    seconds = float(seconds_text(timeout, "--timeout").removesuffix("s"))
    ended = run(lambda c: _ended(c, name, seconds))
    show_one(ended, columns.OPERATIONS, output)
    if ended["state"] != "STATE_SUCCEEDED":
        raise Failure(f"{name} did not succeed", where=ended.get("target", ""), exit_code=FAILED)


@app.command()
def cancel(operation: Operation) -> None:
    """End an operation: a rollout goes back to where it came from."""
    name = name_of("operations", operation)
    run(lambda c: c.call("POST", f"{name}:cancel", body={}))
    note(f"{name} is being ended: `locci operations wait {operation}` follows it")


async def _ended(client: Client, name: str, seconds: float) -> Json:
    last: Json = {}
    try:
        async with asyncio.timeout(seconds):
            async for last in follow(client, f"{name}:watch", {}, note):
                if last.get("done"):
                    return last
    except TimeoutError:
        hint = f"it goes on: `locci operations wait {name.rpartition('/')[2]}` follows it again"
        raise Failure(f"{name} has not ended in {seconds:g} s", hint=hint, exit_code=FAILED) from None
    return last
