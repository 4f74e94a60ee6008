"""`locci backup`: sealed copies of the control plane."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from pathlib import Path
from typing import IO, Annotated, Final

import typer

from cli import columns, external
from cli.client import Client, Json, new_request_id
from cli.failure import FAILED, USAGE, Failure
from cli.follow import follow
from cli.listing import Filter, How, OrderBy, Watch, names_of, show_list
from cli.output import Format, Output, note, show, show_one
from cli.session import name_of, run
from fleet.errors import LocciError
from fleet.sealed_backup import Contents, read_passphrase
from fleet.sealed_backup import verify as opened_and_checked

app = typer.Typer(help="Backups: sealed copies of everything that the control plane is.", no_args_is_help=True)

MAKING_S: Final = 600.0

File = Annotated[Path, typer.Argument(metavar="FILE", help="The backup's file.")]
Passphrase = Annotated[
    Path, typer.Option("--passphrase-file", help="A file whose first line is the passphrase; keep it elsewhere.")
]
Name = Annotated[str, typer.Argument(metavar="BACKUP", help="Its id.", autocompletion=names_of("backups"))]


@app.command()
def ls(filter_: Filter = "", order_by: OrderBy = "", watch: Watch = False, output: Output = Format.TABLE) -> None:
    """List the backups that lie with the control plane."""
    empty = "no backups: `locci backup create FILE --passphrase-file PASSPHRASE`"
    show_list("backups", "backups", columns.BACKUPS, output, empty, How(filter_, order_by, watch))


@app.command("show")
def show_(backup: Name, output: Output = Format.TABLE) -> None:
    """Show a backup."""
    show_one(run(lambda c: c.get(name_of("backups", backup))), columns.BACKUPS, output)


@app.command()
def create(
    file: File,
    passphrase_file: Passphrase,
    keep: Annotated[bool, typer.Option("--keep", help="Leave a copy with the control plane as well.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Have the control plane make a backup, fetch it, open it and check it."""
    _absent(file)
    passphrase = _passphrase(passphrase_file)
    body = {"passphrase": passphrase.decode(), "request_id": new_request_id()}

    async def work(client: Client) -> Json:
        begun = await client.call("POST", "backups", body=body)
        note(f"{begun['name']} is being made")
        made = await _made(client, begun["name"])
        await _fetch(client, made, file)
        return made

    made = run(work)
    try:
        _checked(file, passphrase)
    except Failure:
        file.unlink(missing_ok=True)
        raise
    if not keep:
        run(lambda c: c.call("DELETE", made["name"]))
    note(f"{file}: opened and checked" + (f"; {made['name']} is kept with the control plane" if keep else ""))
    show([made], columns.BACKUPS, output, "")


@app.command()
def download(backup: Name, file: File) -> None:
    """Fetch the file of a backup that lies with the control plane."""
    _absent(file)

    async def work(client: Client) -> None:
        await _fetch(client, await client.get(name_of("backups", backup)), file)

    run(work)
    note(f"{file}: as the control plane made it; `locci backup verify {file}` opens it")


@app.command()
def verify(file: File, passphrase_file: Passphrase) -> None:
    """Open a backup, check it, and say what is in it; needs no control plane."""
    contents = _checked(file, _passphrase(passphrase_file))
    note(f"{file}: revision {contents.revision}, " + ", ".join(f"{n} {kind}" for kind, n in contents.objects.items()))


@app.command()
def restore(
    file: File,
    passphrase_file: Passphrase,
    config: Annotated[
        Path | None, typer.Option("--config", help="Settings of the control plane that is made.", show_default=False)
    ] = None,
) -> None:
    """Make a control plane of a backup on this host; it is `locci server backup restore`."""
    program = external.find("server")
    if program is None:
        hint = "run this on the host that is to be the control plane, with locci-server installed"
        raise Failure("a backup is restored where the control plane runs; this host has no locci-server", hint=hint)
    settings = ["--config", str(config)] if config is not None else []
    external.replace_process(
        program, ["backup", "restore", str(file), "--passphrase-file", str(passphrase_file), *settings]
    )


@app.command()
def rm(backup: Name) -> None:
    """Delete a backup that lies with the control plane."""
    name = name_of("backups", backup)
    run(lambda c: c.call("DELETE", name))
    note(f"{name} is deleted")


async def _made(client: Client, name: str) -> Json:
    operation = f"operations/{name.replace('/', '.')}"
    try:
        async with asyncio.timeout(MAKING_S):
            async for state in follow(client, f"{operation}:watch", {}, note):
                if state.get("done"):
                    break
    except TimeoutError:
        hint = f"`locci operations wait {operation.rpartition('/')[2]}` follows it, `locci backup download` fetches it"
        raise Failure(f"{name} is not there after {MAKING_S:g} s", hint=hint) from None
    made = await client.get(name)
    if made["state"] != "STATE_READY":
        raise Failure(f"{name} could not be made: {made.get('reason', '')}", exit_code=FAILED)
    return made


async def _fetch(client: Client, made: Json, file: Path) -> None:
    """Writes the file, whole or not at all."""
    partial = file.with_name(f".{file.name}.partial")
    try:
        with _private(partial) as target:
            digest = await _copy(client, made["name"], target)
            os.fsync(target.fileno())
        if digest != made.get("sha256", ""):
            raise Failure("what came is not what the control plane made: try again", where=made["name"])
        os.link(partial, file)
    except OSError as error:
        raise Failure(f"{file} cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _private(path: Path) -> IO[bytes]:
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb")


async def _copy(client: Client, name: str, target: IO[bytes]) -> str:
    """The SHA-256 of what came. A broken stream is begun anew, from the first byte."""
    digest = hashlib.sha256()

    def anew(text: str) -> None:
        nonlocal digest
        note(text)
        target.seek(0)
        target.truncate()
        digest = hashlib.sha256()

    async for piece in follow(client, f"{name}:download", {}, anew):
        data = base64.b64decode(piece.get("data", ""))
        digest.update(data)
        target.write(data)
    return digest.hexdigest()


def _absent(file: Path) -> None:
    if file.exists():
        raise Failure(f"{file} is there already", hint="choose another name, or remove it", exit_code=USAGE)


def _passphrase(file: Path) -> bytes:
    try:
        found = read_passphrase(file)
        found.decode()
    except LocciError as error:
        raise Failure(error.message, exit_code=USAGE) from error
    except UnicodeDecodeError:
        raise Failure(f"{file}: the passphrase must be text in UTF-8", exit_code=USAGE) from None
    return found


def _checked(file: Path, passphrase: bytes) -> Contents:
    try:
        return opened_and_checked(file, passphrase)
    except LocciError as error:
        raise Failure(error.message) from error
