"""What an agent has against a snapshot, and how it understands one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agent import decode, encode
from agent.core.edge_view import edge_view
from agent.core.model import Peer, Probe
from fleet.identity import IdentityFacts
from fleet.snapshot import Snapshot
from locci.v1 import manifest_pb2, resource_pb2

IMAGE = "registry.example.net:5000/team/web@sha256:" + "a" * 64


def spec(ordinal: int = 0, release: int = 1) -> resource_pb2.ReplicaSpec:
    body = resource_pb2.ReplicaSpec(app="web", ordinal=ordinal, release=release, spec_hash=f"h{release}", image=IMAGE)
    body.ports.add(container_port=8080)
    body.ports.add(name="admin", container_port=9090, protocol=manifest_pb2.PORT_PROTOCOL_TCP)
    return body


def snapshot(*specs: resource_pb2.ReplicaSpec, routes: tuple[resource_pb2.AppRoute, ...] = ()) -> Snapshot:
    resources = [resource_pb2.Resource(name=f"replicas/{s.app}/{s.ordinal}/{s.release}", replica=s) for s in specs]
    resources += [resource_pb2.Resource(name=f"routes/{r.app}", route=r) for r in routes]
    return Snapshot(7, {resource.name: resource for resource in resources})


def broken(change: Callable[[resource_pb2.ReplicaSpec], object]) -> str:
    """What is said against a replica after a change."""
    body = spec()
    name = "replicas/web/0/1"
    change(body)
    found = decode.problems(Snapshot(1, {name: resource_pb2.Resource(name=name, replica=body)}))
    assert {problem.name for problem in found} == {name}
    return "; ".join(problem.message for problem in found)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: setattr(s, "image", "web:latest"), "'web:latest' is not of the form"),
        (lambda s: setattr(s, "image", IMAGE[:-1]), "64 hexadecimal digits"),
        (lambda s: setattr(s, "spec_hash", ""), "spec_hash: is missing"),
        (lambda s: setattr(s, "spec_hash", "a b"), "cannot be a label"),
        (lambda s: setattr(s, "release", 0), "belongs to replicas/web/0/0"),
        (lambda s: setattr(s, "app", "Web"), "'Web' is not an id"),
        (lambda s: setattr(s.ports[0], "container_port", 0), "ports[0].container_port: 0 is not"),
        (lambda s: setattr(s.ports[1], "container_port", 65536), "ports[1].container_port: 65536"),
        (lambda s: setattr(s.ports[1], "name", "http"), "2 ports have the name 'http'"),
        (lambda s: setattr(s.readiness.http, "port", "web"), "readiness: no port has the name 'web'"),
        (lambda s: setattr(s.readiness.http, "path", "healthz"), "must begin with '/'"),
        (lambda s: setattr(s.liveness.http, "path", "/a\r\nX: b"), "liveness.http.path"),
        (lambda s: setattr(s.liveness.http, "host", "a\nb"), "is no host name"),
        (lambda s: s.readiness.interval.FromSeconds(-1), "readiness.interval: -1 s"),
        (lambda s: s.drain.FromSeconds(7200), "drain: 7200 s is not from 0 to 3600 s"),
        (lambda s: s.env.update({"A=B": "c"}), "'A=B' is no name"),
        (lambda s: s.args.append("a\0"), "zero byte"),
        (lambda s: setattr(s.resources, "memory_bytes", 1024), "less than the engine's least"),
    ],
)
def test_each_problem_of_a_replica_is_named(change: Callable[[resource_pb2.ReplicaSpec], object], said: str) -> None:
    assert said in broken(change)


def test_a_good_snapshot_has_no_problems() -> None:
    route = resource_pb2.AppRoute(app="web", hostnames=["web.example.net"])
    route.peers.add(region="us", node="us-1", address="[2001:db8::1]:7447", healthy_replicas=2)
    assert decode.problems(snapshot(spec(), spec(1), spec(0, 2), routes=(route,))) == []


def test_two_replicas_cannot_have_one_container() -> None:
    twin = spec(0, 2)
    twin.spec_hash = "h1"
    (problem,) = decode.problems(snapshot(spec(), twin))
    assert problem.name == "replicas/web/0/2"
    assert problem.message == "replicas/web/0/1 claims the same container"


def test_two_routes_cannot_have_one_host_name() -> None:
    routes = tuple(resource_pb2.AppRoute(app=app, hostnames=["Web.example.net"]) for app in ("a", "b"))
    (problem,) = decode.problems(snapshot(routes=routes))
    assert "claims the same host name" in problem.message


def test_a_resource_of_the_future_is_refused() -> None:
    resource = resource_pb2.Resource(name="secrets/x")
    (problem,) = decode.problems(Snapshot(1, {"secrets/x": resource}))
    assert "upgrade it" in problem.message


def test_a_peer_without_a_port_is_refused() -> None:
    route = resource_pb2.AppRoute(app="web")
    route.peers.add(address="10.0.0.1")
    (problem,) = decode.problems(snapshot(routes=(route,)))
    assert "address:port" in problem.message


def test_a_replica_is_understood_with_its_defaults() -> None:
    (replica,) = decode.target(snapshot(spec())).replicas.values()
    assert replica.ports == (8080, 9090)
    assert replica.readiness == Probe("tcp", 8080)
    assert replica.liveness is None
    assert (replica.stop_timeout_s, replica.drain_s, replica.speaks_http) == (10.0, 2.0, True)


def test_probes_name_their_port() -> None:
    body = spec()
    body.liveness.tcp.port = "admin"
    body.readiness.http.host = "web.example.net"
    body.readiness.timeout.FromMilliseconds(250)
    (replica,) = decode.target(snapshot(body)).replicas.values()
    assert replica.liveness == Probe("tcp", 9090, host="web")
    assert replica.readiness == Probe("http", 8080, host="web.example.net", timeout_s=0.25)


def test_without_ports_there_is_nothing_to_probe() -> None:
    body = spec()
    del body.ports[:]
    (replica,) = decode.target(snapshot(body)).replicas.values()
    assert replica.readiness is None


def test_revoked_nodes_are_handed_on_to_the_edge(tmp_path: Path) -> None:
    held = {
        f"revocations/{node}": resource_pb2.Resource(
            name=f"revocations/{node}", revoked_node=resource_pb2.RevokedNode(node=node)
        )
        for node in ("us-2", "eu-9")
    }
    found = decode.target(Snapshot(1, held))
    assert found.revoked == ("eu-9", "us-2")
    facts = IdentityFacts("eu-1", "eu", "test", (), "https://cp.test:7443")
    config = encode.edge_config(1, edge_view([], [], [], (), found.revoked), facts, tmp_path)
    assert list(config.revoked_nodes) == ["eu-9", "us-2"]
    held["revocations/eu-9"].revoked_node.node = "ap-1"
    assert [problem.name for problem in decode.problems(Snapshot(1, held))] == ["revocations/eu-9"]


def test_a_route_is_understood() -> None:
    route = resource_pb2.AppRoute(app="web", hostnames=["WEB.example.net"])
    route.peers.add(region="us", node="us-1", address="10.0.0.2:7447", healthy_replicas=2)
    route.balancing.sticky_cookie = "stay"
    route.http.response_headers.remove.append("Server")
    route.maintenance = True
    (found,) = decode.target(snapshot(routes=(route,))).routes
    assert found.hostnames == ("web.example.net",)
    assert found.balancing == route.balancing.SerializeToString()
    assert found.http == route.http.SerializeToString()
    assert found.maintenance
    assert found.peers == (Peer("us", "us-1", "10.0.0.2:7447", 2),)
