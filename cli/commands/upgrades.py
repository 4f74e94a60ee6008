"""`locci upgrade`: the fleet's agents are brought to a version, wave by wave."""

from __future__ import annotations

import asyncio
import re
from typing import Annotated, Final

import typer

from cli import columns
from cli.client import Client, Json, new_request_id
from cli.durations import seconds_text
from cli.failure import FAILED, NOT_FOUND, USAGE, Failure
from cli.listing import Filter, How, OrderBy, Watch, show_list
from cli.output import Format, Output, clean, note, show_one, word
from cli.session import name_of, run

app = typer.Typer(help="Upgrades of the fleet's agents: start, status, pause, resume, abort.", no_args_is_help=True)

_LOOK_S: Final = 1.0
_PERCENT: Final = re.compile(r"(\d{1,3})%")
_GOING_ON: Final = ("STATE_RUNNING", "STATE_PAUSED")

Number = Annotated[int, typer.Argument(metavar="[NUMBER]", help="The upgrade's number; without it, the last one.")]


def wave_of(text: str) -> Json:
    """A wave as people give it: `10%` of the fleet, `2` nodes more, or regions as in `eu,us`."""
    percent = _PERCENT.fullmatch(text)
    if percent:
        return {"percent": int(percent[1])}
    if text.isdecimal():
        return {"nodes": int(text)}
    regions = [name_of("regions", part.strip()) for part in text.split(",") if part.strip()]
    if not regions:
        raise Failure(f"--wave: {text!r} is neither 10%, nor 2, nor regions as in eu,us", exit_code=USAGE)
    return {"regions": regions}


@app.command()
def start(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="The version, as releases are named.")],
    wave: Annotated[
        list[str] | None,
        typer.Option(help="10% of the fleet, 2 nodes more, or regions as in eu,us; may be repeated, in order."),
    ] = None,
    bake: Annotated[str, typer.Option(help="For how long a wave must do well before the next, as in 5m.")] = "",
    node_deadline: Annotated[str, typer.Option(help="Time for a node to run it, as in 15m.")] = "",
    failures_max: Annotated[
        int, typer.Option("--max-failures", min=0, help="So many nodes may fail before it halts.")
    ] = 0,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow it to its end.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say whether it could begin now.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Bring the fleet's agents to a version: one node, then region after region, or in the waves that are given.

    It halts by itself when a node goes back, or does not run the version in time. Exit code 1 when it did not succeed.
    """
    body: Json = {"version": version, "waves": [wave_of(text) for text in wave or []], "failures_max": failures_max}
    for field, text in (("bake", bake), ("node_deadline", node_deadline)):
        if text:
            body[field] = seconds_text(text, f"--{field.replace('_', '-')}")
    params = {"request_id": new_request_id()} | ({"validate_only": "true"} if dry_run else {})

    async def act(client: Client) -> Json:
        begun: Json = await client.call("POST", "upgrades", params=params, body=body)
        return begun if dry_run or not wait else await _follow(client, begun["name"])

    found = run(act)
    if dry_run:
        note(
            f"it could begin now; {found.get('running_nodes', 0)} of {found.get('fleet_nodes', 0)} nodes run it already"
        )
        return
    show_one(found, columns.UPGRADE, output)
    if wait and found["state"] != "STATE_SUCCEEDED":
        hint = "`locci nodes ls -o wide` shows what each agent says of it"
        raise Failure(f"{found['name']} did not succeed", hint=hint, exit_code=FAILED)
    if not wait:
        note("it goes on by itself: `locci upgrade status` shows how")


async def _follow(client: Client, name: str) -> Json:
    """The upgrade when it has ended; what it says on the way is told. It has deadlines of its own."""
    said = ""
    while True:
        found: Json = await client.get(name)
        if found.get("reason", "") != said:
            said = found.get("reason", "")
            counts = f"{found.get('running_nodes', 0)} of {found.get('fleet_nodes', 0)} nodes"
            note(f"{name} is {word(found['state'], 'STATE_')}, {counts}: {clean(said)}")
        if found["state"] not in _GOING_ON:
            return found
        await asyncio.sleep(_LOOK_S)


@app.command()
def ls(filter_: Filter = "", order_by: OrderBy = "", watch: Watch = False, output: Output = Format.TABLE) -> None:
    """List upgrades, newest first."""
    empty = "no upgrades: `locci upgrade start VERSION` begins one"
    show_list("upgrades", "upgrades", columns.UPGRADES, output, empty, How(filter_, order_by, watch))


@app.command()
def status(number: Number = 0, output: Output = Format.TABLE) -> None:
    """Show where an upgrade stands, what it waits for, and which nodes were told."""

    async def get(client: Client) -> Json:
        return await client.get(await _name(client, number))

    show_one(run(get), columns.UPGRADE, output)


async def _name(client: Client, number: int) -> str:
    if number:
        return f"upgrades/{number}"
    found = (await client.get("upgrades", {"page_size": "1"})).get("upgrades", [])
    if not found:
        raise Failure("there never was an upgrade", hint="`locci upgrade start VERSION`", exit_code=NOT_FOUND)
    return str(found[0]["name"])


def _steer(number: int, verb: str, body: Json) -> None:
    async def act(client: Client) -> Json:
        found: Json = await client.call("POST", f"{await _name(client, number)}:{verb}", body=body)
        return found

    found = run(act)
    note(f"{found['name']} is {word(found['state'], 'STATE_')}: {clean(found.get('reason', ''))}")


@app.command()
def pause(number: Number = 0) -> None:
    """Hold an upgrade: no further node is told, no deadline runs."""
    _steer(number, "pause", {})


@app.command()
def resume(number: Number = 0) -> None:
    """Let a held upgrade go on; its deadlines begin anew."""
    _steer(number, "resume", {})


@app.command()
def abort(number: Number = 0, reason: Annotated[str, typer.Option(help="Why, for the record.")] = "") -> None:
    """End an upgrade: no further node is told, those that run the version keep it."""
    _steer(number, "abort", {"reason": reason} if reason else {})
