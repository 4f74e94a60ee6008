"""`locci drills`."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Annotated

import typer

from cli import columns, drill_report, external
from cli.client import Client, Json, new_request_id
from cli.drill_file import FAULTS, drills_in, spec_of
from cli.drill_page import as_html
from cli.drill_steps import seconds_of
from cli.failure import NOT_FOUND, USAGE, Failure
from cli.listing import Filter, How, OrderBy, Watch, show_list
from cli.output import Format, Output, clean, dump, line, note, show, show_one
from cli.session import name_of, run
from fleet.signed_report import is_genuine

app = typer.Typer(help="Drills: declared faults, and what their runs measured.", no_args_is_help=True)

Drill = Annotated[str, typer.Argument(metavar="DRILL", help="The drill's id.")]


@app.command()
def ls(filter_: Filter = "", order_by: OrderBy = "", watch: Watch = False, output: Output = Format.TABLE) -> None:
    """List drills."""
    empty = "no drills: `locci drills create` declares one"
    show_list("drills", "drills", columns.DRILLS, output, empty, How(filter_, order_by, watch))


@app.command("show")
def show_(drill: Drill, output: Output = Format.TABLE) -> None:
    """Show a drill with its steps."""
    show_one(run(lambda c: c.get(name_of("drills", drill))), columns.DRILL, output)


@app.command()
def runs(
    drill: Drill, filter_: Filter = "", order_by: OrderBy = "", watch: Watch = False, output: Output = Format.TABLE
) -> None:
    """List what a drill's runs measured, newest first."""
    path = f"{name_of('drills', drill)}/runs"
    show_list(path, "runs", columns.DRILL_RUNS, output, "it never ran", How(filter_, order_by, watch))


_RUN_STATE = "STATE_"
_GOING_ON = ("STATE_STARTING", "STATE_FAULTY", "STATE_RECOVERING")
_POLL_S = 0.5


async def _follow(client: Client, name: str) -> Json:
    """A run when it has ended; each new mark and state is told on the way. Its own states have deadlines."""
    told, state = 0, ""
    while True:
        found = await client.get(name)
        for mark in found.get("marks", [])[told:]:
            note(f"{mark.get('after', '0s'):>12}  {mark.get('stage', '')}: {clean(mark.get('detail', ''))}")
        told = len(found.get("marks", []))
        if found.get("state", "") != state:
            state = found.get("state", "")
            note(f"{name} is {state.removeprefix(_RUN_STATE).lower()}: {clean(found.get('reason', ''))}")
        if state not in _GOING_ON:
            return found
        await asyncio.sleep(_POLL_S)


