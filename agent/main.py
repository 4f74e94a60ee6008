"""`locci-agent`: joins a fleet, runs the agent, asks a running one.

Exit codes: 0 fine, 1 failed, 2 bad usage or configuration, 3 not permitted, 130 interrupted.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import re
import socket
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from agent import app as program
from agent.adapters import host_facts, status_socket
from agent.adapters.breaker import Breaker
from agent.doctor import examine
from agent.doctor import support_bundle as write_bundle
from agent.faults import end_leftover
from agent.settings import AgentSettings
from agent.supervise import Supervisor, want
from fleet import settings as fleet_settings
from fleet import telemetry
from fleet.enrol import join as enrol
from fleet.errors import Code, LocciError, invalid
from fleet.identity import IdentityDirectory
from fleet.ids import NODE_ID_LENGTH_MAX

T = TypeVar("T")

FAILED, BAD_USAGE, NOT_PERMITTED, INTERRUPTED = 1, 2, 3, 130

cli = typer.Typer(
    name="locci-agent", help="Runs containers on an edge host.", no_args_is_help=True, add_completion=False
)

Config = Annotated[Path | None, typer.Option("--config", help="A TOML file; without one, the defaults.")]


@cli.command()
def run(config: Config = None) -> None:
    """Runs the agent until SIGTERM."""
    telemetry.configure_logging("locci-agent")
    _finish(program.run(fleet_settings.load(AgentSettings, config)))


@cli.command()
def supervise(
    config: Config = None,
    check: Annotated[bool, typer.Option("--check", help="Only say whether it could begin, by the exit code.")] = False,
    adopt: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Runs the installed agent until SIGTERM, and takes care of upgrades."""
    telemetry.configure_logging("locci-agent")
    supervisor = Supervisor(fleet_settings.load(AgentSettings, config), config, adopted=adopt)
    if not check:
        _finish(supervisor.run())


@cli.command()
def upgrade(
    version: Annotated[str, typer.Argument(help="A version that is installed on this host.")],
    config: Config = None,
) -> None:
    """Asks the supervisor for another version; it goes back by itself when that does not do as well within a minute."""
    want(fleet_settings.load(AgentSettings, config), version)
    print(f"version {version} is tried next; see `locci-agent status` and the journal")


