"""`locci routing`."""

from __future__ import annotations

import typer

from cli.client import Json
from cli.output import Format, Output, dump, last, line, table, word
from cli.session import run

app = typer.Typer(help="The routing table: hostnames, regions, endpoints.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Keeps `show` a command of its own."""


@app.command("show")
def show_(output: Output = Format.TABLE) -> None:
    """Show the routing table as DNS servers and edges get it."""
    routing = run(lambda c: c.get("routingTable"))
    if output is not Format.TABLE:
        dump(routing, output)
        return
    line(f"revision {routing.get('revision', 0)}")
    line("")
    zones = [
        (zone["origin"], str(zone.get("serial", 0)), ",".join(s["hostname"] for s in zone.get("name_servers", [])))
        for zone in routing.get("zones", [])
    ]
    table(["ZONE", "SERIAL", "NAME SERVERS"], zones)
    line("")
    edges = [_edge(region, edge) for region in routing.get("regions", []) for edge in region.get("edges", [])]
    table(["REGION", "EDGE", "CONDITION", "ADDRESSES", "EVIDENCE AGAINST IT"], edges)
    line("")
    table(
        ["HOSTNAME", "APP", "POLICY", "TTL", "HEALTHY REPLICAS BY NODE"], map(_hostname, routing.get("hostnames", []))
    )


def _edge(region: Json, edge: Json) -> list[str]:
    against = [f"{last(e['vantage'])}: {e.get('reason', '')}" for e in edge.get("evidence", []) if not e.get("healthy")]
    condition = word(edge.get("condition", ""), "NODE_CONDITION_")
    return [region["region"], edge["node"], condition, ",".join(edge.get("addresses", [])), "; ".join(against)]


def _hostname(hostname: Json) -> list[str]:
    routing = hostname.get("routing", {})
    replicas = ",".join(f"{e['node']}={e.get('healthy_replicas', 0)}" for e in hostname.get("endpoints", []))
    policy = word(routing.get("policy", ""), "STEERING_POLICY_")
    return [hostname["hostname"], hostname.get("app", ""), policy, routing.get("ttl", ""), replicas]