@app.command("run")
def run_(
    drills: Annotated[list[str], typer.Argument(metavar="DRILL...", help="The drills' ids, in the order to run them.")],
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow it to its end.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say whether it could begin now.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Run drills one after the other: the targets' agents inject the faults. Exit code 1 when one did not pass."""
    names = [name_of("drills", drill) for drill in drills]
    if len(names) > 1 and not wait:
        raise Failure("--no-wait: only one drill runs at a time; give one", exit_code=USAGE)

    async def act(client: Client) -> list[Json]:
        found: list[Json] = []
        for name in names:
            body = {"request_id": new_request_id(), "validate_only": dry_run}
            begun: Json = await client.call("POST", f"{name}:run", body=body)
            found.append(await _follow(client, begun["name"]) if wait and not dry_run else begun)
            if wait and not dry_run and not found[-1].get("passed"):
                break
        return found

    found = run(act)
    if dry_run:
        for name in names:
            note(f"{name} could begin now")
        return
    show(found, columns.DRILL_RUNS, output, "")
    if wait and not all(row.get("passed") for row in found):
        raise typer.Exit(1)


@app.command()
def abort(
    drill: Drill,
    reason: Annotated[str, typer.Option(help="Why, for whoever reads the report.")] = "",
    output: Output = Format.TABLE,
) -> None:
    """Call off a drill's run. A host that is cut off hears of it when its own time limit has ended the fault."""

    async def act(client: Client) -> Json:
        last = (await client.get(name_of("drills", drill))).get("last_run", "")
        if not last:
            raise Failure(f"{name_of('drills', drill)} never ran", exit_code=NOT_FOUND)
        found: Json = await client.call("POST", f"{last}:abort", body={"reason": reason})
        return found

    show([run(act)], columns.DRILL_RUNS, output, "")


Run = Annotated[int, typer.Option("--run", help="The run's number; without it, the last one.")]


async def _run_of(client: Client, drill: str, number: int) -> tuple[Json, float]:
    """A run, and the time to live of its hostname's answers in seconds."""
    found = await client.pages(f"{name_of('drills', drill)}/runs", "runs")
    wanted = [run for run in found if not number or run["name"].endswith(f"/runs/{number}")]
    if not wanted:
        which = f"run {number}" if number else "run"
        raise Failure(f"{name_of('drills', drill)} has no {which}", exit_code=NOT_FOUND)
    hostnames = (await client.get("routingTable")).get("hostnames", [])
    asked = wanted[0].get("spec", {}).get("hostname", "")
    ttl = next((h.get("routing", {}).get("ttl", "") for h in hostnames if h["hostname"] == asked), "")
    return wanted[0], seconds_of(ttl)


def _verified(found: Json, ca_pem: str) -> Json:
    """What was signed, which is what is shown. Raises a Failure when the fleet's CA did not sign it."""
    text, name = str(found.get("signed_report", "")), str(found["name"])
    if not text:
        hint = "a run is signed when it ends; older ones are not"
        raise Failure(f"{name} is not signed", hint=hint)
    try:
        genuine = is_genuine(ca_pem, text, base64.b64decode(str(found.get("signature", ""))))
    except ValueError:
        genuine = False
    signed: Json = json.loads(text) if genuine else {}
    if signed.get("name") != name:
        raise Failure(f"{name}: the signature is not that of this fleet's CA", hint="do not rely on this report")
    note(f"{name} was signed by this fleet's CA")
    return signed


@app.command()
def report(
    drill: Drill,
    number: Run = 0,
    html: Annotated[Path | None, typer.Option(help="Write an HTML page with a picture of the timeline here.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Show what the fleet's CA signed, or fail.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Report a run: each stage beside its objective and the computed bound; exit code 1 when it missed one."""

    async def fetched(client: Client) -> tuple[Json, Json, float]:
        row, ttl = await _run_of(client, drill, number)
        return _verified(row, client.ca_pem) if verify else row, row, ttl

    found, signed, ttl_s = run(fetched)
    if html is not None:
        try:
            html.write_text(as_html(found, ttl_s, signed))
        except OSError as error:
            raise Failure(f"{html} cannot be written: {error.strerror}", exit_code=USAGE) from error
        note(f"{html} is written")
    elif output.tabular:
        for text in drill_report.as_text(found, ttl_s).splitlines():
            line(clean(text))
    else:
        dump(found, output)
    if not found.get("passed"):
        raise typer.Exit(1)


@app.command()
def compare(
    drill: Drill,
    before: Annotated[int, typer.Argument(metavar="RUN", help="A run's number.")],
    after: Annotated[int, typer.Argument(metavar="RUN", help="Another run's number.")],
) -> None:
    """Compare two runs, stage by stage."""

    async def both(client: Client) -> tuple[Json, Json]:
        return (await _run_of(client, drill, before))[0], (await _run_of(client, drill, after))[0]

    for text in drill_report.compared(*run(both)).splitlines():
        line(clean(text))


@app.command()
def create(
    drill: Drill,
    fault: Annotated[str, typer.Option(help=f"{', '.join(FAULTS[:-1])} or {FAULTS[-1]}.")],
    target: Annotated[str, typer.Option(help="What it is done to: regions/REGION, nodes/NODE or apps/APP.")],
    hostname: Annotated[str, typer.Option(help="The hostname that synthetic clients ask for.")],
    program: Annotated[str, typer.Option(help="Killed: agent, edge, dns, dockerd, redis; frozen: all but agent.")] = "",
    loss_percent: Annotated[int, typer.Option(help="link-lossy: of a hundred packets so many are lost.")] = 0,
    delay: Annotated[str, typer.Option(help="link-slow: so much later packets leave.")] = "0s",
    rate_kbit: Annotated[int, typer.Option(help="link-slow: so many kilobits a second leave; 0 for no limit.")] = 0,
    ballast_bytes: Annotated[int, typer.Option(help="disk-full: at most so many bytes; 0 for all but 64 MiB.")] = 0,
    clock_offset: Annotated[str, typer.Option(help="clock-jump: so far, as in 10m or -1h.")] = "0s",
    requests_per_second: Annotated[int, typer.Option(help="traffic-surge: so many in all.")] = 0,
    duration: Annotated[str, typer.Option(help="How long the fault lasts at most.")] = "30s",
    withdraw_objective: Annotated[str, typer.Option(help="Withdrawn from DNS within.")] = "3s",
    reroute_objective: Annotated[str, typer.Option(help="Served elsewhere within.")] = "10s",
    min_healthy_regions: Annotated[int, typer.Option(help="Guard: so many other regions serve, always.")] = 1,
    max_failed_percent: Annotated[int, typer.Option(help="Guard: call it off when more of the requests fail.")] = 0,
    max_load_percent: Annotated[int, typer.Option(help="Guard: load that the other hosts may come to.")] = 0,
    schedule: Annotated[str, typer.Option(help="Run it by itself: a cron line in UTC, as in '0 3 * * tue'.")] = "",
    blocked: Annotated[list[str] | None, typer.Option(help="Never begin it then: 'mon-fri 08:00-18:00', UTC.")] = None,
    resolver: Annotated[str, typer.Option(help="Clients ask it: host, servers, or an address [as agents say].")] = "",
    output: Output = Format.TABLE,
) -> None:
    """Declare a drill of one fault; `locci drills apply` declares those of several steps."""
    fields = {
        "fault": fault,
        "target": target,
        "program": program,
        "hostname": hostname,
        "loss_percent": loss_percent,
        "delay": delay,
        "rate_kbit": rate_kbit,
        "ballast_bytes": ballast_bytes,
        "clock_offset": clock_offset,
        "requests_per_second": requests_per_second,
        "duration": duration,
        "withdraw_objective": withdraw_objective,
        "reroute_objective": reroute_objective,
        "min_healthy_regions": min_healthy_regions,
        "max_failed_percent": max_failed_percent,
        "max_load_percent": max_load_percent,
        "schedule": schedule,
        "blocked": list(blocked or ()),
        "resolver": resolver,
    }
    spec = spec_of(fields, "--{}")
    params = {"drill_id": name_of("drills", drill).partition("/")[2], "request_id": new_request_id()}
    created = run(lambda c: c.call("POST", "drills", params=params, body={"spec": spec}))
    show([created], columns.DRILLS, output, "")


@app.command()
def apply(
    file: Annotated[Path, typer.Option("--file", "-f", help="YAML; several drills are separated by `---`.")],
    output: Output = Format.TABLE,
) -> None:
    """Declare the drills of a file, or change those that there are."""
    try:
        wanted = drills_in(file.read_text(), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"{file} cannot be read: {error}", exit_code=USAGE) from error

    async def act(client: Client) -> list[Json]:
        return [await _applied(client, name_of("drills", drill), spec) for drill, spec in wanted]

    show(run(act), columns.DRILLS, output, "")


async def _applied(client: Client, name: str, spec: Json) -> Json:
    params = {"request_id": new_request_id()}
    known = {row["name"] for row in await client.pages("drills", "drills")}
    if name not in known:
        params["drill_id"] = name.partition("/")[2]
        created: Json = await client.call("POST", "drills", params=params, body={"spec": spec})
        note(f"{name} is declared")
        return created
    params["update_mask"] = "spec"
    changed: Json = await client.call("PATCH", name, params=params, body={"name": name, "spec": spec})
    note(f"{name} is as in the file")
    return changed


@app.command()
def suite(
    short: Annotated[bool, typer.Option("--short", help="Only four of them, about a minute and a half.")] = False,
) -> None:
    """Take a fresh lab on this machine through the default drills, with one report; it is `locci lab suite`."""
    program = external.find("lab")
    if program is None:
        hint = "it is part of the whole package"
        raise Failure("locci-lab is not installed on this machine", hint=hint, exit_code=USAGE)
    external.replace_process(program, ["suite", *(["--short"] if short else [])])


@app.command()
def rm(drill: Drill) -> None:
    """Remove a drill and its runs."""
    name = name_of("drills", drill)
    run(lambda c: c.call("DELETE", name))
    note(f"{name} is removed")
