"""`locci operators`: the tokens of people and programs that call the API."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from cli import columns
from cli.client import Json, new_request_id
from cli.durations import seconds_text
from cli.listing import Filter, How, OrderBy, Watch, show_list
from cli.output import Format, Output, dump, line, note
from cli.session import name_of, run

app = typer.Typer(help="Operators' tokens: who may call the API, and what for.", no_args_is_help=True)


class Role(Enum):
    """Each may do all that those before it may."""

    VIEWER = "viewer"
    DEPLOYER = "deployer"
    OPERATOR = "operator"
    ADMIN = "admin"


@app.command()
def create(
    display_name: Annotated[str, typer.Argument(metavar="FOR", help="Whose it is, as in 'ci of the shop'.")],
    role: Annotated[Role, typer.Option(help="What it allows; each role may do all that the one before it may.")],
    scope: Annotated[list[str] | None, typer.Option(help="Apps it is limited to, as in 'apps/shop-*'; repeat.")] = None,
    ttl: Annotated[str, typer.Option(help="How long it is valid, as in 12h or 30d.")] = "90d",
    output: Output = Format.TABLE,
) -> None:
    """Create a token: the token alone goes to standard output, and it is shown only this once."""
    body: Json = {
        "display_name": display_name,
        "role": f"OPERATOR_ROLE_{role.value.upper()}",
        "scopes": scope or [],
        "ttl": seconds_text(ttl, "--ttl"),
    }
    params = {"request_id": new_request_id()}
    made = run(lambda c: c.call("POST", "operatorTokens", params=params, body=body))
    if not output.tabular:
        dump(made, output)
        return
    line(made["token"])
    note(
        f"{made['name']} with the role {role.value}; log in with it: `locci login --server URL`, or send it as a bearer"
    )


@app.command()
def ls(filter_: Filter = "", order_by: OrderBy = "", watch: Watch = False, output: Output = Format.TABLE) -> None:
    """List operators' tokens, without their secrets."""
    empty = "no tokens but the first administrator's"
    how = How(filter_, order_by, watch)
    show_list("operatorTokens", "operator_tokens", columns.OPERATOR_TOKENS, output, empty, how)


@app.command()
def rm(token: Annotated[str, typer.Argument(metavar="ID", help="The token's id, as `ls` shows it.")]) -> None:
    """Take a token back: it is refused from then on."""
    name = name_of("operatorTokens", token)
    run(lambda c: c.call("DELETE", name))
    note(f"{name} is taken back")
