"""Snapshots become tables; what is broken is named, and the rest is served."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from locci.v1 import manifest_pb2, node_pb2, resource_pb2
from routing.adapters.table import TableReader
from routing.core.model import Condition, ForeignEvidence, Policy
from tests.unit.routing.adapters.resources import hostname, region, snapshot, whole, zone


def test_a_whole_table() -> None:
    eu, name = region("eu"), hostname("hello.example.net")
    edge = eu.region.edges[0]
    edge.addresses[:] = ["192.0.2.1", "2001:db8:0::1", "192.0.2.1"]
    edge.condition = node_pb2.NODE_CONDITION_SUSPECT
    edge.evidence.add(vantage="nodes/us-1", endpoint="nodes/eu-1", healthy=False, reason="no answer")
    name.hostname.routing.policy = manifest_pb2.STEERING_POLICY_FAILOVER
    name.hostname.routing.ttl.seconds = 60
    name.hostname.endpoints.add(region="eu", node="eu-2", healthy_replicas=2)
    table, problems = TableReader().read(snapshot([eu, region("us"), region("ap"), name, zone("example.net")]))
    assert problems == []
    assert table.revision == 7
    read = table.regions["eu"].edges[0]
    assert (read.ipv4, read.ipv6) == (("192.0.2.1",), ("2001:db8::1",))
    assert read.condition is Condition.SUSPECT
    assert read.evidence == (ForeignEvidence("us-1", False, False, "no answer"),)
    hello = table.hostnames["hello.example.net"]
    assert (hello.policy, hello.ttl_s, dict(hello.replicas)) == (Policy.FAILOVER, 60, {"ap": 1, "eu": 3, "us": 1})
    assert (table.zones["example.net"].ttl_s, table.zones["example.net"].negative_ttl_s) == (3600, 10)


def test_defaults() -> None:
    table, _ = TableReader().read(snapshot([hostname("a.example.net")]))
    assert table.hostnames["a.example.net"].ttl_s == 5
    assert table.hostnames["a.example.net"].policy is Policy.NEAREST


def set_(path: str, value: object) -> Callable[[resource_pb2.Resource], None]:
    def change(resource: resource_pb2.Resource) -> None:
        holder: object = resource
        *parents, last = path.split(".")
        for parent in parents:
            holder = holder[int(parent)] if parent.isdigit() else getattr(holder, parent)  # type: ignore[index]
        if isinstance(value, list):
            getattr(holder, last)[:] = value
        else:
            setattr(holder, last, value)

    return change


@pytest.mark.parametrize(
    ("resource", "change", "message"),
    [
        (region("eu"), set_("region.latitude", 91.0), "latitude: 91.0"),
        (region("eu"), set_("region.longitude", float("nan")), "longitude: nan"),
        (region("eu"), set_("region.networks", ["10.0.0.1/8"]), "networks: 10.0.0.1/8 has host bits set"),
        (region("eu"), set_("region.edges.0.addresses", ["eu.example.net"]), "edges: eu-1: addresses"),
        (region("eu"), set_("region.edges.0.addresses", ["0.0.0.0"]), "nobody can be sent"),
        (region("eu"), set_("region.edges.0.probe_port", 65_536), "no port"),
        (region("eu"), set_("region.edges.0.node", ""), "no node"),
        (region("eu"), set_("region.region", "us"), "holds the region 'us'"),
        (region("eu"), set_("hostname.app", "x"), "holds hostname instead of a region"),
        (hostname("a.example.net"), set_("hostname.hostname", "A.example.net"), "holds the hostname"),
        (hostname("A.example.net"), set_("hostname.app", "a"), "lower case"),
        (hostname("bad_name"), set_("hostname.app", "a"), "is not a host name"),
        (hostname("a.example.net"), set_("hostname.routing.policy", 99), "upgrade this program"),
        (hostname("a.example.net"), set_("hostname.routing.ttl.seconds", -1), "no time to live"),
        (zone("example.net"), set_("zone.contact", "nobody"), "not a mail address"),
        (zone("example.net"), set_("zone.name_servers.0.hostname", "NS.example.net"), "lower case"),
        (zone("example.net"), set_("zone.name_servers.0.addresses", ["x"]), "does not appear to be"),
    ],
)
def test_problems(
    resource: resource_pb2.Resource, change: Callable[[resource_pb2.Resource], None], message: str
) -> None:
    broken = resource_pb2.Resource.FromString(resource.SerializeToString())
    change(broken)
    others = [r for r in whole() if r.name != broken.name]
    table, (problem,) = TableReader().read(snapshot([*others, broken]))
    assert problem.name == broken.name
    assert message in problem.message
    assert len(table.regions) + len(table.hostnames) + len(table.zones) == len(others)


def test_a_node_is_in_one_region() -> None:
    twice = region("us")
    twice.region.edges[0].node = "eu-1"
    _, problems = TableReader().read(snapshot([region("eu"), twice]))
    assert [p.name for p in problems] == ["regions/us"]


def test_what_did_not_change_is_not_read_again() -> None:
    reader = TableReader()
    first, _ = reader.read(snapshot(whole()))
    changed = [r for r in whole() if r.name != "regions/eu"] + [region("eu", version="2")]
    second, _ = reader.read(snapshot(changed))
    assert second.regions["us"] is first.regions["us"]
    assert second.regions["eu"] is not first.regions["eu"]
