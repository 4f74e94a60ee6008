"""`locci status`: the fleet, or one app, at a glance."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Annotated

import typer

from cli import columns, rollouts
from cli.client import Client, Json
from cli.output import Format, Output, dump, last, line, note, show_one, table, word
from cli.session import name_of, run


def status(
    name: Annotated[str, typer.Argument(metavar="APP", help="The app's id; without it, the whole fleet.")] = "",
    output: Output = Format.TABLE,
) -> None:
    """Show how the fleet is, or one app with its rollout and its replicas."""
    found = run(lambda client: _app(client, name_of("apps", name)) if name else _fleet(client))
    if not output.tabular:
        dump(found, output)
    elif name:
        _show_app(found)
    else:
        _show_fleet(found)


async def _fleet(client: Client) -> Json:
    regions, nodes, apps = await asyncio.gather(
        client.pages("regions", "regions"), client.pages("nodes", "nodes"), client.pages("apps", "apps")
    )
    return {"server": client.server, "regions": regions, "nodes": nodes, "apps": apps}


async def _app(client: Client, name: str) -> Json:
    app = await client.get(name)
    rollout = await client.get(app["rollout"]) if app.get("rollout") else None
    return {"app": app, "rollout": rollout, "replicas": await client.pages(f"{name}/replicas", "replicas")}


def _show_fleet(found: Json) -> None:
    line(f"control plane  {found['server']}")
    line("")
    nodes: list[Json] = found["nodes"]
    rows = [[last(region["name"]), *_counts(region["name"], nodes)] for region in found["regions"]]
    table(["REGION", "NODES", "CONDITIONS", "REPLICAS"], rows)
    line("")
    table([name for name, _ in columns.APPS], [[cell(app) for _, cell in columns.APPS] for app in found["apps"]])
    for node in nodes:
        if node.get("condition") not in ("NODE_CONDITION_READY", "NODE_CONDITION_JOINING"):
            note(f"{node['name']} is {_condition(node)}: {node.get('condition_reason', '')}")
    for app in found["apps"]:
        for problem in app.get("placement_problems", []):
            note(f"{app['name']}: {problem}")


def _counts(region: str, nodes: list[Json]) -> list[str]:
    here = [node for node in nodes if node.get("region") == region]
    conditions = Counter(_condition(node) for node in here)
    healthy = sum(node.get("healthy_replicas", 0) for node in here)
    assigned = sum(node.get("assigned_replicas", 0) for node in here)
    shown = ",".join(f"{count} {name}" for name, count in sorted(conditions.items()))
    return [str(len(here)), shown, f"{healthy}/{assigned}"]


def _condition(node: Json) -> str:
    return word(node.get("condition", ""), "NODE_CONDITION_")


def _show_app(found: Json) -> None:
    show_one(found["app"], columns.APP, Format.TABLE)
    if found["rollout"] is not None:
        rollout = found["rollout"]
        line("")
        line(f"rollout {last(rollout['name'])}: {rollouts.describe(rollout)}")
        if rollout.get("reason"):
            line(rollout["reason"].rstrip())
    if found["replicas"]:
        line("")
        rows = [[cell(replica) for _, cell in columns.REPLICAS] for replica in found["replicas"]]
        table([name for name, _ in columns.REPLICAS], rows)
