"""`locci-lab`: a multi-region fleet on one Linux machine."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from fleet.errors import Code, LocciError
from lab import bringup, links
from lab.api import ApiClient
from lab.control import SupervisorControl
from lab.layout import Layout
from lab.lock import find_layout, known_labs, locked
from lab.preflight import check_permitted
from lab.progress import Progress
from lab.record import LabRecord, load_record
from lab.shell import run_on
from lab.status import collect, render
from lab.topology import check_lab_name

EXIT_CODES = {Code.INVALID_ARGUMENT: 2, Code.NOT_FOUND: 2, Code.PERMISSION_DENIED: 3}

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A multi-region fleet on one Linux machine: hosts are network namespaces, programs and links are real.",
    epilog="Exit codes: 0 ok, 1 failed, 2 bad usage, 3 not permitted or not possible on this machine, 130 interrupted.",
)

Name = Annotated[str, typer.Option("--name", envvar="LOCCI_LAB_NAME", help="The lab's name.")]
StateDir = Annotated[Path | None, typer.Option("--state-dir", help="The lab's folder [/var/lib/locci-lab/NAME].")]


def _layout(name: str, state_dir: Path | None) -> Layout:
    return find_layout(check_lab_name(name), state_dir)


def _open(name: str, state_dir: Path | None) -> tuple[Layout, LabRecord]:
    layout = _layout(name, state_dir)
    check_permitted()
    return layout, load_record(layout, name)


@app.command()
def up(
    name: Name = "lab",
    regions: Annotated[int, typer.Option(help="How many regions, 1 to 8.")] = 3,
    nodes_per_region: Annotated[int, typer.Option(help="How many nodes in each, 1 to 8.")] = 1,
    state_dir: StateDir = None,
    bare: Annotated[bool, typer.Option("--bare", help="Hosts and engines only; no control plane, no nodes.")] = False,
    keep_failed: Annotated[bool, typer.Option("--keep-failed", help="Keep what was made when it fails.")] = False,
) -> None:
    """Bring a lab up and wait until every node is ready."""
    options = bringup.UpOptions(name, regions, nodes_per_region, state_dir, bare, keep_failed)
    layout = bringup.up(options, Progress())
    if not bare:
        print(f"export LOCCI_CONTEXT={layout.context}")


@app.command()
def down(name: Name = "lab", state_dir: StateDir = None) -> None:
    """Remove everything of a lab, in whatever state it is. Repeating it does no harm."""
    began = time.monotonic()
    present = bringup.down(name, _layout(name, state_dir))
    took = f" ({time.monotonic() - began:.1f} s)"
    print(f"lab {name} is gone{took}" if present else f"there is no lab {name}", file=sys.stderr)


@app.command()
def status(
    name: Name = "lab",
    state_dir: StateDir = None,
    output: Annotated[str, typer.Option("--output", "-o", help="table or json.")] = "table",
) -> None:
    """Show hosts, addresses, programs and cuts."""
    if output not in ("table", "json"):
        raise LocciError(Code.INVALID_ARGUMENT, "BAD_OUTPUT", f"output: {output!r} is neither table nor json")
    layout, record = _open(name, state_dir)
    found = collect(layout, record, time.time())
    if output == "json":
        print(json.dumps(found, indent=1))
    else:
        render(found, sys.stdout)


@app.command("list")
def list_labs() -> None:
    """Name the labs of this machine."""
    for name in known_labs():
        print(name)


@app.command()
def partition(
    target: Annotated[str, typer.Argument(help="A host, or a region: all its nodes.")],
    source: Annotated[str | None, typer.Option("--from", help="Cut it only from this host or region.")] = None,
    one_way: Annotated[bool, typer.Option("--one-way", help="The target hears nothing, but is heard.")] = False,
    name: Name = "lab",
    state_dir: StateDir = None,
) -> None:
    """Cut links, for real."""
    layout, _ = _open(name, state_dir)
    with locked(name):
        _print_cuts(links.partition(name, layout, target, source=source, one_way=one_way).describe())


@app.command()
def heal(
    target: Annotated[str | None, typer.Argument(help="A host or region; everything without it.")] = None,
    name: Name = "lab",
    state_dir: StateDir = None,
) -> None:
    """Undo cuts; without a target also let programs start again that were held."""
    layout, _ = _open(name, state_dir)
    with locked(name):
        left = links.heal(name, layout, target)
    if target is None:
        for program in SupervisorControl(layout).call("release")["released"]:
            print(f"{program} may start again", file=sys.stderr)
    _print_cuts(left.describe())


def _print_cuts(lines: list[str]) -> None:
    for line in lines or ["no link is cut"]:
        print(line, file=sys.stderr)


@app.command()
def kill(
    host: str,
    program: Annotated[
        str,
        typer.Argument(help="server, registry, dockerd, containerd, redis, agent, edge, dns, unbound or forwarder."),
    ],
    hold: Annotated[bool, typer.Option("--hold", help="Do not start it again before `heal`.")] = False,
    name: Name = "lab",
    state_dir: StateDir = None,
) -> None:
    """Kill a program with SIGKILL; it is started again as on a real host."""
    layout, record = _open(name, state_dir)
    record.topology.host(host)
    answer = SupervisorControl(layout).call("kill", host=host, program=program, hold=hold)
    what = f"killed {program} on {host}, pid {answer['pid']}" if answer["killed"] else f"{program} on {host} was down"
    print(what + (", held until `heal`" if hold else ""), file=sys.stderr)


@app.command("exec", context_settings={"allow_interspersed_args": False})
def exec_(
    host: str,
    command: Annotated[list[str], typer.Argument(help="The command and its arguments, best after `--`.")],
    name: Name = "lab",
    state_dir: StateDir = None,
) -> None:
    """Run a command on a host, with the host's network and resolver; its exit code is passed on."""
    layout, record = _open(name, state_dir)
    topology = record.topology
    # The command parser leaves the `--` before the command in place when options precede it.
    argv = command[1:] if command[:1] == ["--"] else command
    os.environ.setdefault("LOCCI_CONTEXT", str(layout.context))
    run_on(topology, layout, topology.host(host), argv)


