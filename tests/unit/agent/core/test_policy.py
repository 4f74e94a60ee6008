"""What a host does not allow, whatever the control plane says."""

from __future__ import annotations

import pytest

from agent.core.options import Options, Volume
from agent.core.policy import LocalPolicy, violations

IMAGE = "registry.example.net/team/web@sha256:" + "1" * 64


def said(policy: LocalPolicy, options: Options | None = None) -> str:
    return "; ".join(violations(policy, IMAGE, options or Options()))


def host(path: str) -> Options:
    return Options(volumes=(Volume("/data", "host", path),))


def test_a_host_without_a_policy_runs_plain_containers_of_any_registry() -> None:
    assert said(LocalPolicy()) == ""


def test_registries() -> None:
    assert said(LocalPolicy(registries=("registry.example.net/team/*",))) == ""
    assert "registries" in said(LocalPolicy(registries=("registry.example.net/other/*",)))
    assert "registries" in said(LocalPolicy(registries=()))


@pytest.mark.parametrize("path", ["/srv/data", "/srv/data/", "/srv/data/web"])
def test_host_paths_below_an_allowed_one(path: str) -> None:
    assert said(LocalPolicy(host_paths=("/srv/data",)), host(path)) == ""


@pytest.mark.parametrize("path", ["/", "/srv", "/srv/database", "/srv/data/../../etc", "/etc/shadow"])
def test_host_paths_elsewhere(path: str) -> None:
    assert "host_paths" in said(LocalPolicy(host_paths=("/srv/data",)), host(path))


def test_privileges_are_refused_unless_the_host_allows_them() -> None:
    assert "capabilities" in said(LocalPolicy(), Options(add_capabilities=("NET_ADMIN",)))
    assert said(LocalPolicy(capabilities=("NET_ADMIN",)), Options(add_capabilities=("NET_ADMIN",))) == ""
    assert said(LocalPolicy(), Options(add_capabilities=("CHOWN",))) == ""
    assert "privileged" in said(LocalPolicy(), Options(privileged=True))
    assert said(LocalPolicy(privileged=True), Options(privileged=True)) == ""
