"""`locci registries`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cli import columns
from cli.client import new_request_id
from cli.failure import USAGE, Failure
from cli.listing import Filter, How, OrderBy, Watch, show_list
from cli.output import Format, Output, note, show
from cli.session import name_of, run

app = typer.Typer(help="Logins at registries of images.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="REGISTRY", help="The login's id, as in main.")]
Username = Annotated[str, typer.Option("--username", "-u", help="Who logs in.")]


@app.command()
def ls(filter_: Filter = "", order_by: OrderBy = "", watch: Watch = False, output: Output = Format.TABLE) -> None:
    """List logins."""
    empty = "no logins: `locci registries create NAME --host HOST --username USER`"
    show_list("registries", "registries", columns.REGISTRIES, output, empty, How(filter_, order_by, watch))


@app.command()
def create(
    registry: Name,
    username: Username,
    host: Annotated[str, typer.Option(help="As images name it, as in registry.example.net:5000, or docker.io.")],
    output: Output = Format.TABLE,
) -> None:
    """Keep a login; the password is read from standard input."""
    params = {"registry_id": name_of("registries", registry).partition("/")[2], "request_id": new_request_id()}
    body = {"host": host, "username": username, "password": _password()}
    show([run(lambda c: c.call("POST", "registries", params=params, body=body))], columns.REGISTRIES, output, "")


@app.command()
def replace(registry: Name, username: Username, output: Output = Format.TABLE) -> None:
    """Replace a login's user name and password, which is read from standard input."""
    name, params = name_of("registries", registry), {"request_id": new_request_id()}
    body = {"username": username, "password": _password()}
    show([run(lambda c: c.call("PATCH", name, params=params, body=body))], columns.REGISTRIES, output, "")


@app.command()
def rm(registry: Name) -> None:
    """Forget a login; images that hosts hold stay there."""
    name = name_of("registries", registry)
    run(lambda c: c.call("DELETE", name))
    note(f"{name} is forgotten")


def _password() -> str:
    if sys.stdin.isatty():
        return str(typer.prompt("password", hide_input=True, err=True))
    found = sys.stdin.readline().rstrip("\r\n")
    if not found:
        raise Failure("no password came on standard input", exit_code=USAGE)
    return found