@app.command()
def logs(
    host: str,
    program: str,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is written.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", help="Begin so many lines before the end; 0 for all.")] = 0,
    name: Name = "lab",
    state_dir: StateDir = None,
) -> None:
    """Print a program's log."""
    layout, record = _open(name, state_dir)
    path = layout.log(record.topology.host(host).name, program)
    if not path.exists():
        there = ", ".join(sorted(p.name.split(".")[1] for p in layout.logs.glob(f"{host}.*.log"))) or "none"
        raise LocciError(Code.NOT_FOUND, "NO_LOG", f"{program} on {host} has no log; there are: {there}")
    start = "+1" if lines <= 0 else str(lines)
    os.execvp("tail", ["tail", "-n", start, *(["-F"] if follow else []), str(path)])  # noqa: S606 - becomes tail


@app.command("push-example")
def push_example_(name: Name = "lab", state_dir: StateDir = None) -> None:
    """Build examples/hello, versions 1 to 3, and push them to the lab's registry."""
    # Here, because the client of Docker Engine takes long to load and no other command needs it.
    from lab.example import push_example

    layout, record = _open(name, state_dir)
    for image in push_example(record.topology, layout):
        print(image)


@app.command()
def drill(
    region: Annotated[str, typer.Argument(help="The region to cut off.")],
    hostname: Annotated[str, typer.Option(help="The host name that clients ask for meanwhile.")],
    name: Name = "lab",
    state_dir: StateDir = None,
    output: Annotated[str, typer.Option("--output", "-o", help="text or json.")] = "text",
) -> None:
    """Cut a region off while its clients ask, measure each stage, heal, and keep the result with the control plane."""
    # Here, because watching name servers takes a library that no other command needs.
    from lab.drill import DrillPlan, record_drill, run_drill

    if output not in ("text", "json"):
        raise LocciError(Code.INVALID_ARGUMENT, "BAD_OUTPUT", f"output: {output!r} is neither text nor json")
    layout, record = _open(name, state_dir)
    topology = record.topology
    topology.expand(region)
    client = next((host for host in topology.clients if host.region == region), None)
    if client is None:
        raise LocciError(Code.INVALID_ARGUMENT, "NO_REGION", f"{region}: is no region; drills cut whole regions off")
    api = ApiClient.from_context(layout.context)
    plan = DrillPlan(region, hostname, client)
    report = run_drill(plan, topology, layout, api)
    print(f"kept as {record_drill(plan, report, api)}", file=sys.stderr)
    print(json.dumps(report.to_json(), indent=1) if output == "json" else report.to_text())
    raise typer.Exit(0 if report.passed else 1)


@app.command()
def suite(
    name: Annotated[str, typer.Option("--name", help="The lab that is made for it, and taken down.")] = "suite",
    short: Annotated[bool, typer.Option("--short", help="Only four of them, about a minute and a half.")] = False,
    report: Annotated[Path, typer.Option(help="As JSON; the page goes beside it.")] = Path("build/drill-suite.json"),
) -> None:
    """Take a fresh lab through the default drills; exit code 1 when one did not pass."""
    # Here, because watching name servers takes a library that no other command needs.
    from lab import suite as drills

    check_permitted()
    raise typer.Exit(0 if drills.run(check_lab_name(name), report, short=short, progress=Progress()) else 1)


def _interrupted(_signal: int, _frame: Any) -> None:
    """SIGTERM as Ctrl-C: what was begun is undone on the way out."""
    raise KeyboardInterrupt


def main() -> int:
    """Entry point of `locci-lab`."""
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        app(prog_name="locci-lab")
    except LocciError as error:
        print(f"locci-lab: error: {error.message}", file=sys.stderr)
        return EXIT_CODES.get(error.code, 1)
    except OSError as error:
        print(f"locci-lab: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
