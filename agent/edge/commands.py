"""`locci-edge`: the commands for people."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import typer
import uvloop

from agent.edge.handover import Adoption
from agent.edge.settings import EdgeSettings
from agent.edge.supervisor import Supervisor
from fleet import settings as fleet_settings
from fleet.errors import Code, LocciError
from fleet.telemetry import configure_logging

cli = typer.Typer(add_completion=False, no_args_is_help=True, help="The ingress of an edge host.")
EXIT = {Code.INVALID_ARGUMENT: 2, Code.PERMISSION_DENIED: 3}


@cli.callback()
def _program() -> None:
    """The ingress of an edge host: routes, caches, and asks other edges when its own replicas cannot answer."""


@cli.command()
def run(
    config: Path | None = typer.Option(None, "--config", help="TOML file with the settings."),
    adopt: str = typer.Option("", "--adopt", hidden=True),
) -> None:
    """Serve until SIGTERM; SIGHUP brings new settings and a new version of the program without a dropped connection."""
    settings = _settings(config)
    adoption = Adoption.decode(adopt) if adopt else None

    async def work() -> int:
        return await Supervisor(config, settings, _load).run(adoption)

    raise typer.Exit(_run(work()))


def _load(config: Path | None) -> EdgeSettings:
    return fleet_settings.load(EdgeSettings, config)


def _settings(config: Path | None) -> EdgeSettings:
    configure_logging("locci-edge")
    try:
        return _load(config)
    except LocciError as error:
        _fail(error)
        raise


def _run(work: Coroutine[Any, Any, int]) -> int:
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(work)
    except LocciError as error:
        _fail(error)
        raise
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _fail(error: LocciError) -> None:
    sys.stderr.write(f"locci-edge: {error.message}\n")
    raise typer.Exit(EXIT.get(error.code, 1))
