"""`locci zones`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cli import columns
from cli.client import Json, new_request_id
from cli.durations import seconds_text
from cli.failure import USAGE, Failure
from cli.listing import Filter, How, OrderBy, Watch, show_list
from cli.output import Format, Output, dump, line, note, show, show_one
from cli.session import name_of, run

app = typer.Typer(help="Zones: the parts of the DNS that the fleet answers for.", no_args_is_help=True)

Zone = Annotated[str, typer.Argument(metavar="ZONE", help="The zone's origin, as in example.net.")]


@app.command()
def ls(filter_: Filter = "", order_by: OrderBy = "", watch: Watch = False, output: Output = Format.TABLE) -> None:
    """List zones."""
    empty = "no zones: `locci zones create ORIGIN` makes one"
    show_list("zones", "zones", columns.ZONES, output, empty, How(filter_, order_by, watch))


@app.command("show")
def show_(zone: Zone, output: Output = Format.TABLE) -> None:
    """Show a zone."""
    show_one(run(lambda c: c.get(name_of("zones", zone))), columns.ZONES, output)


@app.command()
def create(
    zone: Zone,
    contact: Annotated[str, typer.Option(help="Mail address of who looks after it.")] = "",
    ttl: Annotated[str, typer.Option(help="Time to live of SOA, NS and name servers' addresses, as in 1h.")] = "",
    negative_ttl: Annotated[str, typer.Option(help="Time to live of negative answers, as in 10s.")] = "",
    output: Output = Format.TABLE,
) -> None:
    """Create a zone. Its name servers are the nodes with the role dns, as NODE.ns.ZONE."""
    identifier = name_of("zones", zone).partition("/")[2]
    body: Json = {"contact": contact}
    if ttl:
        body["ttl"] = seconds_text(ttl, "--ttl")
    if negative_ttl:
        body["negative_ttl"] = seconds_text(negative_ttl, "--negative-ttl")
    params = {"zone_id": identifier, "request_id": new_request_id()}
    show([run(lambda c: c.call("POST", "zones", params=params, body=body))], columns.ZONES, output, "")
    note(f"next: delegate {identifier} to NODE.ns.{identifier} of your DNS nodes at its parent")


@app.command()
def rm(zone: Zone) -> None:
    """Remove a zone: its names are refused from then on."""
    name = name_of("zones", zone)
    run(lambda c: c.call("DELETE", name))
    note(f"{name} is removed")


@app.command("import")
def import_(
    zone: Zone,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A zone file; - for standard input.")],
    replace: Annotated[bool, typer.Option(help="Also remove what the file does not hold.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Take over the records of a zone file, all of them or none."""
    try:
        content = sys.stdin.read() if str(file) == "-" else file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"{file} cannot be read: {error}", exit_code=USAGE) from error
    body: Json = {"content": content, "replace": replace, "validate_only": dry_run, "request_id": new_request_id()}
    answer = run(lambda c: c.call("POST", f"{name_of('zones', zone)}:import", body=body))
    if not output.tabular:
        dump(answer, output)
        return
    for mark, key in (("+", "added"), ("~", "changed"), ("-", "removed")):
        for name in answer.get(key, []):
            line(f"{mark} {name.rpartition('/')[2]}")
    for sentence in answer.get("skipped", []):
        note(f"left out: {sentence}")
    if not any(answer.get(key) for key in ("added", "changed", "removed")):
        note("nothing changes")


@app.command()
def export(zone: Zone) -> None:
    """Write the zone as a zone file to standard output."""
    line(run(lambda c: c.get(f"{name_of('zones', zone)}:export")).get("content", "").rstrip())
