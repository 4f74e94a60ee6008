"""What a lab is doing now, as data and as a table."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table

from fleet.errors import LocciError
from lab.control import SupervisorControl
from lab.layout import Layout
from lab.processes import read_pid_files
from lab.record import LabRecord, load_faults


def collect(layout: Layout, record: LabRecord, now: float) -> dict[str, Any]:
    """Hosts with addresses and programs, and the cuts; durations are seconds."""
    try:
        programs = SupervisorControl(layout).programs()
        supervised = True
    except LocciError:
        programs, supervised = _orphans(layout), False
    topology = record.topology
    hosts = []
    for host in topology.hosts:
        mine = [_program(entry, now) for (where, _), entry in sorted(programs.items()) if where == host.name]
        hosts.append(
            {
                "host": host.name,
                "kind": host.kind.value,
                "region": host.region,
                "namespace": topology.namespace(host),
                "addresses": list(host.addresses),
                "programs": mine,
            }
        )
    return {
        "lab": record.name,
        "state_dir": str(layout.root),
        "ready": record.ready,
        "supervised": supervised,
        "context": str(layout.context),
        "age_s": round(now - record.created, 1),
        "hosts": hosts,
        "partitions": load_faults(layout).describe(),
    }


def _orphans(layout: Layout) -> dict[tuple[str, str], Mapping[str, Any]]:
    """Programs that still run without a supervisor, by what it left on disk."""
    found: dict[tuple[str, str], Mapping[str, Any]] = {}
    for name, process in read_pid_files(layout.pids).items():
        host, _, program = name.partition(".")
        if program:
            found[host, program] = {"program": program, "phase": "unsupervised", "pid": process.pid}
    return found


def _program(entry: Mapping[str, Any], now: float) -> dict[str, Any]:
    started = entry.get("started")
    return {
        "program": entry["program"],
        "phase": entry["phase"],
        "pid": entry.get("pid"),
        "uptime_s": round(now - started, 1) if started else None,
        "restarts": entry.get("restarts"),
        "last_exit": entry.get("last_exit"),
    }


def render(status: Mapping[str, Any], stream: TextIO) -> None:
    """The status as a table for people; colours only on a terminal and without NO_COLOR."""
    console = Console(file=stream, no_color="NO_COLOR" in os.environ, highlight=False)
    table = Table(title=f"lab {status['lab']}, {status['state_dir']}, up for {_duration(status['age_s'])}")
    for column in ("HOST", "ADDRESSES", "PROGRAM", "STATE", "PID", "UPTIME", "RESTARTS"):
        table.add_column(column, justify="right" if column in ("PID", "UPTIME", "RESTARTS") else "left")
    for host in status["hosts"]:
        addresses, name = " ".join(host["addresses"]), host["host"]
        for program in host["programs"] or [{"program": "", "phase": ""}]:
            cells = [program["program"], program["phase"], _text(program.get("pid"))]
            cells += [_duration(program.get("uptime_s")), _text(program.get("restarts"))]
            table.add_row(name, addresses, *cells)
            name = addresses = ""
    console.print(table)
    for line in status["partitions"]:
        console.print(f"cut: {line}")
    if not status["supervised"]:
        console.print("The lab's supervisor does not run; take the lab down with `locci-lab down`.")


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _duration(seconds: float | None) -> str:
    return "" if seconds is None else time.strftime("%H:%M:%S", time.gmtime(seconds))
