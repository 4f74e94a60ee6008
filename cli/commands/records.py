"""`locci records`."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import columns
from cli.client import Json, new_request_id
from cli.durations import seconds_text
from cli.listing import Filter, How, OrderBy, Watch, show_list
from cli.output import Format, Output, note, show, show_one
from cli.session import name_of, run

app = typer.Typer(help="DNS records beside those of apps.", no_args_is_help=True)

Zone = Annotated[str, typer.Argument(metavar="ZONE", help="The zone's origin, as in example.net.")]
Owner = Annotated[str, typer.Argument(metavar="OWNER", help="The name within the zone: @, www, '*.dev', _sip._tcp.")]
Type = Annotated[str, typer.Argument(metavar="TYPE", help="A, AAAA, ALIAS, CAA, CNAME, DS, HTTPS, MX, NS, SRV, TXT, …")]


def _name(zone: str, owner: str, kind: str) -> str:
    return f"{name_of('zones', zone)}/recordSets/{kind.upper()}.{owner.lower()}"


@app.command()
def ls(
    zone: Zone, filter_: Filter = "", order_by: OrderBy = "", watch: Watch = False, output: Output = Format.TABLE
) -> None:
    """List the records of a zone."""
    path = f"{name_of('zones', zone)}/recordSets"
    empty = "no records: `locci records set ZONE OWNER TYPE DATA…`"
    show_list(path, "record_sets", columns.RECORD_SETS, output, empty, How(filter_, order_by, watch))


@app.command("show")
def show_(zone: Zone, owner: Owner, kind: Type, output: Output = Format.TABLE) -> None:
    """Show the records of one name and type."""
    show_one(run(lambda c: c.get(_name(zone, owner, kind))), columns.RECORD_SETS, output)


@app.command("set")
def set_(
    zone: Zone,
    owner: Owner,
    kind: Type,
    data: Annotated[
        list[str], typer.Argument(metavar="DATA…", help="One argument for each record, as in a zone file.")
    ],
    ttl: Annotated[str, typer.Option(help="Time to live, as in 5m; the zone's when it is missing.")] = "",
    output: Output = Format.TABLE,
) -> None:
    """Make these the records of a name and type, instead of any that were there."""
    name = _name(zone, owner, kind)
    body: Json = {"data": list(data)}
    if ttl:
        body["ttl"] = seconds_text(ttl, "--ttl")
    params = {"request_id": new_request_id()}
    show([run(lambda c: c.call("PATCH", name, params=params, body=body))], columns.RECORD_SETS, output, "")


@app.command()
def rm(zone: Zone, owner: Owner, kind: Type) -> None:
    """Remove the records of a name and type."""
    name = _name(zone, owner, kind)
    run(lambda c: c.call("DELETE", name))
    note(f"{name} is removed")
