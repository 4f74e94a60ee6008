"""`locci-dns`: run, join, status, explain, check."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from fleet import telemetry
from fleet.errors import Code, LocciError, invalid
from fleet.identity import IdentityDirectory
from fleet.settings import load
from routing.adapters import local_socket
from routing.adapters.handover import Handover
from routing.settings import DnsSettings

_EXIT_CODES: Final = {Code.INVALID_ARGUMENT: 2, Code.PERMISSION_DENIED: 3}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command and ends the process: 0 done, 1 failed, 2 bad usage, 3 not permitted, 130 interrupted."""
    options = _parser().parse_args(arguments)
    try:
        _run(options)
    except LocciError as error:
        print(f"locci-dns: {error.message}", file=sys.stderr)
        sys.exit(_EXIT_CODES.get(error.code, 1))
    except KeyboardInterrupt:
        sys.exit(130)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="locci-dns", description="Authoritative DNS that steers by health and place.")
    common = argparse.ArgumentParser(add_help=False)
    # Suppressed here, the default of a subcommand does not undo what was given before it.
    common.add_argument("--config", type=Path, default=argparse.SUPPRESS, help="settings, TOML")
    parser.add_argument("--config", type=Path, help="settings, TOML")
    commands = parser.add_subparsers(dest="command")
    run = commands.add_parser("run", parents=[common], help="answer DNS until stopped (the default)")
    for option in ("--adopt", "--bridge"):
        run.add_argument(option, type=Handover.decode, help=argparse.SUPPRESS)
    join = commands.add_parser("join", parents=[common], help="join a fleet with a token")
    join.add_argument("--server", required=True, help="the control plane, as in https://control.example.net:7443")
    join.add_argument("--token", required=True, help="a join token; its roles must include dns")
    join.add_argument("--name", default="", help="node id; the control plane chooses one when it is missing")
    join.add_argument("--address", action="append", default=[], help="an address of this host; may be repeated")
    join.add_argument("--label", action="append", default=[], metavar="KEY=VALUE", help="a label; may be repeated")
    commands.add_parser("status", parents=[common], help="the running program's view, as JSON")
    explain = commands.add_parser("explain", parents=[common], help="why a client gets the answer that it gets")
    explain.add_argument("name", metavar="NAME")
    explain.add_argument("--from", dest="client", required=True, metavar="ADDRESS", help="the client's address")
    explain.add_argument("-o", "--output", choices=("text", "json"), default="text")
    check = commands.add_parser("check", parents=[common], help="what is wrong with how zones are delegated")
    check.add_argument(
        "zones", nargs="*", metavar="ZONE", help="its origin; every zone of this host when it is missing"
    )
    check.add_argument("--parent", action="append", default=[], metavar="ADDRESS", help="a server of the zone above")
    check.add_argument(
        "--resolver", default="", metavar="ADDRESS", help="who finds the parent; the system's if missing"
    )
    check.add_argument("--port", type=int, default=53, help="where name servers listen")
    check.add_argument("-o", "--output", choices=("text", "json"), default="text")
    return parser


def _run(options: argparse.Namespace) -> None:
    settings = load(DnsSettings, options.config)
    match options.command:
        case None | "run":
            _serve(settings, options)
        case "join":
            _join(settings, options)
        case "status":
            print(json.dumps(_ask(settings, {"command": "status"}), indent=2))
        case "explain":
            answer = _ask(settings, {"command": "explain", "name": options.name, "from": options.client})
            print(json.dumps(answer, indent=2) if options.output == "json" else explained(answer))
        case "check":
            _check(settings, options)


# What only some commands need is imported by them: `status` and `explain` must not take seconds on a busy host.


def _serve(settings: DnsSettings, options: argparse.Namespace) -> None:
    """SIGHUP brings a new version of the program, and new settings, without a lost query."""
    import uvloop

    from routing.app import bridge, serve

    telemetry.configure_logging("locci-dns", level=settings.log_level)
    if (handed := getattr(options, "bridge", None)) is not None:
        uvloop.run(bridge(settings, handed))
    elif command := uvloop.run(serve(settings, options.config, getattr(options, "adopt", None) or Handover())):
        os.execv(command[0], command)  # noqa: S606


