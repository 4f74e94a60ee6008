"""`locci secrets`."""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import Annotated

import typer

from cli import columns
from cli.client import Json, new_request_id
from cli.failure import USAGE, Failure
from cli.listing import Filter, How, OrderBy, Watch, show_list
from cli.output import Format, Output, note, show, show_one
from cli.session import name_of, run

app = typer.Typer(help="Secrets: confidential values that containers get.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="SECRET", help="Its id, as in db-password.")]
File = Annotated[
    Path | None, typer.Option("--file", help="File with the value; without it, standard input.", show_default=False)
]


@app.command()
def ls(filter_: Filter = "", order_by: OrderBy = "", watch: Watch = False, output: Output = Format.TABLE) -> None:
    """List secrets, without their values."""
    empty = "no secrets: `locci secrets create NAME < FILE`"
    show_list("secrets", "secrets", columns.SECRETS, output, empty, How(filter_, order_by, watch))


@app.command("show")
def show_(secret: Name, output: Output = Format.TABLE) -> None:
    """Show a secret's versions, without their values."""
    show_one(run(lambda c: c.get(name_of("secrets", secret))), columns.SECRETS, output)


@app.command()
def create(secret: Name, file: File = None, output: Output = Format.TABLE) -> None:
    """Create a secret; its value comes from standard input or a file, never from the command line."""
    body = _body(file) | {"secret_id": name_of("secrets", secret).partition("/")[2]}
    show([run(lambda c: c.call("POST", "secrets", body=body))], columns.SECRETS, output, "")


@app.command("add-version")
def add_version(secret: Name, file: File = None, output: Output = Format.TABLE) -> None:
    """Add a version. Apps take it with their next release: `locci apply` makes one."""
    body = _body(file)
    found = run(lambda c: c.call("POST", f"{name_of('secrets', secret)}:addVersion", body=body))
    show([found], columns.SECRETS, output, "")


@app.command("destroy-version")
def destroy_version(
    secret: Name,
    number: Annotated[int, typer.Argument(metavar="VERSION")],
    output: Output = Format.TABLE,
) -> None:
    """Destroy the value of a version for good."""
    name = f"{name_of('secrets', secret)}:destroyVersion"
    show([run(lambda c: c.call("POST", name, body={"number": number}))], columns.SECRETS, output, "")


@app.command()
def rm(secret: Name) -> None:
    """Delete a secret with all of its versions."""
    name = name_of("secrets", secret)
    run(lambda c: c.call("DELETE", name))
    note(f"{name} is deleted")


def _body(file: Path | None) -> Json:
    try:
        value = sys.stdin.buffer.read() if file is None else file.read_bytes()
    except OSError as error:
        raise Failure(f"{file} cannot be read: {error}", exit_code=USAGE) from error
    return {"value": base64.b64encode(value).decode(), "request_id": new_request_id()}
