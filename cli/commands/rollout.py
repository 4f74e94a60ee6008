"""`locci rollout`: a rollout is shown, held, let go on, promoted or ended."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import columns
from cli.client import Client, Json
from cli.failure import USAGE, Failure
from cli.output import Format, Output, note, show_one
from cli.rollouts import describe
from cli.session import name_of, run

app = typer.Typer(help="The rollout of an app: show, pause, resume, promote, abort.", no_args_is_help=True)

App = Annotated[str, typer.Argument(metavar="APP", help="The app's id.")]
Number = Annotated[int, typer.Option("--rollout", help="The rollout's number; without it, the app's last one.")]


async def _name(client: Client, name: str, number: int) -> str:
    full = name_of("apps", name)
    if number:
        return f"{full}/rollouts/{number}"
    rollout = str((await client.get(full)).get("rollout", ""))
    if not rollout:
        raise Failure(f"{full} never had a rollout", exit_code=USAGE)
    return rollout


def _steer(name: str, number: int, verb: str) -> None:
    async def act(client: Client) -> Json:
        return await client.call("POST", f"{await _name(client, name, number)}:{verb}", body={})

    note(describe(run(act)))


@app.command("show")
def show_(name: App, rollout: Number = 0, output: Output = Format.TABLE) -> None:
    """Show where a rollout stands, and what it waits for."""

    async def get(client: Client) -> Json:
        return await client.get(await _name(client, name, rollout))

    show_one(run(get), columns.ROLLOUTS, output)


@app.command()
def pause(name: App, rollout: Number = 0) -> None:
    """Hold a rollout where it stands: nothing more is exchanged, no deadline runs."""
    _steer(name, rollout, "pause")


@app.command()
def resume(name: App, rollout: Number = 0) -> None:
    """Let a held rollout go on; its deadlines begin anew."""
    _steer(name, rollout, "resume")


@app.command()
def promote(name: App, rollout: Number = 0) -> None:
    """Let the replicas that wait for the canary follow."""
    _steer(name, rollout, "promote")


@app.command()
def abort(name: App, rollout: Number = 0) -> None:
    """End a rollout: it goes back to the release that it came from."""
    _steer(name, rollout, "abort")
