"""From addresses to places: networks win, then the database, and the scope is as wide as the map allows."""

from __future__ import annotations

import ipaddress

from hypothesis import given, settings
from hypothesis import strategies as st

from routing.core.geo import Place, PlaceMap, no_geo
from routing.core.model import Region

PARIS = Place(48.9, 2.4, "FR", "", "test")


def packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


def region(name: str, longitude: float, *networks: str) -> Region:
    return Region(name, 0.0, longitude, networks=networks)


def placed(of: PlaceMap, address: str) -> tuple[str, int]:
    locus = of.locate(packed(address))
    return (locus.place.region or locus.place.source if locus.place else "", locus.scope_bits)


NESTED = {"a": region("a", 0, "10.0.0.0/8", "2001:db8::/32"), "b": region("b", 90, "10.1.0.0/16", "10.2.3.4/32")}


def test_the_longest_network_wins_and_bounds_the_scope() -> None:
    of = PlaceMap(NESTED, no_geo)
    assert placed(of, "10.1.2.3") == ("b", 16)
    assert placed(of, "10.2.3.4") == ("b", 32)
    assert placed(of, "10.2.3.5") == ("a", 32)
    assert placed(of, "10.200.0.1") == ("a", 9)
    assert placed(of, "10.0.0.1") == ("a", 16)
    assert placed(of, "11.0.0.1") == ("", 8)
    assert placed(of, "192.0.2.1") == ("", 1)
    assert placed(of, "2001:db8::1") == ("a", 32)


def test_the_database_comes_second() -> None:
    of = PlaceMap(NESTED, lambda address: (PARIS, 12) if address.startswith("11.") else (None, 4))
    assert placed(of, "10.1.2.3") == ("b", 16)
    assert placed(of, "11.0.0.1") == ("test", 12)
    assert placed(of, "192.0.2.1") == ("", 4)


def test_buckets_are_orders() -> None:
    of = PlaceMap(NESTED, no_geo)
    bucket, bits = of.bucket_v4(packed("10.1.2.3"))
    assert (of.spot(bucket).order, bits) == (("b", "a"), 16)
    assert of.spot(of.bucket_v4(packed("10.2.3.4"))[0]).order == ("b", "a")
    assert of.spot(of.bucket_v4(packed("10.2.3.5"))[0]).order == ("a", "b")
    assert of.spot(of.bucket_v6(packed("2001:db8::9"))[0]).order == ("a", "b")
    assert of.spot(of.bucket_v4(packed("192.0.2.1"))[0]).order is None


def test_without_any_map_everything_is_unknown() -> None:
    of = PlaceMap({"a": region("a", 0)}, no_geo)
    assert of.bucket_v4(packed("192.0.2.1")) == (0, 0)
    assert of.bucket_v6(packed("2001:db8::1")) == (0, 0)


def test_a_home_region_comes_before_another_at_the_same_place() -> None:
    twins = {"a": region("a", 5), "b": region("b", 5, "10.0.0.0/8")}
    of = PlaceMap(twins, no_geo)
    assert of.spot(of.bucket_v4(packed("10.0.0.1"))[0]).order == ("b", "a")


NETWORKS = st.builds(
    lambda number, bits: str(ipaddress.ip_network((number & (0xFFFFFFFF << (32 - bits)) & 0xFFFFFFFF, bits))),
    st.integers(0, 2**32 - 1),
    st.integers(0, 32),
)


def slow(networks: dict[str, str], address: int) -> str:
    found = [(n.prefixlen, r) for t, r in networks.items() if address in range(*_span(n := ipaddress.ip_network(t)))]
    return max(found)[1] if found else ""


def _span(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> tuple[int, int]:
    start = int(network.network_address)
    return start, start + network.num_addresses


@settings(max_examples=200, deadline=None)
@given(
    networks=st.dictionaries(NETWORKS, st.sampled_from("abc"), max_size=6),
    addresses=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4),
    offset=st.integers(0, 2**32 - 1),
)
def test_tables_agree_with_the_definition(networks: dict[str, str], addresses: list[int], offset: int) -> None:
    """Also near the edges of networks, and for everything within the scope that was given."""
    owners = {r: region(r, 30 * i, *(t for t, o in networks.items() if o == r)) for i, r in enumerate("abc")}
    of = PlaceMap(owners, no_geo)
    near = [edge for t in networks for edge in _span(ipaddress.ip_network(t))]
    for address in (a % 2**32 for a in (*addresses, *near, *(n - 1 for n in near))):
        wanted = slow(networks, address)
        for _ in range(2):
            bucket, bits = of.bucket_v4(address.to_bytes(4, "big"))
            order = of.spot(bucket).order
            assert (order[0] if order else "") == wanted
        size = 1 << (32 - bits)
        other = (address & -size) + offset % size
        assert slow(networks, other) == wanted
