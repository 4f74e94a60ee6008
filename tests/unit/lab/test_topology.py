from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.errors import Code, LocciError
from lab.topology import NODES_PER_REGION_MAX, REGIONS_MAX, HostKind, check_lab_name, plan


def test_the_default_lab() -> None:
    topology = plan("lab", 3, 1)
    assert [host.name for host in topology.hosts] == [
        "cp",
        "eu-1",
        "us-1",
        "ap-1",
        "client-eu",
        "client-us",
        "client-ap",
    ]
    assert [host.name for host in topology.name_servers] == ["eu-1", "us-1"]
    assert topology.control.ipv4 == "10.77.0.10"
    assert topology.host("us-1").addresses == ("10.77.2.11", "fd00:10:77:2::11")
    assert topology.namespace(topology.host("us-1")) == "locci-lab-us-1"


@given(regions=st.integers(1, REGIONS_MAX), nodes=st.integers(1, NODES_PER_REGION_MAX))
def test_every_host_has_its_own_name_address_and_link(regions: int, nodes: int) -> None:
    topology = plan("x", regions, nodes)
    hosts = topology.hosts
    assert len(hosts) == 1 + regions * (nodes + 1)
    for attribute in ("name", "ipv4", "ipv6", "link", "number"):
        assert len({getattr(host, attribute) for host in hosts}) == len(hosts)
    assert len(topology.nodes) == regions * nodes
    assert 1 <= len(topology.name_servers) <= 2


@given(regions=st.integers(1, REGIONS_MAX), nodes=st.integers(1, NODES_PER_REGION_MAX))
def test_hosts_are_in_the_networks_of_their_region_only(regions: int, nodes: int) -> None:
    topology = plan("x", regions, nodes)
    for region in topology.regions:
        networks = [ipaddress.ip_network(network) for network in region.networks]
        for host in topology.hosts:
            for address in host.addresses:
                parsed = ipaddress.ip_address(address)
                inside = any(parsed in network for network in networks if network.version == parsed.version)
                assert inside == (host.region == region.id)


def test_a_region_stands_for_its_nodes_and_a_host_for_itself() -> None:
    topology = plan("lab", 2, 2)
    assert [host.name for host in topology.expand("eu")] == ["eu-1", "eu-2"]
    assert [host.name for host in topology.expand("client-eu")] == ["client-eu"]
    assert topology.expand("client-eu")[0].kind is HostKind.CLIENT


@pytest.mark.parametrize("target", ["mars", "", "eu-9"])
def test_an_unknown_target_is_named_with_what_there_is(target: str) -> None:
    with pytest.raises(LocciError, match="eu-1") as caught:
        plan("lab", 1, 1).expand(target)
    assert caught.value.code is Code.NOT_FOUND


@pytest.mark.parametrize("name", ["", "a-b", "Lab", "1st", "a" * 17, "lab/x", "lab.x"])
def test_a_bad_lab_name_is_refused(name: str) -> None:
    with pytest.raises(LocciError) as caught:
        check_lab_name(name)
    assert caught.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(("regions", "nodes"), [(0, 1), (REGIONS_MAX + 1, 1), (1, 0), (1, NODES_PER_REGION_MAX + 1)])
def test_a_lab_of_impossible_size_is_refused(regions: int, nodes: int) -> None:
    with pytest.raises(LocciError):
        plan("lab", regions, nodes)
