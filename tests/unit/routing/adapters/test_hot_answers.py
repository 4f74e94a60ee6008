"""The compiled loop gives the same bytes as the responder, or leaves a query to it; any bytes are borne."""

from __future__ import annotations

import ctypes
import random
from dataclasses import replace

import dns.edns
import dns.message
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routing.adapters import zone_keys
from routing.adapters.hot_answers import ANSWERED, LEFT, LIMITED, HotAnswers, load
from routing.core.answer import Manners, Responder
from routing.core.cookies import CookieJar
from routing.core.dnssec import Signer
from routing.core.geo import PlaceMap, no_geo
from routing.core.model import Policy
from routing.core.zone import compile_names
from tests.unit.routing.batch import recalled
from tests.unit.routing.core.test_dnssec import KEY
from tests.unit.routing.core.test_records import DECLARED
from tests.unit.routing.tables import HOSTNAMES, ZONE, everything, regions, table

SECRET = bytes(range(16))
SLOT = 2048
NOW_S = 1_700_000_000

library = load()
pytestmark = pytest.mark.skipif(library is None, reason="no compiler was there when the project was installed")


class Pair:
    """A responder, and a compiled loop that learns from it."""

    def __init__(self, per_second: int = 0, networks: bool = True, signed: bool = False):
        assert library is not None
        places = regions(ipv6=("eu",))
        if not networks:
            places = {name: replace(region, networks=()) for name, region in places.items()}
        zones = {"example.net": replace(ZONE, records=DECLARED)}
        drawn = replace(HOSTNAMES[0], name="drawn.example.net", policy=Policy.WEIGHTED)
        near = replace(drawn, name="near.example.net", policy=Policy.WEIGHTED, filters=(Policy.NEAREST,))
        hostnames = {hostname.name: hostname for hostname in (*HOSTNAMES, drawn, near)}
        keys = {"example.net": (KEY,)} if signed else {}
        of = table(zones=zones, regions=places, hostnames=hostnames, keys=keys)
        jar = CookieJar([SECRET], NOW_S)
        self.places = PlaceMap(of.regions, lambda _: (None, 0)) if networks else PlaceMap(of.regions, no_geo)
        manners = Manners("eu-1", "v", jar, Signer(zone_keys.sign, NOW_S))
        self.responder = Responder(compile_names(of), self.places, of.regions, everything(of.regions), manners)
        self.hot = HotAnswers(library, 7)
        self.hot.take_policy(per_second, SECRET)
        self.hot.take_time(1, jar.time_s)
        self.hot.forget(self.places)

    def compiled(self, query: bytes, source: bytes) -> tuple[int, bytes]:
        """What the compiled loop makes of one query."""
        queries, answers = ctypes.create_string_buffer(query, SLOT), ctypes.create_string_buffer(SLOT)
        size, what = (ctypes.c_uint32 * 1)(len(query)), ctypes.create_string_buffer(1)
        out = (ctypes.c_uint64 * 2)()
        sources = ctypes.create_string_buffer(source, 16)
        self.hot.answer(self.hot.table, 1, queries, size, 1, sources, 16, len(source), answers, SLOT, out, 2, what)
        return what.raw[0], answers.raw[: out[0]]

    def learn(self, query: bytes, source: bytes) -> None:
        lesson = self.responder.lesson(query, source)
        if lesson is not None:
            self.hot.learn(lesson)


NAMES = [
    *("hello.example.net", "HELLO.Example.net", "example.net", "first.example.net", "www.deep.example.net"),
    *("deep.example.net", "nope.example.net", "www.example.net", "x.dev.example.net", "child.example.net"),
    *("eu-1.ns.example.net", "closed.example.net", "example.org", "mail.example.net", "alias.example.net", "."),
    *("drawn.example.net", "near.example.net"),
]
KINDS = ["A", "AAAA", "MX", "TXT", "NS", "SOA", "ANY", "AXFR", "HTTPS", "CNAME", "DS"]
COOKIE = bytes(range(8))


def query_of(name: str, kind: str, edns: int, options: list[dns.edns.Option], payload: int, number: int) -> bytes:
    query = dns.message.make_query(name, kind, flags=0x100 * (number & 1), id=number)
    if edns:
        query.use_edns(0, payload=payload, options=options, ednsflags=0x8000 * (number & 1))
    return query.to_wire()


