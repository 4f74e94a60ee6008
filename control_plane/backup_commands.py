"""`locci-server backup`."""

from __future__ import annotations

import datetime
import time
from pathlib import Path
from typing import Annotated

import typer

from control_plane import backup
from control_plane.settings import ServerSettings
from fleet.sealed_backup import Contents, read_passphrase
from fleet.sealed_backup import verify as verified
from fleet.settings import load

app = typer.Typer(help="Sealed copies of everything that a control plane is.", no_args_is_help=True)

Config = Annotated[Path | None, typer.Option("--config", help="TOML file with settings.", show_default=False)]
File = Annotated[Path, typer.Argument(metavar="FILE", help="The backup.")]
Passphrase = Annotated[
    Path, typer.Option("--passphrase-file", help="A file whose first line is the passphrase; keep it elsewhere.")
]


@app.command()
def create(file: File, passphrase_file: Passphrase, config: Config = None) -> None:
    """Back up this control plane, also while it runs."""
    settings = load(ServerSettings, config)
    _say(backup.create(settings, file, read_passphrase(passphrase_file), time.time()))


@app.command()
def verify(file: File, passphrase_file: Passphrase) -> None:
    """Open a backup, check it, and say what is in it."""
    _say(verified(file, read_passphrase(passphrase_file)))


@app.command()
def restore(file: File, passphrase_file: Passphrase, config: Config = None) -> None:
    """Make a control plane of a backup, in an empty data directory. Start it then with the same address."""
    settings = load(ServerSettings, config)
    _say(backup.restore(file, settings, read_passphrase(passphrase_file)))
    typer.echo(f"restored into {settings.data_dir}; next: `locci-server run`, and its nodes come back by themselves")


def _say(contents: Contents) -> None:
    made = datetime.datetime.fromtimestamp(contents.created_at, datetime.UTC)
    typer.echo(f"made {made:%Y-%m-%d %H:%M:%S} UTC at revision {contents.revision}")
    typer.echo("files: " + ", ".join(contents.files))
    typer.echo("objects: " + ", ".join(f"{count} {kind}" for kind, count in contents.objects.items()))
