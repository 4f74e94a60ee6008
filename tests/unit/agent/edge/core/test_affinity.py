"""Requests that stay with a replica."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.edge.core.affinity import NO_WISH, Balancing, HashBy, Wish, ranked, set_cookie, token_of, wish
from agent.edge.core.balance import Endpoint
from agent.edge.core.routing import Local, Peer, Route, candidates

FIELDS = {b"cookie": b"a=1; session=xyz; stay=0123456789abcdef", b"x-user": b"alice"}


def first_of(addresses: list[str], key: bytes) -> str:
    return ranked([Endpoint(address) for address in addresses], key)[0].address


def test_what_decides_is_taken_from_the_request() -> None:
    def key(by: HashBy, name: bytes = b"") -> bytes:
        return wish(Balancing(by, name), FIELDS, b"/a?b", b"192.0.2.7").key

    assert key(HashBy.CLIENT) == b"192.0.2.7"
    assert key(HashBy.PATH) == b"/a?b"
    assert key(HashBy.HEADER, b"x-user") == b"alice"
    assert key(HashBy.COOKIE, b"session") == b"xyz"
    assert key(HashBy.COOKIE, b"none") == key(HashBy.HEADER, b"none") == key(HashBy.NOTHING) == b""
    assert wish(Balancing(sticky_cookie=b"stay"), FIELDS, b"/", b"").token == b"0123456789abcdef"


@given(st.binary(min_size=1), st.lists(st.text("abc", min_size=1), min_size=2, max_size=8, unique=True))
def test_an_endpoint_that_goes_moves_only_its_own_keys(key: bytes, addresses: list[str]) -> None:
    before = first_of(addresses, key)
    for gone in addresses:
        rest = [address for address in addresses if address != gone]
        assert (first_of(rest, key) == before) == (gone != before)


def test_keys_are_spread_evenly() -> None:
    addresses = [f"10.0.0.{number}:8080" for number in range(5)]
    counts = dict.fromkeys(addresses, 0)
    for number in range(5000):
        counts[first_of(addresses, b"key-%d" % number)] += 1
    assert min(counts.values()) > 850
    assert max(counts.values()) < 1150


def test_one_with_too_much_to_do_is_passed_over() -> None:
    endpoints = [Endpoint(str(number)) for number in range(4)]
    favourite = ranked(endpoints, b"key")[0]
    favourite.outstanding = 3
    assert ranked(endpoints, b"key")[0] is not favourite
    assert ranked(endpoints, b"key")[-1] is favourite
    for endpoint in endpoints:
        endpoint.outstanding = 3
    assert ranked(endpoints, b"key")[0] is favourite, "the others have as much"


def test_a_token_leads_back_also_to_a_replica_that_drains_and_is_nothing_without_it() -> None:
    local = tuple(Local(f"replicas/web/{n}/1", f"10.0.0.{n}:80", n == 2) for n in range(3))
    route = Route("web", ("web.test",), True, 1, local, (Peer("us", "us-1", "10.1.0.1:1"),))
    endpoints = {address: Endpoint(address) for address in [*(at.address for at in local), "10.1.0.1:1"]}

    def tries(wanted: Wish) -> list[str]:
        return [c.endpoint.address for c in candidates(route, endpoints, 0.0, 0.5, local_only=False, wish=wanted)]

    for at in local:
        assert tries(Wish(token=token_of(at.replica)))[0] == at.address
    assert "10.0.0.2:80" not in tries(NO_WISH), "it drains"
    assert tries(Wish(token=b"of-one-that-is-gone")) == tries(NO_WISH)
    endpoints["10.0.0.1:80"].failed(0.0)
    assert tries(Wish(token=token_of("replicas/web/1/1")))[0] == "10.0.0.0:80", "it fails: another takes over"


def test_a_cookie_says_nothing_of_the_replica() -> None:
    value = set_cookie(b"stay", "replicas/web/0/1", True)
    assert value == b"stay=" + token_of("replicas/web/0/1") + b"; Path=/; HttpOnly; SameSite=Lax; Secure"
    assert b"web" not in value
