from __future__ import annotations

import pytest

from control_plane.state import State
from control_plane.views import Manifests
from locci.v1 import manifest_pb2, release_pb2
from tests.fakes.store import MemoryStore


def placed(manifest: manifest_pb2.AppManifest) -> None:
    manifest.placement.regions.append("gone")


def weighted(manifest: manifest_pb2.AppManifest) -> None:
    manifest.routing.policy = manifest_pb2.STEERING_POLICY_WEIGHTED
    manifest.routing.weights.add(region="gone", weight=1)


def by_place(manifest: manifest_pb2.AppManifest) -> None:
    manifest.routing.policy = manifest_pb2.STEERING_POLICY_GEO
    manifest.routing.geo.add(places=["DE"], regions=["gone"])


def shielded(manifest: manifest_pb2.AppManifest) -> None:
    manifest.cache.shield_region = "gone"


@pytest.mark.parametrize("names", [placed, weighted, by_place, shielded])
def test_what_was_accepted_is_read_when_its_region_is_gone(names: object) -> None:
    release = release_pb2.Release(name="apps/hello/releases/1")
    manifest = release.manifest
    manifest.name, manifest.image = "hello", "registry.test/hello:1"
    manifest.hostnames.append("hello.example.net")
    manifest.ports.add(name="http", container_port=80)
    names(manifest)  # type: ignore[operator]
    assert Manifests(State(MemoryStore())).of(release).name == "hello"