def _check(settings: DnsSettings, options: argparse.Namespace) -> None:
    """Prints what is wrong; ends with 1 when clients are not served."""
    from fleet.snapshot import SnapshotFile
    from routing import delegation
    from routing.core.delegation import Level

    around = delegation.Around(options.port, tuple(options.parent), options.resolver)
    snapshot = SnapshotFile(settings.state_dir / "snapshot").load()
    failed, rows = False, []
    for zone in delegation.expected_of(snapshot, options.zones):
        for found in asyncio.run(delegation.check(zone, around)):
            failed = failed or found.level is Level.ERROR
            rows.append({"zone": zone.origin, "level": found.level.value, "message": found.message})
    if options.output == "json":
        print(json.dumps(rows, indent=2))
    else:
        print("\n".join(f"{row['zone']}  {row['level']:<8} {row['message']}" for row in rows))
    if failed:
        sys.exit(1)


def _ask(settings: DnsSettings, request: dict[str, str]) -> dict[str, Any]:
    return asyncio.run(local_socket.call(settings.socket, request))


def _join(settings: DnsSettings, options: argparse.Namespace) -> None:
    from fleet import enrol
    from routing.adapters import host_facts

    labels = {}
    for label in options.label:
        key, equals, value = label.partition("=")
        if not key or not equals:
            raise invalid("label", f"label: {label!r} should read KEY=VALUE")
        labels[key] = value
    facts = asyncio.run(
        enrol.join(
            server=options.server,
            token=options.token,
            node_id=options.name,
            addresses=options.address,
            directory=IdentityDirectory(settings.identity_dir),
            facts=host_facts.node_facts(settings.state_dir),
            labels=labels,
        )
    )
    print(f"joined as node {facts.node} in region {facts.region}; start `locci-dns run`", file=sys.stderr)


def explained(answer: dict[str, Any]) -> str:
    """An explanation as text."""
    place = answer["place"]
    where = "unknown"
    if place is not None:
        known = f", in the networks of region {place['region']}" if place["region"] else f", by {place['source']}"
        country = f" {place['country']}" if place["country"] else ""
        where = f"{place['latitude']:.2f} {place['longitude']:.2f}{country}{known}"
    moving = ", ".join(answer["unsteady"])
    measured = ", ".join(f"{region} {ms} ms" for region, ms in answer["measured_ms"].items())
    unsteady = f" ({moving} went in or out of rotation a moment ago)" if moving else ""
    policy = answer["policy"] + (f" after {', '.join(answer['filters'])}" if answer["filters"] else "")
    lines = [
        f"{answer['hostname']} for a client at {answer['from']}",
        f"  place     {where} (the same for its /{answer['scope_bits']})",
        *([f"  measured  {measured} from the edges to this network"] if measured else []),
        f"  policy    {policy}, TTL {answer['ttl_s']} s{unsteady}, table revision {answer['revision']}",
        f"  replicas  {', '.join(f'{region}: {n}' for region, n in answer['replicas'].items()) or 'none known'}",
    ]
    for kind, found in answer["answers"].items():
        lines.append(f"  {kind}")
        for step in found["steps"]:
            dropped = "; ".join(f"{region} dropped: {why}" for region, why in step["dropped"].items())
            notes = "; ".join(text for text in (step["note"], dropped) if text)
            kept = ", ".join(step["kept"]) or "nothing"
            lines.append(f"    {step['filter']:<24} {kept}{f'   ({notes})' if notes else ''}")
        addresses = ", ".join(found["addresses"]) or "no address"
        lines.append(f"    {'answer':<24} {addresses}   ({found['outcome']})")
    lines.append("  evidence")
    for target in answer["endpoints"]:
        state = "in rotation" if target["in_rotation"] else "withdrawn"
        lines.append(
            f"    {target['node']} ({target['region']}, {target['family']}): {state} for {target['since_s']:.1f} s "
            f"by rule {target['rule']}: {target['evidence']}; probes: {target['probes']}; "
            f"control plane: {target['condition']}" + (f"; ordered: {target['order']}" if target["order"] else "")
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
