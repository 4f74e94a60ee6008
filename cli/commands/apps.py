"""`locci apps`, `ps`, `releases`, `rollouts`: what runs."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import columns
from cli.client import Json, new_request_id
from cli.output import Format, Output, note, show, show_one
from cli.session import name_of, run

app = typer.Typer(help="Apps: what is described once and runs in every region.", no_args_is_help=True)

App = Annotated[str, typer.Argument(metavar="APP", help="The app's id.")]


@app.command()
def ls(output: Output = Format.TABLE) -> None:
    """List apps."""
    show(run(lambda c: c.pages("apps", "apps")), columns.APPS, output, "no apps: `locci apply -f app.yaml` makes one")


@app.command("show")
def show_(name: App, output: Output = Format.TABLE) -> None:
    """Show an app."""
    show_one(run(lambda c: c.get(name_of("apps", name))), columns.APP, output)


@app.command()
def rm(name: App) -> None:
    """Remove an app: its replicas stop, its hostnames stop to answer."""
    full = name_of("apps", name)
    run(lambda c: c.call("DELETE", full, params={"request_id": new_request_id()}))
    note(f"{full} is removed")


def ps(
    name: Annotated[str, typer.Argument(metavar="APP", help="The app's id; without it, all.")] = "",
    node: Annotated[str, typer.Option(help="Only replicas on this node.")] = "",
    output: Output = Format.TABLE,
) -> None:
    """List replicas: where they run, and whether they are accepted, applied and healthy."""
    parent = name_of("apps", name) if name else "apps/-"
    params = {"node": name_of("nodes", node)} if node else {}
    show(run(lambda c: c.pages(f"{parent}/replicas", "replicas", params)), columns.REPLICAS, output, "no replicas")


def releases(name: App, output: Output = Format.TABLE) -> None:
    """List an app's releases, newest first."""
    show(_of(name, "releases"), columns.RELEASES, output, "no releases")


def rollouts(name: App, output: Output = Format.TABLE) -> None:
    """List an app's rollouts, newest first."""
    show(_of(name, "rollouts"), columns.ROLLOUTS, output, "no rollouts")


def _of(name: str, what: str) -> list[Json]:
    full = name_of("apps", name)
    return run(lambda c: c.pages(f"{full}/{what}", what))
