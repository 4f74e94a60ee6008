"""`locci context` and `locci login`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cli import context
from cli.client import Client
from cli.context import Context
from cli.failure import USAGE, Failure
from cli.output import Format, Output, note, show_one
from cli.session import CONTEXT_FILE, run_with

app = typer.Typer(help="Which control plane commands speak to.", no_args_is_help=True)


@app.command("show")
def show_(output: Output = Format.TABLE) -> None:
    """Show the context in effect, without the token's secret."""
    path = context.path_in_effect(CONTEXT_FILE.get())
    held = context.load(path)
    facts = {
        "file": str(path),
        "server": held.server,
        "grpc": held.grpc,
        "token_id": held.token_id(),
        "ca_fingerprints": held.fingerprints(),
    }
    names = [
        ("FILE", "file"),
        ("SERVER", "server"),
        ("GRPC", "grpc"),
        ("TOKEN ID", "token_id"),
    ]
    columns = [(title, lambda f, key=key: str(f[key])) for title, key in names]
    show_one(facts, [*columns, ("CA SHA-256", lambda f: "\n".join(f["ca_fingerprints"]))], output)


@app.command()
def use(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A context file, as the control plane writes it.")],
) -> None:
    """Copy a context file to your own place, so that commands use it."""
    held = context.load(file)
    _keep(held)


def login(
    server: Annotated[str, typer.Option(help="The control plane's https:// URL.")],
    ca_file: Annotated[Path, typer.Option("--ca-file", help="The CA's certificate in PEM.")],
    token: Annotated[
        str, typer.Option(envvar="LOCCI_TOKEN", help="The operator token; `-` reads it from standard input.")
    ],
) -> None:
    """Check a token with the control plane and keep it in a context file of your own."""
    secret = sys.stdin.readline().strip() if token == "-" else token.strip()  # noqa: S105
    try:
        ca_pem = ca_file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"the CA cannot be read: {error}", where=str(ca_file), exit_code=USAGE) from None
    held = context.check({"server": server, "ca_pem": ca_pem, "token": secret}, str(ca_file))

    async def try_out(client: Client) -> None:
        await client.get("regions", {"page_size": 1})

    run_with(held, try_out)
    _keep(held)


def _keep(held: Context) -> None:
    path = context.own_path()
    context.save(held, path)
    note(f"commands use {held.server} now ({path})")
    in_effect = context.path_in_effect(CONTEXT_FILE.get())
    if in_effect != path:
        note(f"but not here: {in_effect} takes precedence; unset LOCCI_CONTEXT")
