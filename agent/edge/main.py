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

from agent.edge.handover import Adoption, Handover
from agent.edge.settings import EdgeSettings
from agent.edge.supervisor import Supervisor
from fleet import settings as fleet_settings
from fleet.errors import Code, LocciError
from fleet.telemetry import configure_logging

cli = typer.Typer(add_completion=False, no_args_is_help=True, help="The ingress of an edge host.")
GC_THRESHOLDS = (20_000, 20, 20)
"""Requests make hardly any cycles, but many objects that live as long as they are cached: looking for cycles as often
as Python does by itself costs hits of the second tier a fifteenth."""
_EXIT = {Code.INVALID_ARGUMENT: 2, Code.PERMISSION_DENIED: 3}


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

    raise typer.Exit(_run(work()) or 0)


@cli.command(hidden=True)
def worker(
    number: int = typer.Option(0, "--number"),
    config: Path | None = typer.Option(None, "--config"),
    handover: str = typer.Option("", "--handover"),
) -> None:
    """One of several processes; started by `run`."""
    from agent.edge import app

    _run(app.run(_settings(config), number, Handover.decode(handover)))


def _load(config: Path | None) -> EdgeSettings:
    return fleet_settings.load(EdgeSettings, config)


def _settings(config: Path | None) -> EdgeSettings:
    configure_logging("locci-edge")
    try:
        return _load(config)
    except LocciError as error:
        _fail(error)
        raise


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    gc.freeze()  # what was imported is never garbage
    gc.set_threshold(*GC_THRESHOLDS)
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
