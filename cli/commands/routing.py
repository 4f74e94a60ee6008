"""`locci routing`."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from cli import columns, drill_report
from cli.client import Json, new_request_id
from cli.drill_steps import seconds_of
from cli.durations import seconds_text
from cli.listing import Filter, How, OrderBy, Watch, show_list
from cli.output import Format, Output, dump, last, line, note, show, table, word
from cli.session import run

app = typer.Typer(help="The routing table, and orders that overrule the evidence.", no_args_is_help=True)

Target = Annotated[str, typer.Argument(metavar="TARGET", help="nodes/NODE or regions/REGION.")]


class Mode(Enum):
    """What can be ordered."""

    IN = "in"
    OUT = "out"
    DRAIN = "drain"


@app.command("show")
def show_(output: Output = Format.TABLE) -> None:
    """Show the routing table as DNS servers and edges get it."""
    routing = run(lambda c: c.get("routingTable"))
    if not output.tabular:
        dump(routing, output)
        return
    line(f"revision {routing.get('revision', 0)}")
    line("")
    proven_s = drill_report.proven_within_s(routing)
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
        ["HOSTNAME", "APP", "POLICY", "TTL", "FAILOVER WITHIN", "HEALTHY REPLICAS BY NODE"],
        [_hostname(found, proven_s) for found in routing.get("hostnames", [])],
    )


def _edge(region: Json, edge: Json) -> list[str]:
    against = [f"{last(e['vantage'])}: {e.get('reason', '')}" for e in edge.get("evidence", []) if not e.get("healthy")]
    condition = word(edge.get("condition", ""), "NODE_CONDITION_")
    return [region["region"], edge["node"], condition, ",".join(edge.get("addresses", [])), "; ".join(against)]


def _hostname(hostname: Json, proven_s: float | None) -> list[str]:
    routing = hostname.get("routing", {})
    replicas = ",".join(f"{e['node']}={e.get('healthy_replicas', 0)}" for e in hostname.get("endpoints", []))
    policy = word(routing.get("policy", ""), "STEERING_POLICY_")
    bound_s = drill_report.bound_s("rerouted", seconds_of(routing.get("ttl", "")), proven_s)
    within = "unknown" if bound_s is None else f"{bound_s:.2f}s"
    return [hostname["hostname"], hostname.get("app", ""), policy, routing.get("ttl", ""), within, replicas]


@app.command()
def overrides(
    filter_: Filter = "", order_by: OrderBy = "", watch: Watch = False, output: Output = Format.TABLE
) -> None:
    """List the orders that hold."""
    empty = "no orders: the evidence decides"
    how = How(filter_, order_by, watch)
    show_list("routingOverrides", "routing_overrides", columns.OVERRIDES, output, empty, how)


@app.command()
def override(
    target: Target,
    mode: Annotated[Mode, typer.Argument(help="What is ordered.")],
    percent: Annotated[int, typer.Option(help="With drain: how many of a hundred client networks go elsewhere.")] = 0,
    over: Annotated[str, typer.Option(help="With drain: so long it takes to grow, and to end, as in 5m.")] = "",
    ttl: Annotated[str, typer.Option("--for", help="How long, as in 30m; one hour when it is missing.")] = "",
    reason: Annotated[str, typer.Option(help="Why, for whoever asks.")] = "",
    output: Output = Format.TABLE,
) -> None:
    """Take an edge, or all edges of a region, in or out of DNS answers for a time, whatever probes find."""
    body: Json = {"target": target, "mode": f"OVERRIDE_MODE_{mode.value.upper()}", "reason": reason}
    if percent:
        body["percent"] = percent
    if over:
        body["over"] = seconds_text(over, "--over")
    if ttl:
        body["ttl"] = seconds_text(ttl, "--for")
    params = {"request_id": new_request_id()}
    row = run(lambda c: c.call("POST", "routingOverrides:set", params=params, body=body))
    show([row], columns.OVERRIDES, output, "")


@app.command()
def release(target: Target) -> None:
    """Take an order back: the evidence decides again."""
    name = f"routingOverrides/{target.replace('/', '-')}"
    run(lambda c: c.call("DELETE", name))
    note(f"nothing is ordered of {target} any more")
