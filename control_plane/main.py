"""`locci-server`: the control plane's command line."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys
from pathlib import Path
from typing import Annotated, Final

import typer
import uvloop

from control_plane import backup_commands
from control_plane.app import ControlPlane
from control_plane.http.listener import start_http
from control_plane.settings import ServerSettings
from control_plane.shared import SharedControlPlane, initialise, replace_master_key
from fleet.errors import Code, LocciError
from fleet.settings import load
from fleet.telemetry import configure_logging

app = typer.Typer(
    help="The control plane of a fleet: desired state, certificates, placement, rollouts.",
    no_args_is_help=False,
    invoke_without_command=True,
    add_completion=False,
)

app.add_typer(backup_commands.app, name="backup")

GC_THRESHOLDS: Final = (50_000, 20, 50)
Config = Annotated[Path | None, typer.Option("--config", help="TOML file with settings.", show_default=False)]


@app.callback()
def default(context: typer.Context, config: Config = None) -> None:
    """Without a command it runs."""
    if context.invoked_subcommand is None:
        run(config)


@app.command()
def run(config: Config = None) -> None:
    """Run until SIGTERM or SIGINT."""
    settings = load(ServerSettings, config)
    configure_logging("locci-server", level=settings.log_level)
    uvloop.run(_serve(settings))


@app.command()
def init(config: Config = None) -> None:
    """Create the CA, the store and the first operator token, and exit."""
    settings = load(ServerSettings, config)
    configure_logging("locci-server", level=settings.log_level)
    asyncio.run(_prepare(settings))
    print(settings.data_dir / "context.json")


@app.command()
def rotate_master_key(config: Config = None) -> None:
    """Put everything that is sealed in the store under a new master key. Stop the control plane first."""
    settings = load(ServerSettings, config)
    configure_logging("locci-server", level=settings.log_level)
    count = asyncio.run(replace_master_key(settings))
    print(f"{count} sealed values are under the new key in {settings.data_dir}/master.key: back it up", end="")
    print("; copy it to the other control planes, then start them" if settings.database_url else "")


async def _prepare(settings: ServerSettings) -> None:
    if settings.database_url:
        await initialise(settings)
        return
    plane = ControlPlane(settings)
    try:
        await plane.prepare()
    finally:
        await plane.stop()


async def _serve(settings: ServerSettings) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    # A full collection among the objects of thousands of streams pauses everything: it is to come seldom.
    gc.set_threshold(*GC_THRESHOLDS)
    if settings.database_url:
        await SharedControlPlane(settings, start_http).run(stopped)
        return
    plane = ControlPlane(settings, start_http)
    try:
        await plane.prepare()
        await plane.start()
        # What is here now stays for good.
        gc.freeze()
        ending = asyncio.create_task(stopped.wait())
        controlling = asyncio.create_task(plane.wait())
        done, pending = await asyncio.wait({ending, controlling}, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        if controlling in done:
            controlling.result()
    finally:
        await plane.stop()


def main() -> None:
    """Entry point; exit codes: 0 ok, 1 failed, 2 bad usage or configuration, 3 not permitted, 130 interrupted."""
    try:
        app()
    except LocciError as error:
        print(f"locci-server: {error.message}", file=sys.stderr)
        sys.exit({Code.INVALID_ARGUMENT: 2, Code.PERMISSION_DENIED: 3}.get(error.code, 1))
    except KeyboardInterrupt:
        with contextlib.suppress(BrokenPipeError):
            print("locci-server: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
