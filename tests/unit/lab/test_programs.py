from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import yaml

from fleet.errors import LocciError
from lab.layout import Layout
from lab.programs import Programs, Tools, cgroup_parent
from lab.topology import plan

TOOLS = Tools("dockerd", "containerd", "registry", "redis", "unbound", "python", "server", "agent", "edge", "dns")
LAYOUT = Layout(Path("/var/lib/locci-lab/lab"))


def _programs(lab: str = "lab") -> Programs:
    return Programs(plan(lab, 3, 1), LAYOUT, TOOLS)


def test_every_file_is_in_the_labs_folder_and_parses() -> None:
    for path, text in _programs().files().items():
        assert path.is_relative_to(LAYOUT.root)
        if path.suffix == ".toml":
            assert tomllib.loads(text)
        if path.suffix == ".yml":
            assert yaml.safe_load(text)["http"]["addr"] == "10.77.0.10:5000"


def test_only_name_servers_run_dns() -> None:
    topology = plan("lab", 3, 1)
    programs = _programs()
    running = {host.name: [p.name for p in programs.node_programs(host)] for host in topology.nodes}
    assert running == {"eu-1": ["agent", "edge", "dns"], "us-1": ["agent", "edge", "dns"], "ap-1": ["agent", "edge"]}


def test_programs_run_in_their_hosts_namespace() -> None:
    topology = plan("lab", 1, 1)
    host = topology.host("eu-1")
    for program in _programs().engine_programs(host):
        assert program.argv[:3] == ("nsenter", "--net=/run/netns/locci-lab-eu-1", "--")


def test_engines_share_nothing_with_each_other_or_the_machine() -> None:
    topology = plan("lab", 2, 1)
    eu, us = ({*_programs().engine_programs(host)[1].argv} for host in topology.nodes)
    for option in ("--data-root", "--exec-root", "--pidfile", "--host", "--containerd", "--config-file"):
        assert option in eu & us
    shared = {part for part in eu & us if part.startswith("/")}
    assert not shared
    parents = {cgroup_parent(plan(lab, 2, 1), host) for lab in ("a", "b") for host in plan(lab, 2, 1).nodes}
    assert len(parents) == 4


def test_the_resolver_asks_both_name_servers() -> None:
    text = _programs().files()[LAYOUT.host("client-eu") / "unbound.conf"]
    assert "stub-addr: 10.77.1.11" in text
    assert "stub-addr: 10.77.2.11" in text
    assert 'local-zone: "lab.test." transparent' in text


def test_a_folder_too_long_for_sockets_is_refused() -> None:
    longest = Layout(Path("/" + "x" * 47)).check()
    # The longest name that an engine makes below its folder, with the longest host name.
    host = max((h.name for h in plan("lab", 8, 8).nodes), key=len)
    socket = longest.host(host) / "docker" / "exec" / "libnetwork" / ("f" * 12 + ".sock")
    assert len(str(socket)) < 108
    with pytest.raises(LocciError, match="state-dir"):
        Layout(Path("/" + "x" * 48)).check()
