"""`locci apps`, `ps`, `releases`, `rollouts`: what runs."""

from __future__ import annotations

import difflib
from enum import StrEnum
from typing import Annotated, Final

import typer
import yaml

from cli import columns
from cli.client import Client, Json, new_request_id
from cli.commands.placement import DryRun, foretell
from cli.listing import Filter, How, OrderBy, Watch, names_of, show_list
from cli.output import Format, Output, clean, line, note, show_one
from cli.session import name_of, run

app = typer.Typer(help="Apps: what is described once and runs in every region.", no_args_is_help=True)

_COMPARED: Final = ("manifest", "pinned_image", "restarts")

App = Annotated[str, typer.Argument(metavar="APP", help="The app's id.", autocompletion=names_of("apps"))]


@app.command()
def ls(filter_: Filter = "", order_by: OrderBy = "", watch: Watch = False, output: Output = Format.TABLE) -> None:
    """List apps."""
    empty = "no apps: `locci apply -f app.yaml` makes one"
    how = How(filter_, order_by, watch)
    show_list("apps", "apps", columns.APPS, output, empty, how, wide=columns.APP)


@app.command("show")
def show_(name: App, output: Output = Format.TABLE) -> None:
    """Show an app."""
    show_one(run(lambda c: c.get(name_of("apps", name))), columns.APP, output)


@app.command()
def rm(name: App, dry_run: DryRun = False) -> None:
    """Remove an app: its replicas stop, its hostnames stop to answer."""
    full = name_of("apps", name)
    if dry_run:
        foretell("delete_app", full)
        return
    run(lambda c: c.call("DELETE", full, params={"request_id": new_request_id()}))
    note(f"{full} is removed")


class Switch(StrEnum):
    """Whether something is."""

    ON = "on"
    OFF = "off"


@app.command()
def maintenance(
    name: App,
    switch: Annotated[Switch, typer.Argument(help="Whether edges answer for it from now on.")],
    dry_run: DryRun = False,
) -> None:
    """Put an app into maintenance, or take it out: edges answer 503 with its page; replicas stay."""
    full, on = name_of("apps", name), switch is Switch.ON
    body = {"on": on, "validate_only": dry_run, "request_id": new_request_id()}
    run(lambda c: c.call("POST", f"{full}:setMaintenance", body=body))
    note(f"{full} {'would be' if dry_run else 'is'} {'in' if on else 'out of'} maintenance")


def ps(
    name: Annotated[
        str, typer.Argument(metavar="APP", help="The app's id; without it, all.", autocompletion=names_of("apps"))
    ] = "",
    node: Annotated[str, typer.Option(help="Only replicas on this node.", autocompletion=names_of("nodes"))] = "",
    filter_: Filter = "",
    order_by: OrderBy = "",
    watch: Watch = False,
    output: Output = Format.TABLE,
) -> None:
    """List replicas: where they run, and whether they are accepted, applied and healthy."""
    parent = name_of("apps", name) if name else "apps/-"
    how = How(filter_, order_by, watch)
    if node:
        how = how.within(f"node = {name_of('nodes', node)}")
    show_list(f"{parent}/replicas", "replicas", columns.REPLICAS, output, "no replicas", how)


def releases(
    name: App,
    diff: Annotated[
        tuple[int, int] | None,
        typer.Option("--diff", metavar="A B", help="Show what release B changed of release A, line by line."),
    ] = None,
    filter_: Filter = "",
    order_by: OrderBy = "",
    watch: Watch = False,
    output: Output = Format.TABLE,
) -> None:
    """List an app's releases, newest first."""
    if diff is not None:
        _show_difference(name_of("apps", name), *diff)
        return
    how = How(filter_, order_by, watch)
    path = f"{name_of('apps', name)}/releases"
    show_list(path, "releases", columns.RELEASES, output, "no releases", how)


def _show_difference(app: str, before: int, after: int) -> None:
    async def both(client: Client) -> list[Json]:
        return [await client.get(f"{app}/releases/{number}") for number in (before, after)]

    old, new = (
        yaml.safe_dump({key: release.get(key, "") for key in _COMPARED}, allow_unicode=True).splitlines()
        for release in run(both)
    )
    found = list(difflib.unified_diff(old, new, f"release {before}", f"release {after}", lineterm=""))
    for text in found:
        line(clean(text))
    if not found:
        note(f"releases {before} and {after} of {app} are the same")


def rollouts(
    name: App, filter_: Filter = "", order_by: OrderBy = "", watch: Watch = False, output: Output = Format.TABLE
) -> None:
    """List an app's rollouts, newest first."""
    how = How(filter_, order_by, watch)
    path = f"{name_of('apps', name)}/rollouts"
    show_list(path, "rollouts", columns.ROLLOUTS, output, "no rollouts", how)
