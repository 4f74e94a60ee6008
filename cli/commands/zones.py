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
    dnssec: Annotated[bool, typer.Option("--dnssec", help="Sign its answers.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Create a zone. Its name servers are the nodes with the role dns, as NODE.ns.ZONE."""
    identifier = name_of("zones", zone).partition("/")[2]
    body = _body(contact, ttl, negative_ttl) | ({"dnssec": True} if dnssec else {})
    params = {"zone_id": identifier, "request_id": new_request_id()}
    show([run(lambda c: c.call("POST", "zones", params=params, body=body))], columns.ZONES, output, "")
    note(f"next: delegate {identifier} to NODE.ns.{identifier} of your DNS nodes at its parent")


def _body(contact: str, ttl: str, negative_ttl: str) -> Json:
    body: Json = {"contact": contact} if contact else {}
    if ttl:
        body["ttl"] = seconds_text(ttl, "--ttl")
    if negative_ttl:
        body["negative_ttl"] = seconds_text(negative_ttl, "--negative-ttl")
    return body


@app.command()
def update(
    zone: Zone,
    contact: Annotated[str, typer.Option(help="Mail address of who looks after it.")] = "",
    ttl: Annotated[str, typer.Option(help="Time to live of SOA, NS and name servers' addresses, as in 1h.")] = "",
    negative_ttl: Annotated[str, typer.Option(help="Time to live of negative answers, as in 10s.")] = "",
    dnssec: Annotated[
        bool | None, typer.Option("--dnssec/--no-dnssec", help="Sign its answers, or no more.", show_default=False)
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Change a zone. Before --no-dnssec take the DS records away at its parent, and wait for their time to live."""
    body = _body(contact, ttl, negative_ttl) | ({} if dnssec is None else {"dnssec": dnssec})
    if not body:
        raise Failure("nothing to change: give at least one option, as in --dnssec", exit_code=USAGE)
    params = {"update_mask": ",".join(body), "request_id": new_request_id()}
    found = run(lambda c: c.call("PATCH", name_of("zones", zone), params=params, body=body))
    show([found], columns.ZONES, output, "")
    if dnssec:
        _say_ds(found)


@app.command("add-key")
def add_key(zone: Zone, output: Output = Format.TABLE) -> None:
    """Let one more key sign a zone, to replace the old one later."""
    body = {"request_id": new_request_id()}
    found = run(lambda c: c.call("POST", f"{name_of('zones', zone)}:addKey", body=body))
    show([found], columns.ZONES, output, "")
    _say_ds(found)


@app.command("retire-key")
def retire_key(
    zone: Zone,
    key_tag: Annotated[int, typer.Argument(metavar="TAG", help="The first number of the key's DS record.")],
    output: Output = Format.TABLE,
) -> None:
    """End a key: its DS record must be gone at the parent for as long as that record's time to live."""
    found = run(lambda c: c.call("POST", f"{name_of('zones', zone)}:retireKey", body={"key_tag": key_tag}))
    show([found], columns.ZONES, output, "")
    _say_ds(found)


def _say_ds(zone: Json) -> None:
    origin = str(zone.get("name", "")).partition("/")[2]
    for text in zone.get("ds", []):
        note(f"at the parent: {origin}. DS {text}")


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
