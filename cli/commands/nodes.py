"""`locci nodes`."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

import typer

from cli import columns
from cli.client import Client, Json, new_request_id
from cli.commands.placement import DryRun, foretell
from cli.durations import seconds_text
from cli.failure import USAGE, Failure
from cli.listing import Filter, How, OrderBy, Watch, names_of, show_list
from cli.output import Format, Output, note, show_one
from cli.session import name_of, pairs_of, run

app = typer.Typer(help="Nodes: the hosts of the fleet.", no_args_is_help=True)

_DRAIN_LOOK_S: Final = 0.5

Node = Annotated[str, typer.Argument(metavar="NODE", help="The node's id.", autocompletion=names_of("nodes"))]


@app.command()
def ls(
    region: Annotated[str, typer.Option(help="Only nodes of this region.")] = "",
    filter_: Filter = "",
    order_by: OrderBy = "",
    watch: Watch = False,
    output: Output = Format.TABLE,
) -> None:
    """List nodes."""
    empty = "no nodes: `locci tokens create --region R` makes a token that brings one in"
    how = How(filter_, order_by, watch)
    if region:
        how = how.within(f"region = {name_of('regions', region)}")
    show_list("nodes", "nodes", columns.NODES, output, empty, how, wide=columns.NODE)


@app.command("show")
def show_(node: Node, output: Output = Format.TABLE) -> None:
    """Show a node, with what it accepted, applied and why it is in its condition."""
    show_one(run(lambda c: c.get(name_of("nodes", node))), columns.NODE, output)


@app.command()
def cordon(node: Node, dry_run: DryRun = False) -> None:
    """Keep new replicas away from a node; it keeps what it runs."""
    if dry_run:
        foretell("cordon_node", name_of("nodes", node))
        return
    _act(node, "cordon", {}, "gets nothing new")


@app.command()
def uncordon(node: Node) -> None:
    """End a cordon."""
    _act(node, "uncordon", {}, "may get replicas again")


@app.command()
def revoke(node: Node, reason: Annotated[str, typer.Option(help="Why, for the record.")] = "") -> None:
    """End the trust in a node's identity at once."""
    _act(node, "revoke", {"reason": reason}, "is revoked: its streams are closed and its certificate is refused")


def _act(node: str, verb: str, body: Json, done: str) -> None:
    name = name_of("nodes", node)
    run(lambda c: c.call("POST", f"{name}:{verb}", body=body))
    note(f"{name} {done}")


@app.command()
def rm(
    node: Node,
    force: Annotated[bool, typer.Option(help="Also when it is connected or still holds replicas.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Remove a node, its identity and its assignments."""
    name = name_of("nodes", node)
    if dry_run:
        foretell("delete_node", name)
        return
    run(lambda c: c.call("DELETE", name, params={"force": force, "request_id": new_request_id()}))
    note(f"{name} is removed")


@app.command()
def label(
    node: Node,
    labels: Annotated[list[str], typer.Argument(metavar="KEY=VALUE|KEY-...", help="Labels to set; KEY- removes one.")],
) -> None:
    """Set and remove labels."""
    name = name_of("nodes", node)
    gone = {text.removesuffix("-") for text in labels if text.endswith("-") and "=" not in text}
    fresh = pairs_of([text for text in labels if text.removesuffix("-") not in gone], "label")
    if not labels:
        raise Failure("no labels are given", exit_code=USAGE)

    async def change(client: Client) -> Json:
        node = await client.get(name)
        kept = {key: value for key, value in node.get("labels", {}).items() if key not in gone}
        body = {"labels": {**kept, **fresh}, "etag": node.get("etag", "")}
        params = {"update_mask": "labels", "request_id": new_request_id()}
        return await client.call("PATCH", name, params=params, body=body)

    show_one(run(change), columns.NODE, Format.TABLE)


@app.command()
def drain(
    node: Node,
    deadline: Annotated[str, typer.Option(help="After so long what could not be moved is stopped anyway.")] = "10m",
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Return when the node is empty.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Empty a node: traffic leaves it, each replica moves and stops once its replacement is healthy."""
    name = name_of("nodes", node)
    if dry_run:
        foretell("drain_node", name)
        return
    body = {"deadline": seconds_text(deadline, "--deadline"), "reason": reason}

    async def empty(client: Client) -> Json:
        row = await client.call("POST", f"{name}:drain", body=body)
        left = -1
        while wait and "drain_deadline_time" in row and row.get("condition") == "NODE_CONDITION_DRAINING":
            if row.get("assigned_replicas", 0) != left:
                left = row.get("assigned_replicas", 0)
                note(f"{name}: {left} replicas are left")
            await asyncio.sleep(_DRAIN_LOOK_S)
            row = await client.get(name)
        return row

    row = run(empty)
    note(f"{name}: {row.get('condition_reason', '') or 'it drains'}")


@app.command()
def undrain(node: Node) -> None:
    """Put a node into service again."""
    _act(node, "undrain", {}, "takes replicas and traffic again")