def options_of(ecs: str | None, cookie: int, cookie_first: bool) -> list[dns.edns.Option]:
    found: list[dns.edns.Option] = [] if ecs is None else [dns.edns.ECSOption(*ecs)]
    if cookie:
        found.append(dns.edns.CookieOption(COOKIE, bytes(16) if cookie == 2 else b""))
    return found[::-1] if cookie_first else found


ECS = st.one_of(
    st.none(),
    st.tuples(st.sampled_from(["10.1.2.0", "10.2.0.0", "192.0.2.0", "203.0.113.0"]), st.just(24)),
    st.sampled_from([("10.1.0.0", 16), ("0.0.0.0", 0), ("2001:db8:1::", 48), ("10.1.2.3", 32)]),
    st.sampled_from([("2001:db8:2:ff00::", 56), ("2001:db8:3::", 48), ("2001:db8:3::", 32), ("2a00::", 48)]),
)
SOURCES = st.sampled_from(
    [bytes((10, 1, 0, 1)), bytes((203, 0, 113, 9)), bytes.fromhex("20010db8000100000000000000000001")]
)
PAIRS = [Pair(), Pair(networks=False), Pair(signed=True)] if library is not None else []


@settings(max_examples=600, deadline=None)
@given(
    st.sampled_from(NAMES), st.sampled_from(KINDS), st.integers(0, 1), ECS, st.integers(0, 2), st.booleans(),
    st.sampled_from([512, 1232, 4096]), st.integers(0, 65_535), SOURCES, st.integers(0, 2),
)  # fmt: skip
def test_the_same_bytes_or_nothing(
    name: str, kind: str, edns: int, ecs: tuple[str, int] | None, cookie: int, cookie_first: bool, payload: int,
    number: int, source: bytes, pair: int,
) -> None:  # fmt: skip
    both = PAIRS[pair]
    query = query_of(name, kind, edns, options_of(ecs, cookie, cookie_first), payload, number)
    expected = both.responder.respond(query, source)
    for _ in range(2):
        what, answer = both.compiled(query, source)
        assert what in (LEFT, ANSWERED)
        if what == ANSWERED:
            assert answer == expected
        both.learn(query, source)
    if number & 1 and edns and pair == 2:
        return  # it may be too large
    if name.lower() in ("hello.example.net", "first.example.net") and kind == "A" and len(source) == 4 and not edns:
        assert what == ANSWERED


@settings(max_examples=600, deadline=None)
@given(st.binary(max_size=80), st.integers(0, 100), st.binary(max_size=4))
def test_any_bytes_are_borne(tail: bytes, cut: int, flip: bytes) -> None:
    both, source = PAIRS[0], bytes((10, 1, 0, 1))
    network = ("10.1.2.0", 24) if cut & 1 else ("2001:db8:1::", 48)
    good = bytearray(query_of("hello.example.net", "A", 1, options_of(network, 1, False), 1232, 7))
    both.learn(bytes(good), source)
    for at, value in enumerate(flip):
        good[(cut + 5 * at) % len(good)] ^= value
    for data in (bytes(good[: cut % (len(good) + 1)]) + tail, bytes(good) + tail, tail):
        what, answer = both.compiled(data, source)
        if what == ANSWERED:
            assert answer == both.responder.respond(data, source)
        both.learn(data, source)
        both.responder.remember(data, source)
        assert recalled(both.responder, data, source) in (None, both.responder.respond(data, source))


def test_every_common_form_is_learnt() -> None:
    both, source = Pair(), bytes((10, 1, 0, 1))
    for options in (
        [],
        options_of(("10.2.7.0", 24), 0, False),
        options_of(("10.2.7.0", 24), 1, True),
        options_of(None, 2, False),
    ):
        query = query_of("hello.example.net", "A", 1, options, 1232, 9)
        assert both.compiled(query, source)[0] == LEFT
        both.learn(query, source)
        assert both.compiled(query, source)[0] == ANSWERED
        both.hot.forget(both.places)
    assert both.hot.rcodes[0] == 4