@cli.command()
def join(
    server: Annotated[str, typer.Option(help="The control plane, as in https://control.example.net:7443.")],
    token: Annotated[str, typer.Option(help="A join token, from `locci tokens create`.")],
    name: Annotated[str, typer.Option(help="The node's id; without one, the host's name.")] = "",
    address: Annotated[list[str] | None, typer.Option(help="Where clients reach this host; may be repeated.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="A label as KEY=VALUE; may be repeated.")] = None,
    config: Config = None,
) -> None:
    """Makes this host a node of a fleet."""
    settings = fleet_settings.load(AgentSettings, config)
    # A snapshot of an earlier membership is nothing to begin with: the new control plane says what is wanted.
    snapshot = settings.state_dir / program.SNAPSHOT_NAME
    facts = _finish(
        enrol(
            server=server,
            token=token,
            node_id=name or default_name(),
            addresses=address or host_facts.addresses(),
            directory=IdentityDirectory(settings.identity_dir),
            facts=host_facts.facts("", settings.state_dir),
            labels=labels(label or []),
        )
    )
    snapshot.unlink(missing_ok=True)
    print(f"joined as node {facts.node} in region {facts.region}; the key is in {settings.identity_dir}")


@cli.command()
def status(
    config: Config = None,
    output: Annotated[str, typer.Option("--output", "-o", help="table or json.")] = "table",
) -> None:
    """Shows what a running agent does."""
    if output not in ("table", "json"):
        raise invalid("output", f"--output: {output!r} is neither table nor json")
    settings = fleet_settings.load(AgentSettings, config)
    answer = _finish(status_socket.ask(settings.run_dir / "agent.sock"))
    print(json.dumps(answer, indent=2) if output == "json" else as_text(answer))


@cli.command()
def doctor(
    config: Config = None,
    output: Annotated[str, typer.Option("--output", "-o", help="table or json.")] = "table",
) -> None:
    """Finds out what is wrong on this host, without the control plane. Exit code 1 when something is."""
    if output not in ("table", "json"):
        raise invalid("output", f"--output: {output!r} is neither table nor json")
    findings = examine(fleet_settings.load(AgentSettings, config))
    if output == "json":
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            print(f"{finding.verdict:8} {finding.check:12} {finding.message}")
    if any(finding.verdict == "failed" for finding in findings):
        sys.exit(FAILED)


@cli.command("end-faults")
def end_faults(config: Config = None) -> None:
    """Undoes what a drill broke on this host, when its agent is dead; init calls it whenever the agent has ended."""
    settings = fleet_settings.load(AgentSettings, config)
    ended = end_leftover(settings.state_dir, Breaker(settings.state_dir, settings.restart_commands))
    for name in ended:
        print(f"{name} is undone")
    if not ended:
        print("nothing is left of a drill")


@cli.command("support-bundle")
def support_bundle(
    path: Annotated[Path, typer.Argument(help="Where to write it, a .tar.gz.")],
    config: Config = None,
) -> None:
    """Collects what helps others to understand this host; without keys, tokens and values of variables."""
    parts = write_bundle(fleet_settings.load(AgentSettings, config), path)
    print(f"{path}: {', '.join(parts)}")


def default_name() -> str:
    """The host's name as a node id."""
    name = re.sub(r"[^a-z0-9]+", "-", socket.gethostname().split(".")[0].lower()).strip("-")
    name = name if name[:1].isalpha() else f"node-{name}"
    return name[:NODE_ID_LENGTH_MAX].rstrip("-")


def labels(pairs: list[str]) -> dict[str, str]:
    """`KEY=VALUE` pairs as a mapping. Raises INVALID_ARGUMENT."""
    for pair in pairs:
        if pair.find("=") < 1:
            raise invalid("label", f"--label: {pair!r} is not of the form KEY=VALUE")
    return dict(pair.split("=", 1) for pair in pairs)


def as_text(answer: dict[str, Any]) -> str:
    """The status for a person."""
    engine, edge = answer["engine"], answer["edge"]
    lines = [
        f"node           {answer['node']} (region {answer['region']})",
        f"control plane  {answer['server']}: {'connected' if answer['connected'] else 'NOT CONNECTED'}",
        f"revision       accepted {answer['accepted_revision']}, applied {answer['applied_revision']}",
        f"engine         {engine['version'] or 'unknown'} at {engine['address']}"
        + (f": {engine['reason']}" if engine["reason"] else ""),
        f"edge           {edge['connected']} connected, generation {edge['serving']} of {edge['generation']}",
    ]
    wanted = answer.get("upgrade")
    if wanted:
        why = f": {wanted['reason']}" if wanted["reason"] else ""
        lines.append(
            f"version        {answer['version']}; {wanted['version']} was wanted last and is {wanted['state']}{why}"
        )
    for replica in answer["replicas"]:
        ready = "ready" if replica["ready"] else "not ready"
        text = f"{replica['resource']}  {replica['phase'].lower()}, {ready}, {replica['restarts']} restart(s)"
        lines.append(text + (f": {replica['reason']}" if replica["reason"] else ""))
    return "\n".join(lines)


def _finish(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def main() -> None:
    """The program's entry point."""
    try:
        cli(standalone_mode=True)
    except LocciError as error:
        print(f"locci-agent: {error.message}", file=sys.stderr)
        codes = {Code.INVALID_ARGUMENT: BAD_USAGE, Code.PERMISSION_DENIED: NOT_PERMITTED}
        sys.exit(codes.get(error.code, FAILED))
    except PermissionError as error:
        hint = "" if os.geteuid() == 0 else "; run as root, or choose other directories in the configuration"
        print(f"locci-agent: {error.filename}: {error.strerror}{hint}", file=sys.stderr)
        sys.exit(NOT_PERMITTED)
    except OSError as error:
        print(f"locci-agent: {error.filename or ''}: {error.strerror or error}".replace(" : ", " "), file=sys.stderr)
        sys.exit(FAILED)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
