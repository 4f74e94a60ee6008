"""`locci tokens`: join tokens."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import columns
from cli.client import Client, Json, new_request_id
from cli.durations import seconds_text
from cli.failure import USAGE, Failure
from cli.listing import Filter, How, OrderBy, Watch, show_list
from cli.output import Format, Output, dump, line, note
from cli.session import name_of, run

app = typer.Typer(help="Join tokens: one-time, short-lived rights to bring a host into a region.", no_args_is_help=True)

_ROLES = {"edge": "NODE_ROLE_EDGE", "dns": "NODE_ROLE_DNS"}


@app.command()
def create(
    region: Annotated[str, typer.Option(help="The region that the host joins.")],
    role: Annotated[list[str] | None, typer.Option(help="edge or dns; may be repeated. Without it: edge.")] = None,
    node: Annotated[str, typer.Option(help="The node id that the host must take; replaces a node of that id.")] = "",
    ttl: Annotated[str, typer.Option(help="How long it is valid, as in 30m, 1h, 7d.")] = "1h",
    output: Output = Format.TABLE,
) -> None:
    """Create a join token: the token alone goes to standard output, and it is shown only this once."""
    unknown = next((r for r in role or [] if r not in _ROLES), None)
    if unknown is not None:
        raise Failure(f"--role: {unknown!r} is not known; use edge or dns", exit_code=USAGE)
    body = {
        "region": name_of("regions", region),
        "roles": [_ROLES[r] for r in role or []],
        "node_id": node,
        "ttl": seconds_text(ttl, "--ttl"),
    }

    async def make(client: Client) -> tuple[Json, str]:
        params = {"request_id": new_request_id()}
        return await client.call("POST", "joinTokens", params=params, body=body), client.server

    token, server = run(make)
    if output.tabular:
        line(token["token"])
    else:
        dump(token, output)
    name = f" --name {node}" if node else ""
    note(f"valid once, until {token.get('expire_time', '')[:19]}Z. On the host, as root:")
    note(f"  locci agent join --server {server} --token TOKEN{name} --address ADDRESS")


@app.command()
def ls(filter_: Filter = "", order_by: OrderBy = "", watch: Watch = False, output: Output = Format.TABLE) -> None:
    """List join tokens, without their secrets."""
    how = How(filter_, order_by, watch)
    show_list("joinTokens", "join_tokens", columns.TOKENS, output, "no join tokens", how)


@app.command()
def rm(token: Annotated[str, typer.Argument(metavar="TOKEN-ID", help="As `locci tokens ls` shows it.")]) -> None:
    """End a join token."""
    name = name_of("joinTokens", token)
    run(lambda c: c.call("DELETE", name))
    note(f"{name} is refused from now on")
