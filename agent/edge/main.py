"""`locci-edge`: the command line."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import typer
import uvloop

from agent.edge import app as edge_app
from agent.edge import supervisor
from agent.edge.settings import EdgeSettings
from fleet import settings as fleet_settings
from fleet.errors import Code, LocciError
from fleet.telemetry import configure_logging

cli = typer.Typer(add_completion=False, no_args_is_help=True, help="The ingress of an edge host.")
_EXIT = {Code.INVALID_ARGUMENT: 2, Code.PERMISSION_DENIED: 3}


@cli.callback()
def _program() -> None:
    """The ingress of an edge host: routes, caches, and asks other edges when its own replicas cannot answer."""


@cli.command()
def run(config: Path | None = typer.Option(None, "--config", help="TOML file with the settings.")) -> None:
    """Serve until SIGTERM."""
    settings = _settings(config)
    if settings.workers > 1:
        raise typer.Exit(_run(supervisor.run(config, settings.workers)) or 0)
    _run(edge_app.run(settings))


@cli.command(hidden=True)
def worker(number: int = typer.Option(0, "--number"), config: Path | None = typer.Option(None, "--config")) -> None:
    """One of several processes; started by `run`."""
    _run(edge_app.run(_settings(config), number))


def _settings(config: Path | None) -> EdgeSettings:
    configure_logging("locci-edge")
    try:
        return fleet_settings.load(EdgeSettings, config)
    except LocciError as error:
        _fail(error)
        raise


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    gc.freeze()  # what was imported is never garbage
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(work)
    except LocciError as error:
        _fail(error)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _fail(error: LocciError) -> None:
    print(f"locci-edge: {error.message}", file=sys.stderr)
    raise typer.Exit(_EXIT.get(error.code, 1))


def main() -> None:
    """Entry point of `locci-edge`."""
    cli()


if __name__ == "__main__":
    main()
