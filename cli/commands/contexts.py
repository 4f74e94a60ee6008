"""`locci context` and `locci login`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from cli import context
from cli.client import Client
from cli.context import Context
from cli.failure import NOT_FOUND, USAGE, Failure
from cli.output import Column, Format, Output, note, show, show_one, yes
from cli.session import CONTEXT_FILE, run_with

Name = Annotated[str, typer.Option("--name", help="Also keep it under this name, for `locci context use NAME`.")]

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
def ls(output: Output = Format.TABLE) -> None:
    """List the contexts that are kept under names."""
    path = context.path_in_effect(CONTEXT_FILE.get())
    used = context.load(path) if path.exists() else None
    rows = []
    for name in context.names():
        held = context.load(context.named_path(name))
        rows.append({"name": name, "server": held.server, "token_id": held.token_id(), "in_use": held == used})
    columns: list[Column] = [
        ("NAME", lambda c: c["name"]),
        ("SERVER", lambda c: c["server"]),
        ("TOKEN ID", lambda c: c["token_id"]),
        ("IN USE", lambda c: yes(c["in_use"])),
    ]
    show(rows, columns, output, "no contexts: `locci context use FILE --name NAME` keeps one")


@app.command()
def use(
    which: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FILE",
            help="A name that a context is kept under, or a context file, as the control plane writes it.",
            autocompletion=context.names,
        ),
    ],
    name: Name = "",
) -> None:
    """Let commands use a context that is kept under a name, or a file, which is copied to your own place."""
    known = which in context.names()
    _keep(context.load(context.named_path(which) if known else Path(which)), name)


@app.command()
def rm(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The context's name.", autocompletion=context.names)],
) -> None:
    """Forget a context. The one in use stays in use until another one is."""
    path = context.named_path(name)
    if name not in context.names():
        raise Failure(f"there is no context {name!r}", hint="`locci context ls` lists them", exit_code=NOT_FOUND)
    path.unlink()
    note(f"{name} is forgotten; its token still holds: `locci operators rm` takes it back")


@app.command()
def trust() -> None:
    """Take over the fleet's certificate authorities as they are now, when one takes the place of another."""
    path = context.path_in_effect(CONTEXT_FILE.get())
    held = context.load(path)

    async def fetch(client: Client) -> str:
        return str((await client.get("ca"))["certificates_pem"])

    fresh = replace(held, ca_pem=run_with(held, fetch))
    context.save(fresh, path)
    for name in context.names():
        if context.load(context.named_path(name)) == held:
            context.save(fresh, context.named_path(name))
    note(f"{path} trusts {len(fresh.fingerprints())} now: {', '.join(f[:12] for f in fresh.fingerprints())}")


def login(
    server: Annotated[str, typer.Option(help="The control plane's https:// URL.")],
    ca_file: Annotated[Path, typer.Option("--ca-file", help="The CA's certificate in PEM.")],
    token: Annotated[
        str, typer.Option(envvar="LOCCI_TOKEN", help="The operator token; `-` reads it from standard input.")
    ],
    name: Name = "",
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
    _keep(held, name)


def _keep(held: Context, name: str = "") -> None:
    if name:
        context.save(held, context.named_path(name))
    path = context.own_path()
    context.save(held, path)
    note(f"commands use {held.server} now ({path})")
    in_effect = context.path_in_effect(CONTEXT_FILE.get())
    if in_effect != path:
        note(f"but not here: {in_effect} takes precedence; unset LOCCI_CONTEXT")
