"""Status and explanations as JSON documents, for people and programs on the same host."""

from __future__ import annotations

import ipaddress
from typing import Any, Final

from fleet.clock import Clock
from fleet.errors import invalid, not_found
from fleet.ids import check_hostname
from routing.core.model import Family, OverrideMode
from routing.core.steering import ttl_s
from routing.core.verdict import TargetState, hold_s
from routing.engine import Engine

_TYPES: Final = {Family.IPV4: "A", Family.IPV6: "AAAA"}


def status(engine: Engine, clock: Clock) -> dict[str, Any]:
    """The table's revision, the feed, and each target with its verdict and evidence; ages in seconds."""
    now, brain = clock.monotonic(), engine.brain
    return {
        "revision": engine.table.revision,
        "feed_connected": brain.feed_alive,
        "zones": sorted(engine.table.zones),
        "hostnames": len(engine.table.hostnames),
        "brake": {f"ipv{family.value}": brain.brake(family).applied for family in Family},
        "regions": {region: brain.region_in_rotation(region) for region in sorted(engine.table.regions)},
        "endpoints": [_target(engine, state, now) for _, state in sorted(brain.targets.items())],
    }


def explain(engine: Engine, clock: Clock, hostname: str, address: str) -> dict[str, Any]:
    """Why a client at `address` gets the answers that it gets for `hostname`.

    Raises INVALID_ARGUMENT for what is no name or address, NOT_FOUND for a name that is not steered here.
    """
    hostname = check_hostname(hostname, "name")
    try:
        packed = ipaddress.ip_address(address).packed
    except ValueError as error:
        raise invalid("from", f"from: {error}") from error
    known = engine.table.hostnames.get(hostname)
    decisions = {family: engine.responder.explain(hostname, packed, family) for family in Family}
    if known is None or None in decisions.values():
        zones = ", ".join(sorted(engine.table.zones)) or "none"
        raise not_found(hostname, f"{hostname} is no app's hostname in a zone that is served here (zones: {zones})")
    locus = engine.places.locate(packed)
    now = clock.monotonic()
    place = locus.place
    answers = {}
    for family, decision in decisions.items():
        if decision is not None:
            answers[_TYPES[family]] = {
                "outcome": decision.outcome.value,
                "regions": list(decision.regions),
                "addresses": list(decision.addresses),
                "steps": [
                    {"filter": s.filter, "kept": list(s.kept), "dropped": dict(s.dropped), "note": s.note}
                    for s in decision.steps
                ],
            }
    states = [s for _, s in sorted(engine.brain.targets.items())]
    return {
        "hostname": hostname,
        "from": address,
        "revision": engine.table.revision,
        "policy": known.policy.value,
        "filters": [policy.value for policy in known.filters],
        "ttl_s": ttl_s(known, engine.unsteady),
        "unsteady": sorted(engine.unsteady),
        "place": None
        if place is None
        else {
            "latitude": place.latitude,
            "longitude": place.longitude,
            "country": place.country,
            "region": place.region,
            "source": place.source,
        },
        "measured_ms": dict(locus.latencies),
        "scope_bits": locus.scope_bits,
        "replicas": dict(known.replicas),
        "answers": answers,
        "endpoints": [_target(engine, state, now) for state in states],
    }


def _target(engine: Engine, state: TargetState, now: float) -> dict[str, Any]:
    verdict, probed, said = state.verdict, state.probed, state.said
    found = "not probed so far"
    if probed.suspect:
        found = f"failing: {probed.reason}"
    elif probed.proven:
        found = "in order"
    return {
        "node": state.target.node,
        "region": state.target.region,
        "family": f"ipv{state.target.family.value}",
        "address": state.target.address,
        "in_rotation": verdict.in_rotation,
        "rule": verdict.rule.value,
        "evidence": verdict.evidence,
        "since_s": round(now - verdict.since, 3),
        "probes": found,
        "failure_weight": probed.weight,
        "round_trip_ms": round(1000 * probed.round_trip_s, 3),
        "condition": said.condition.value,
        "vantages": {vantage.vantage: vantage.healthy for vantage in said.vantages},
        "order": _order(engine, state.target.node),
        "hold_s": hold_s(state, engine.brain.policy, now),
    }


def _order(engine: Engine, node: str) -> str:
    """What an operator has ordered of a node, or that it has just come back, in words; empty when nothing."""
    orders = engine.orders
    returning = dict(engine.standing().returning).get(node)
    edges = (edge for region in engine.table.regions.values() for edge in region.edges if edge.node == node)
    override = next((edge.override for edge in edges), None)
    if override is None or node not in {*orders.ins, *orders.outs, *(drained for drained, _ in orders.drains)}:
        return f"none; it returns, and {returning} % of clients are still sent elsewhere" if returning else ""
    share = f" {dict(orders.drains)[node]} %" if override.mode is OverrideMode.DRAIN else ""
    return f"{override.mode.value}{share}" + (f" ({override.reason})" if override.reason else "")
