"""Snapshots as the control plane sends them, for three regions on loopback addresses."""

from __future__ import annotations

from collections.abc import Iterable

from fleet.snapshot import Snapshot
from locci.v1 import node_pb2, resource_pb2

PLACES = {"ap": (35.7, 139.7, 3), "eu": (50.1, 8.7, 1), "us": (40.7, -74.0, 2)}


def region(name: str, *, port: int = 80, address: str = "", version: str = "1") -> resource_pb2.Resource:
    """A region with one edge, at 127.0.1.NUMBER unless told otherwise; its clients are in 10.NUMBER.0.0/16."""
    latitude, longitude, number = PLACES[name]
    resource = resource_pb2.Resource(name=f"regions/{name}", version=version)
    body = resource.region
    body.region, body.latitude, body.longitude = name, latitude, longitude
    body.networks.append(f"10.{number}.0.0/16")
    body.jurisdictions.append(name)
    body.edges.add(
        node=f"{name}-1",
        addresses=[address or f"127.0.1.{number}"],
        condition=node_pb2.NODE_CONDITION_READY,
        probe_port=port,
    )
    return resource


def hostname(name: str, version: str = "1") -> resource_pb2.Resource:
    """A hostname with a healthy replica in each region."""
    resource = resource_pb2.Resource(name=f"hostnames/{name}", version=version)
    resource.hostname.hostname = name
    resource.hostname.app = name.partition(".")[0]
    for place in PLACES:
        resource.hostname.endpoints.add(region=place, node=f"{place}-1", healthy_replicas=1)
    return resource


def zone(origin: str, version: str = "1", serial: int = 7) -> resource_pb2.Resource:
    """A zone with two name servers."""
    resource = resource_pb2.Resource(name=f"zones/{origin}", version=version)
    resource.zone.origin, resource.zone.serial = origin, serial
    for number, place in enumerate(("eu", "us"), 1):
        resource.zone.name_servers.add(hostname=f"{place}-1.ns.{origin}", addresses=[f"127.0.0.{number}"])
    return resource


def snapshot(resources: Iterable[resource_pb2.Resource], revision: int = 7) -> Snapshot:
    """A snapshot of them."""
    return Snapshot(revision, {resource.name: resource for resource in resources})


def whole(port: int = 80) -> list[resource_pb2.Resource]:
    """Everything that a small fleet has."""
    return [*(region(name, port=port) for name in PLACES), hostname("hello.example.net"), zone("example.net")]
