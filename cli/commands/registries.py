"""`locci registries`."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from cli import columns
from cli.client import new_request_id
from cli.failure import USAGE, Failure
from cli.listing import Filter, How, OrderBy, Watch, show_list
from cli.output import Format, Output, note, show
from cli.session import name_of, run

app = typer.Typer(help="Registries of images: logins, mirrors.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="REGISTRY", help="Its id, as in main.")]
Username = Annotated[str, typer.Option("--username", "-u", help="Who logs in; the password comes on standard input.")]
Mirrors = Annotated[
    list[str],
    typer.Option(
        "--mirror",
        metavar="HOST[=REGION,...]",
        help="A host with the same content, which nodes (of these regions only) ask first. May be repeated.",
    ),
]


@app.command()
def ls(filter_: Filter = "", order_by: OrderBy = "", watch: Watch = False, output: Output = Format.TABLE) -> None:
    """List registries."""
    empty = "no registries: `locci registries create NAME --host HOST --username USER`"
    show_list("registries", "registries", columns.REGISTRIES, output, empty, How(filter_, order_by, watch))


@app.command()
def create(
    registry: Name,
    host: Annotated[str, typer.Option(help="As images name it, as in registry.example.net:5000, or docker.io.")],
    username: Username = "",
    mirror: Mirrors = [],  # noqa: B006
    output: Output = Format.TABLE,
) -> None:
    """Keep a login at a registry, mirrors of it, or both."""
    params = {"registry_id": name_of("registries", registry).partition("/")[2], "request_id": new_request_id()}
    body = {"host": host, **_given(username, mirror)}
    show([run(lambda c: c.call("POST", "registries", params=params, body=body))], columns.REGISTRIES, output, "")


@app.command()
def replace(
    registry: Name,
    username: Username = "",
    mirror: Mirrors = [],  # noqa: B006
    output: Output = Format.TABLE,
) -> None:
    """Replace login and mirrors: what is not given is gone."""
    name, params = name_of("registries", registry), {"request_id": new_request_id()}
    body = _given(username, mirror)
    show([run(lambda c: c.call("PATCH", name, params=params, body=body))], columns.REGISTRIES, output, "")


@app.command()
def rm(registry: Name) -> None:
    """Forget a registry's login and mirrors; images that hosts hold stay there."""
    name = name_of("registries", registry)
    run(lambda c: c.call("DELETE", name))
    note(f"{name} is forgotten")


def _given(username: str, mirrors: list[str]) -> dict[str, Any]:
    if not username and not mirrors:
        raise Failure("give --username, --mirror, or both", exit_code=USAGE)
    login = {"username": username, "password": _password()} if username else {}
    return login | {"mirrors": [_mirror(text) for text in mirrors]}


def _mirror(text: str) -> dict[str, Any]:
    host, _, regions = text.partition("=")
    return {"host": host, "regions": [name_of("regions", region) for region in regions.split(",") if region]}


def _password() -> str:
    if sys.stdin.isatty():
        return str(typer.prompt("password", hide_input=True, err=True))
    found = sys.stdin.readline().rstrip("\r\n")
    if not found:
        raise Failure("no password came on standard input", exit_code=USAGE)
    return found
