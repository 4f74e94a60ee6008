"""What a manifest may not say, with the path of the field at fault; and its defaults."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from control_plane.core.cache_policy import CachePolicy
from control_plane.core.manifest import (
    Constraint,
    Limits,
    Manifest,
    Placement,
    Port,
    Probe,
    RolloutPolicy,
    Surroundings,
    Wave,
    complete,
)
from control_plane.core.releases import is_unchanged, spec_hash
from control_plane.core.steering import Routing
from fleet.errors import Code, LocciError

AROUND = Surroundings(frozenset({"eu", "us"}), {"taken.example.net": "other"})
GOOD = Manifest("hello", "registry.test:5000/hello:1", ports=(Port("", 8080),), hostnames=("Hello.Example.net.",))


def test_defaults_are_filled_in() -> None:
    done = complete(GOOD, AROUND)
    assert done.ports == (Port("http", 8080),)
    assert done.hostnames == ("hello.example.net",)
    assert done.readiness == Probe("tcp", "http", interval_s=2.0, timeout_s=1.0, healthy_after=1, unhealthy_after=3)
    assert (done.placement.per_region, done.placement.lost_after_s) == (1, 30.0)
    assert (done.rollout.health_deadline_s, done.rollout.progress_deadline_s) == (60.0, 600.0)
    assert (done.routing.ttl_s, done.stop_timeout_s, done.limits.pids) == (5.0, 10.0, 1024)
    assert complete(done, AROUND) == done


def test_without_ports_nothing_is_probed() -> None:
    assert complete(Manifest("job", "job"), AROUND).readiness is None


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"name": "Hello"}, "manifest.name"),
        ({"name": ""}, "manifest.name"),
        ({"image": "UPPER/case"}, "manifest.image"),
        ({"image": ""}, "manifest.image"),
        ({"env": {"1A": "x"}}, "manifest.env[1A]"),
        ({"env": {"A": "\0"}}, "manifest.env[A]"),
        ({"ports": (Port("http", 0),)}, "manifest.ports[0].container_port"),
        ({"ports": (Port("http", 65536),)}, "manifest.ports[0].container_port"),
        ({"ports": (Port("a", 1), Port("a", 2))}, "manifest.ports[1].name"),
        ({"ports": (Port("a", 1), Port("b", 1))}, "manifest.ports[1].container_port"),
        ({"ports": (Port("Nope!", 1),)}, "manifest.ports[0].name"),
        ({"ports": (), "hostnames": ("a.example.net",)}, "manifest.hostnames"),
        ({"ports": (Port("db", 1, "tcp"),)}, "manifest.hostnames"),
        ({"routing": Routing("weighted", weights=(("mars", 1),))}, "manifest.routing.weights[0]"),
        ({"routing": Routing("weighted", weights=(("eu", 1001),))}, "manifest.routing.weights"),
        ({"routing": Routing("nearest", weights=(("eu", 1),))}, "manifest.routing.weights"),
        ({"routing": Routing("latency", filters=("all",))}, "manifest.routing.filters[0]"),
        ({"routing": Routing("latency", filters=("nearest", "latency"))}, "manifest.routing.filters[1]"),
        ({"routing": Routing("all", filters=("geo",))}, "manifest.routing.geo"),
        ({"routing": Routing("nearest", latency_within_s=0.02)}, "manifest.routing.latency_within"),
        ({"routing": Routing("latency", latency_within_s=60.0)}, "manifest.routing.latency_within"),
        ({"routing": Routing("latency", nearest_within_km=500)}, "manifest.routing.nearest_within_km"),
        ({"routing": Routing("geo")}, "manifest.routing.geo"),
        ({"routing": Routing("all", geo=((("DE",), ("eu",)),))}, "manifest.routing.geo"),
        ({"routing": Routing("geo", geo=((("de",), ("eu",)),))}, "manifest.routing.geo[0].places"),
        ({"routing": Routing("geo", geo=((("DE",), ()),))}, "manifest.routing.geo[0]"),
        ({"routing": Routing("geo", geo=((("DE",), ("mars",)),))}, "manifest.routing.geo[0].regions[0]"),
        ({"readiness": Probe("http", port="nope")}, "manifest.readiness.http.port"),
        ({"readiness": Probe("http", path="no slash")}, "manifest.readiness.http.path"),
        ({"readiness": Probe(interval_s=-1.0)}, "manifest.readiness.interval"),
        ({"readiness": Probe(timeout_s=1e9)}, "manifest.readiness.timeout"),
        ({"liveness": Probe(), "ports": (), "hostnames": ()}, "manifest.liveness"),
        ({"hostnames": ("a.example.net", "A.example.net")}, "manifest.hostnames[1]"),
        ({"hostnames": ("taken.example.net",)}, "manifest.hostnames[0]"),
        ({"hostnames": ("not a name",)}, "manifest.hostnames[0]"),
        ({"placement": Placement(regions=("mars",))}, "manifest.placement.regions[0]"),
        ({"placement": Placement(regions=("eu", "eu"))}, "manifest.placement.regions[1]"),
        ({"placement": Placement(per_region=1, total=1)}, "manifest.placement.replicas"),
        ({"placement": Placement(total=10**6)}, "manifest.placement.replicas"),
        ({"placement": Placement(total=2, singleton=True)}, "manifest.placement.singleton"),
        ({"placement": Placement(constraints=(Constraint(""),))}, "manifest.placement.constraints[0].label"),
        ({"placement": Placement(lost_after_s=0.5)}, "manifest.placement.lost_after"),
        ({"placement": Placement(total=1), "kind": "daemon"}, "manifest.placement.replicas"),
        ({"rollout": RolloutPolicy("blue-green", max_surge=1)}, "manifest.rollout.strategy"),
        ({"rollout": RolloutPolicy(hold_s=5.0)}, "manifest.rollout.hold"),
        ({"rollout": RolloutPolicy(canary_percent=5)}, "manifest.rollout.canary_replicas"),
        ({"rollout": RolloutPolicy("canary", canary_percent=101)}, "manifest.rollout.canary_percent"),
        ({"rollout": RolloutPolicy("canary", canary_percent=5, canary_replicas=1)}, "manifest.rollout.canary_percent"),
        ({"rollout": RolloutPolicy("canary", canary_regions=("none",))}, "manifest.rollout.canary_regions[0]"),
        ({"rollout": RolloutPolicy(manual_promotion=True)}, "manifest.rollout.manual_promotion"),
        ({"rollout": RolloutPolicy(waves=(Wave(()),))}, "manifest.rollout.waves[0].regions"),
        ({"rollout": RolloutPolicy(waves=(Wave(("eu",)), Wave(("eu",))))}, "manifest.rollout.waves[1].regions"),
        ({"rollout": RolloutPolicy(healthy_for_s=5, health_deadline_s=5)}, "manifest.rollout.health_deadline"),
        ({"rollout": RolloutPolicy(drain_s=-2)}, "manifest.rollout.drain"),
        ({"routing": Routing(ttl_s=0.2)}, "manifest.routing.ttl"),
        ({"routing": Routing("failover")}, "manifest.routing.order"),
        ({"limits": Limits(memory_bytes=1024)}, "manifest.resources.memory_bytes"),
        ({"cache_policy": CachePolicy(shield_region="mars")}, "manifest.cache.shield_region"),
        ({"cache_policy": CachePolicy(shield_region="eu"), "cache_disabled": True}, "manifest.cache.shield_region"),
        ({"stop_timeout_s": 1e6}, "manifest.stop_timeout"),
    ],
)
def test_what_is_impossible_is_named(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(LocciError) as error:
        complete(replace(GOOD, **fields), AROUND)
    assert error.value.code is Code.INVALID_ARGUMENT
    assert error.value.field == path
    assert path in error.value.message


def test_only_what_shapes_a_container_is_in_its_hash() -> None:
    one = complete(GOOD, AROUND)
    same = [
        {"hostnames": ("x.example.net",)},
        {"cache_disabled": True},
        {"routing": Routing(ttl_s=60.0)},
        {"rollout": RolloutPolicy(drain_s=9.0)},
        {"placement": Placement(per_region=3)},
        {"env": {}},
    ]
    other = [
        {"env": {"A": "1"}},
        {"args": ("x",)},
        {"ports": (Port("", 81),)},
        {"limits": Limits(memory_bytes=1 << 30)},
    ]
    for fields in same:
        changed = complete(replace(GOOD, **fields), AROUND)  # type: ignore[arg-type]
        assert spec_hash(changed, "x@1") == spec_hash(one, "x@1")
    hashes = {spec_hash(complete(replace(GOOD, **fields), AROUND), "x@1") for fields in other}  # type: ignore[arg-type]
    assert len(hashes | {spec_hash(one, "x@1"), spec_hash(one, "x@2")}) == len(other) + 2


def test_what_means_the_same_is_unchanged() -> None:
    one = complete(GOOD, AROUND)
    explicit = complete(replace(GOOD, readiness=Probe(), stop_timeout_s=10.0), AROUND)
    assert is_unchanged(explicit, "x@1", one, "x@1")
    assert not is_unchanged(one, "x@2", one, "x@1")