@pytest.mark.parametrize("name", ["hello.example.net", "drawn.example.net", "near.example.net"])
@pytest.mark.parametrize("network", [("10.1.2.0", 24), ("2001:db8:1::", 48), ("2001:db8:2:ff00::", 56), None])
def test_clients_of_both_kinds_are_learnt(name: str, network: tuple[str, int] | None) -> None:
    both = Pair()
    for source in (bytes((10, 1, 0, 1)), bytes.fromhex("20010db8000300000000000000000001")):
        query = query_of(name, "A", 1, options_of(network, 1, False), 1232, 9)
        both.learn(query, source)
        like = bytes((7,)) + query[1:]
        what, answer = both.compiled(like, source)
        assert (what, answer) == (ANSWERED, both.responder.respond(like, source))


def test_what_is_known_of_an_ipv6_network_ends_with_its_map() -> None:
    both, source = Pair(), bytes.fromhex("20010db8000300000000000000000001")
    query = query_of("hello.example.net", "A", 0, [], 0, 9)
    both.learn(query, source)
    assert both.compiled(query, source)[0] == ANSWERED
    elsewhere = source[:5] + b"\2" + source[6:]
    assert both.compiled(query, elsewhere)[0] == LEFT
    both.hot.forget(both.places)
    both.learn(query, bytes((10, 3, 0, 1)))
    assert both.compiled(query, source)[0] == LEFT


def test_a_name_with_an_answer_for_each_of_many_places() -> None:
    """More than its first room holds: it grows, and each is found again."""
    both, source = Pair(), bytes((10, 1, 0, 1))
    queries = [
        query_of("drawn.example.net", "A", 1, options_of((f"10.1.{n}.0", 24), 0, False), 1232, 9) for n in range(256)
    ]
    for query in queries:
        both.learn(query, source)
    for query in queries:
        what, answer = both.compiled(query, source)
        assert (what, answer) == (ANSWERED, both.responder.respond(query, source))


@pytest.mark.parametrize(
    "tail", [b"", b"\0\0\x29\4", b"\0\0\x29" + bytes(8) + b"x", b"\0\0\x29" + bytes(6) + b"\0\4ab"]
)
def test_nothing_is_learnt_from_what_is_malformed(tail: bytes) -> None:
    both, source = Pair(), bytes((10, 1, 0, 1))
    query = bytearray(query_of("hello.example.net", "A", 0, [], 0, 8))
    query[11] = 1
    data = bytes(query) + tail
    answer = both.responder.respond(data, source)
    assert answer is not None
    assert answer[3] & 15 == 1
    assert both.responder.lesson(data, source) is None
    both.responder.remember(data, source)
    assert recalled(both.responder, data, source) is None


def test_so_many_a_second_to_one_network() -> None:
    both, query = Pair(per_second=3), query_of("hello.example.net", "A", 0, [], 0, 9)
    both.learn(query, bytes((10, 1, 0, 1)))
    found = [both.compiled(query, bytes((10, 1, 0, n)))[0] for n in range(5)]
    assert found == [ANSWERED] * 3 + [LIMITED] * 2
    assert both.compiled(query, bytes((10, 1, 1, 1)))[0] == ANSWERED
    both.hot.take_time(2, NOW_S)
    assert both.compiled(query, bytes((10, 1, 0, 1)))[0] == ANSWERED


def test_what_is_learnt_is_bounded() -> None:
    assert library is not None
    both, rng = Pair(), random.Random(1)
    both.hot = HotAnswers(library, 7, held_max=64)
    both.hot.forget(both.places)
    source = bytes((10, 1, 0, 1))
    for number in range(1, 500):
        query = bytearray(query_of("hello.example.net", "A", 0, [], 0, number))
        query[-4:-2] = rng.randrange(256, 60_000).to_bytes(2, "big")
        both.learn(bytes(query), source)
        what, answer = both.compiled(bytes(query), source)
        assert what == ANSWERED
        assert answer == both.responder.respond(bytes(query), source)
    both.hot.close()


def test_signed_answers_are_learnt_beside_plain_ones() -> None:
    both, source = Pair(signed=True), bytes((10, 1, 0, 1))
    plain, signed = (query_of("mail.example.net", "A", 1, [], 1232, number) for number in (8, 9))
    for query in (plain, signed):
        assert both.compiled(query, source)[0] == LEFT
        both.learn(query, source)
    sizes = []
    for query in (plain, signed):
        what, answer = both.compiled(query, source)
        assert (what, answer) == (ANSWERED, both.responder.respond(query, source))
        sizes.append(len(answer))
    assert sizes[1] > sizes[0] + 64
