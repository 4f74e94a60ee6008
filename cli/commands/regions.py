"""`locci regions`."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import columns
from cli.client import new_request_id
from cli.commands.placement import DryRun, foretell
from cli.failure import USAGE, Failure
from cli.listing import Filter, How, OrderBy, Watch, names_of, show_list
from cli.output import Format, Output, note, show, show_one
from cli.session import name_of, pairs_of, run

app = typer.Typer(help="Regions: the named places between which traffic is steered.", no_args_is_help=True)

Region = Annotated[str, typer.Argument(metavar="REGION", help="The region's id.", autocompletion=names_of("regions"))]


@app.command()
def ls(filter_: Filter = "", order_by: OrderBy = "", watch: Watch = False, output: Output = Format.TABLE) -> None:
    """List regions."""
    empty = "no regions: `locci regions create` makes one"
    how = How(filter_, order_by, watch)
    show_list("regions", "regions", columns.REGIONS, output, empty, how, wide=columns.REGION)


@app.command("show")
def show_(region: Region, output: Output = Format.TABLE) -> None:
    """Show a region."""
    show_one(run(lambda c: c.get(name_of("regions", region))), columns.REGION, output)


@app.command()
def create(
    region: Region,
    latitude: Annotated[float, typer.Option("--lat", help="Degrees north, -90 to 90.")],
    longitude: Annotated[float, typer.Option("--lon", help="Degrees east, -180 to 180.")],
    display_name: Annotated[str, typer.Option("--display-name", help="What people call it.")] = "",
    continent: Annotated[str, typer.Option(help="AF, AN, AS, EU, NA, OC or SA.")] = "",
    country: Annotated[str, typer.Option(help="Two-letter country code.")] = "",
    jurisdiction: Annotated[list[str] | None, typer.Option(help="A legal area; may be repeated.")] = None,
    network: Annotated[list[str] | None, typer.Option(help="A client network (CIDR) there; may be repeated.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="key=value; may be repeated.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Create a region."""
    body = {
        "display_name": display_name,
        "latitude": latitude,
        "longitude": longitude,
        "continent": continent.upper(),
        "country": country.upper(),
        "jurisdictions": jurisdiction or [],
        "networks": network or [],
        "labels": pairs_of(label or [], "--label"),
    }
    identifier = name_of("regions", region).partition("/")[2]
    params = {"region_id": identifier, "request_id": new_request_id()}
    created = run(lambda c: c.call("POST", "regions", params=params, body=body))
    show([created], columns.REGIONS, output, "")
    note(f"next: `locci tokens create --region {identifier}` makes a token that brings a host in")


@app.command()
def update(
    region: Region,
    latitude: Annotated[float | None, typer.Option("--lat", help="Degrees north, -90 to 90.")] = None,
    longitude: Annotated[float | None, typer.Option("--lon", help="Degrees east, -180 to 180.")] = None,
    display_name: Annotated[str | None, typer.Option("--display-name", help="What people call it.")] = None,
    continent: Annotated[str | None, typer.Option(help="AF, AN, AS, EU, NA, OC or SA.")] = None,
    country: Annotated[str | None, typer.Option(help="Two-letter country code.")] = None,
    jurisdiction: Annotated[list[str] | None, typer.Option(help="All legal areas; may be repeated.")] = None,
    network: Annotated[list[str] | None, typer.Option(help="All client networks (CIDR); may be repeated.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="All labels, key=value; may be repeated.")] = None,
    agent_version: Annotated[
        str | None, typer.Option("--agent-version", help="The agent that its nodes are to run; empty for any.")
    ] = None,
    bias_km: Annotated[
        float | None, typer.Option("--bias-km", help="Kilometres by which it counts as nearer to clients.")
    ] = None,
    load_high: Annotated[
        float | None, typer.Option("--load-high", help="Load per processor above which clients are sent elsewhere.")
    ] = None,
    load_low: Annotated[float | None, typer.Option("--load-low", help="Load below which they come back.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Change what is given of a region; the rest stays."""
    given = {
        "display_name": display_name,
        "latitude": latitude,
        "longitude": longitude,
        "continent": continent.upper() if continent is not None else None,
        "country": country.upper() if country is not None else None,
        "jurisdictions": jurisdiction or None,
        "networks": network or None,
        "labels": pairs_of(label, "--label") if label else None,
        "agent_version": agent_version,
        "bias_km": bias_km,
        "load_high": load_high,
        "load_low": load_low,
    }
    body = {field: value for field, value in given.items() if value is not None}
    if not body:
        raise Failure("nothing to change is given", hint="`locci regions update --help`", exit_code=USAGE)
    params = {"update_mask": ",".join(body), "request_id": new_request_id()}
    changed = run(lambda c: c.call("PATCH", name_of("regions", region), params=params, body=body))
    show([changed], columns.REGIONS, output, "", wide=columns.REGION)


@app.command()
def rm(region: Region, dry_run: DryRun = False) -> None:
    """Remove a region that nothing names any more."""
    name = name_of("regions", region)
    if dry_run:
        foretell("delete_region", name)
        return
    run(lambda c: c.call("DELETE", name, params={"request_id": new_request_id()}))
    note(f"{name} is removed")
