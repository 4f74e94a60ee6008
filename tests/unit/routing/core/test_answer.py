"""Every kind of question has its answer; any bytes have theirs, or silence when they are no query."""

from __future__ import annotations

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routing.core.answer import Manners, Responder
from routing.core.geo import Place
from routing.core.model import EdgeEndpoint, Family, Hostname, Region
from tests.unit.routing.batch import recalled
from tests.unit.routing.tables import EVERYWHERE, everything, regions, responder, table

ECS = dns.edns.OptionType.ECS
SOURCE = bytes((10, 1, 0, 1))
RESPONDER = responder()


def ask(
    name: str,
    kind: str = "A",
    *,
    on: Responder = RESPONDER,
    source: bytes = SOURCE,
    tcp: bool = False,
    options: list[dns.edns.Option] | None = None,
    edns: int | None = None,
    payload: int = 1232,
    rdclass: str = "IN",
) -> dns.message.Message:
    """The answer, as dnspython reads it; the careful way must give the same bytes."""
    query = dns.message.make_query(name, kind, rdclass, flags=0)
    if options is not None or edns is not None:
        query.use_edns(edns or 0, payload=payload, options=options)
    data = query.to_wire()
    answer = on.respond(data, source, tcp)
    assert answer is not None
    assert answer == on.respond_with_care(data, source, tcp)
    if not tcp:
        on.remember(data, source)
        assert recalled(on, data, source) in (None, answer)
    assert tcp or len(answer) <= 1232
    message = dns.message.from_wire(answer)
    assert message.id == query.id
    assert message.flags & dns.flags.QR
    assert message.question == query.question
    assert (message.edns >= 0) == (query.edns >= 0)
    return message


def texts(message: dns.message.Message) -> set[str]:
    return {record.to_text() for rrset in message.answer for record in rrset}


def ecs(address: str, bits: int = 24) -> list[dns.edns.Option]:
    return [dns.edns.ECSOption(address, bits)]


@pytest.mark.parametrize(
    ("name", "kind", "rcode", "answers"),
    [
        ("hello.example.net", "A", "NOERROR", {"192.0.2.11"}),
        ("HELLO.example.NET", "A", "NOERROR", {"192.0.2.11"}),
        ("hello.example.net", "AAAA", "NOERROR", {"2001:db8:ff::b"}),
        ("hello.example.net", "TXT", "NOERROR", set()),
        ("hello.example.net", "HTTPS", "NOERROR", set()),
        ("hello.example.net", "ANY", "NOERROR", {'"RFC8482" ""'}),
        ("www.deep.example.net", "A", "NOERROR", {"192.0.2.11", "192.0.2.21", "192.0.2.31"}),
        ("deep.example.net", "A", "NOERROR", set()),
        ("deep.example.net", "ANY", "NOERROR", set()),
        ("ns.example.net", "A", "NOERROR", set()),
        ("first.example.net", "A", "NOERROR", {"192.0.2.21"}),
        ("law.example.net", "A", "NOERROR", {"192.0.2.11"}),
        ("example.net", "A", "NOERROR", {"192.0.2.11"}),
        ("example.net", "NS", "NOERROR", {"eu-1.ns.example.net.", "us-1.ns.example.net."}),
        ("eu-1.ns.example.net", "A", "NOERROR", {"192.0.2.11"}),
        ("eu-1.ns.example.net", "AAAA", "NOERROR", {"2001:db8:ff::b"}),
        ("us-1.ns.example.net", "AAAA", "NOERROR", set()),
        ("nope.example.net", "A", "NXDOMAIN", set()),
        ("a.hello.example.net", "A", "NXDOMAIN", set()),
        ("example.org", "A", "REFUSED", set()),
        ("elsewhere.example.org", "A", "REFUSED", set()),
        ("net", "A", "REFUSED", set()),
        (".", "NS", "REFUSED", set()),
        ("hello.example.net", "AXFR", "REFUSED", set()),
        ("example.net", "IXFR", "REFUSED", set()),
        ("hello.example.net", "MAILA", "NOTIMP", set()),
        ("hello.example.net", "OPT", "FORMERR", set()),
    ],
)
@pytest.mark.parametrize("edns", [None, 0])
def test_answers(name: str, kind: str, rcode: str, answers: set[str], edns: int | None) -> None:
    message = ask(name, kind, edns=edns)
    assert dns.rcode.to_text(message.rcode()) == rcode
    assert texts(message) == answers
    assert bool(message.flags & dns.flags.AA) == (rcode in ("NOERROR", "NXDOMAIN"))


@pytest.mark.parametrize(
    "name", ["nope.example.net", "deep.example.net", "a.b.c.example.net", "x.www.deep.example.net"]
)
def test_negative_answers_carry_the_soa_with_the_negative_ttl(name: str) -> None:
    message = ask(name, "A")
    (soa,) = message.authority
    assert (soa.name.to_text(), soa.rdtype, soa.ttl) == ("example.net.", dns.rdatatype.SOA, 10)
    assert soa[0].minimum == 10


def test_soa() -> None:
    (soa,) = ask("example.net", "SOA").answer
    assert soa.ttl == 3600
    assert soa[0].to_text() == r"eu-1.ns.example.net. dns\.team.example.net. 4711 3600 600 604800 10"


def test_ns_brings_the_servers_addresses() -> None:
    extra = ask("example.net", "NS").additional
    assert {(r.name.to_text(), r[0].to_text()) for r in extra} == {
        ("eu-1.ns.example.net.", "192.0.2.11"),
        ("eu-1.ns.example.net.", "2001:db8:ff::b"),
        ("us-1.ns.example.net.", "192.0.2.21"),
    }


def test_other_classes_are_refused() -> None:
    assert ask("version.bind", "TXT", rdclass="CH").rcode() == dns.rcode.REFUSED
    assert ask("hello.example.net", "A", rdclass="CH").rcode() == dns.rcode.REFUSED


def test_later_edns_versions_are_badvers_with_opt() -> None:
    message = ask("hello.example.net", edns=1)
    assert message.rcode() == dns.rcode.BADVERS
    assert (message.edns, message.payload) == (0, 1232)


def test_dnssec_ok_is_copied() -> None:
    query = dns.message.make_query("hello.example.net", "A", want_dnssec=True)
    answer = RESPONDER.respond(query.to_wire(), SOURCE)
    assert answer is not None
    assert dns.message.from_wire(answer).ednsflags & dns.flags.DO


@pytest.mark.parametrize(
    ("client", "address"),
    [("10.1.2.0", "192.0.2.11"), ("10.2.2.0", "192.0.2.21"), ("10.3.2.0", "192.0.2.31")],
)
def test_the_client_subnet_decides(client: str, address: str) -> None:
    message = ask("hello.example.net", options=ecs(client), source=bytes((10, 1, 1, 1)))
    assert texts(message) == {address}
    (option,) = message.options
    assert isinstance(option, dns.edns.ECSOption)
    assert (option.address, option.srclen, option.scopelen) == (client, 24, 16)


def test_ipv6_clients() -> None:
    assert texts(ask("hello.example.net", options=ecs("2001:db8:3::", 48))) == {"192.0.2.31"}
    packed = bytes.fromhex("20010db8000200000000000000000001")
    assert texts(ask("hello.example.net", source=packed)) == {"192.0.2.21"}


@pytest.mark.parametrize("option", [b"\0\1\0\0", b"\0\2\0\0", b"\0\0\0\0"])
def test_a_client_that_asks_for_privacy_is_placed_by_its_resolver(option: bytes) -> None:
    """Also with family 0, as `dig +subnet=0` sends it; dnspython cannot read that one."""
    query = dns.message.make_query("hello.example.net", "A")
    query.use_edns(0, options=[dns.edns.GenericOption(ECS, option)])
    answer = RESPONDER.respond(query.to_wire(), bytes((10, 3, 0, 1)))
    assert answer is not None
    assert answer == RESPONDER.respond_with_care(query.to_wire(), bytes((10, 3, 0, 1)))
    assert bytes((192, 0, 2, 31)) in answer
    assert answer.endswith(b"\0\x08\0\4" + option)


@pytest.mark.parametrize("name", ["first.example.net", "www.deep.example.net", "nope.example.net", "example.org"])
def test_what_depends_on_no_place_has_scope_0(name: str) -> None:
    option = ask(name, options=ecs("10.1.2.0")).options[0]
    assert isinstance(option, dns.edns.ECSOption)
    assert option.scopelen == 0


@pytest.mark.parametrize(
    "option",
    [
        b"",
        b"\0\1\x18",
        b"\0\1\x18\0\x0a\1",
        b"\0\1\x18\0\x0a\1\2\3",
        b"\0\1\x18\x18\x0a\1\2",
        b"\0\1\x17\0\x0a\1\1",
        b"\0\1\x21\0\x0a\1\2\3\4",
        b"\0\2\x81\0" + bytes(17),
        b"\0\3\x18\0\x0a\1\2",
        b"\0\0\x08\0\x0a",
    ],
)
def test_malformed_client_subnets_are_format_errors_with_opt(option: bytes) -> None:
    assert ask("hello.example.net", options=[dns.edns.GenericOption(ECS, option)]).rcode() == dns.rcode.FORMERR


def test_other_options_are_ignored() -> None:
    cookie = dns.edns.GenericOption(dns.edns.OptionType.COOKIE, bytes(8))
    message = ask("hello.example.net", options=[cookie, *ecs("10.2.0.0")])
    assert texts(message) == {"192.0.2.21"}
    assert len(message.options) == 1


def many(count: int) -> Responder:
    edges = tuple(EdgeEndpoint(f"n{i}", (f"192.0.2.{i}",), (f"2001:db8::{i:x}",)) for i in range(1, count + 1))
    of = table(regions={"eu": Region("eu", 50, 8, edges=edges)})
    return responder(of)


def test_truncation_and_tcp() -> None:
    crowd = many(24)
    assert len(ask("hello.example.net", on=crowd).answer[0]) == 24
    short = ask("hello.example.net", "AAAA", on=crowd)
    assert short.flags & dns.flags.TC
    assert not short.answer
    assert len(ask("hello.example.net", "AAAA", on=crowd, edns=0).answer[0]) == 24
    assert ask("hello.example.net", "AAAA", on=crowd, edns=0, payload=100).flags & dns.flags.TC
    assert len(ask("hello.example.net", "AAAA", on=crowd, tcp=True).answer[0]) == 24


def test_answers_are_bounded_and_take_turns() -> None:
    crowd = many(60)
    firsts = set()
    for number in range(256):
        query = dns.message.make_query("hello.example.net", "A", id=number)
        answer = crowd.respond(query.to_wire(), SOURCE)
        assert answer is not None
        message = dns.message.from_wire(answer)
        assert len(message.answer[0]) == 24
        firsts.add(message.answer[0][0].to_text())
    assert len(firsts) == 60


def test_health_decides_and_never_empties() -> None:
    of = table()
    everyone = everything(of.regions)
    without_eu = responder(of, everyone - {("eu-1", Family.IPV4)})
    assert texts(ask("hello.example.net", on=without_eu)) == {"192.0.2.21"}
    # The name server's own address does not depend on the health of an edge on the same host.
    assert texts(ask("eu-1.ns.example.net", on=without_eu)) == {"192.0.2.11"}
    nobody = responder(of, frozenset())
    assert len(texts(ask("hello.example.net", on=nobody))) == 3
    closed = ask("closed.example.net", on=nobody, edns=0)
    assert closed.rcode() == dns.rcode.SERVFAIL
    assert [option.code for option in closed.options if isinstance(option, dns.edns.EDEOption)] == [22]
    assert texts(ask("closed.example.net", on=responder(of))) == {"192.0.2.11"}


def test_scope_does_not_follow_health() -> None:
    of = table()
    for rotation in (everything(of.regions), frozenset({("us-1", Family.IPV4)}), frozenset()):
        (option,) = ask("hello.example.net", options=ecs("10.1.2.0"), on=responder(of, rotation)).options
        assert isinstance(option, dns.edns.ECSOption)
        assert option.scopelen == 16


def test_existence_does_not_depend_on_the_place() -> None:
    """Only eu has IPv6 addresses; clients elsewhere get them as well, instead of NODATA."""
    for client in ("10.1.0.0", "10.2.0.0", "10.3.0.0", "203.0.113.0"):
        assert texts(ask("hello.example.net", "AAAA", options=ecs(client))) == {"2001:db8:ff::b"}


def test_a_geo_database_places_the_others() -> None:
    def lookup(address: str) -> tuple[Place | None, int]:
        return (Place(-33.9, 151.2), 20) if address.startswith("203.") else (None, 8)

    geo = responder(lookup=lookup)
    message = ask("hello.example.net", options=ecs("203.0.113.0"), on=geo)
    assert texts(message) == {"192.0.2.31"}
    (option,) = message.options
    assert isinstance(option, dns.edns.ECSOption)
    assert option.scopelen == 20
    assert len(texts(ask("hello.example.net", options=ecs("198.51.100.0"), on=geo))) == 3


def test_hostnames_of_zones_below_zones() -> None:
    of = table()
    zones = dict(of.zones) | {"a.b.example.net": next(iter(of.zones.values()))}
    names = dict(of.hostnames) | {"x.a.b.example.net": Hostname("x.a.b.example.net", replicas=EVERYWHERE)}
    nested = responder(table(zones=zones, hostnames=names))
    assert texts(ask("x.a.b.example.net", on=nested)) == {"192.0.2.11"}
    assert ask("b.example.net", on=nested).rcode() == dns.rcode.NOERROR
    assert ask("y.a.b.example.net", on=nested).authority[0].name.to_text() == "a.b.example.net."


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", None),
        (b"\x12\x34\x01\0\0\1\0\0\0\0\0", None),
        (b"\x12\x34\x80\0\0\1\0\0\0\0\0\0", None),
        (b"\x12\x34\x01\0\0\0\0\0\0\0\0\0", 1),
        (b"\x12\x34\x01\0\0\2\0\0\0\0\0\0", 1),
        (b"\x12\x34\x01\0\0\1\0\0\0\0\0\0", 1),
        (b"\x12\x34\x01\0\0\1\0\0\0\0\0\0\xc0\x0c\0\1\0\1", 1),
        (b"\x12\x34\x01\0\0\1\0\0\0\0\0\0\x40aa\0\0\1\0\1", 1),
        (b"\x12\x34\x01\0\0\1\0\0\0\0\0\0\0\0\1\0\1junk", 1),
        (b"\x12\x34\x01\0\0\1\0\0\0\0\0\1\0\0\1\0\1", 1),
        (b"\x12\x34\x01\0\0\1\0\0\0\0\0\0" + b"\x3f" + b"a" * 63 + b"\x3f" * 256 + b"\0\0\1\0\1", 1),
        (b"\x12\x34\x10\0\0\1\0\0\0\0\0\0\0\0\1\0\1", 4),
        (b"\x12\x34\x28\0\0\0\0\0\0\0\0\0", 4),
    ],
)
def test_malformed_messages(data: bytes, expected: int | None) -> None:
    answer = RESPONDER.respond(data, SOURCE)
    assert (None if answer is None else answer[3] & 15) == expected
    if answer is not None:
        assert answer[:2] == data[:2]
        assert answer[2] & 0x80
        assert answer[2] >> 3 & 15 == data[2] >> 3 & 15


def test_labels_of_zero_bytes_do_not_confuse() -> None:
    hello = b"\x05hello\x07example\x03net\0"
    for name in (b"\x07a\0hello" + hello[6:], b"\x06hello\0" + hello[6:], b"\x01\0" + hello):
        data = b"\0\1\0\0\0\1\0\0\0\0\0\0" + name + b"\0\1\0\1"
        answer = RESPONDER.respond(data, SOURCE)
        assert answer is not None
        assert answer[3] & 15 == 3


def expected_silence(data: bytes) -> bool:
    return len(data) < 12 or bool(data[2] & 0x80)


NAMES = st.sampled_from(["hello.example.net", "Example.NET", "nope.example.net", "deep.example.net", "example.org"])
HEADS = st.tuples(st.integers(0, 65535), st.integers(0, 65535), *[st.integers(0, 2)] * 4).map(
    lambda t: b"".join(n.to_bytes(2, "big") for n in t)
)


@st.composite
def nearly_queries(draw: st.DrawFn) -> bytes:
    """Queries, of which some bytes are changed, cut or added."""
    query = dns.message.make_query(draw(NAMES), draw(st.sampled_from(["A", "AAAA", "NS", "TXT", "ANY"])), id=7)
    if draw(st.booleans()):
        code = dns.edns.OptionType(draw(st.sampled_from([8, 8, 10, 3])))
        options: list[dns.edns.Option] = [dns.edns.GenericOption(code, draw(st.binary(max_size=12)))]
        query.use_edns(draw(st.sampled_from([0, 0, 0, 1])), payload=draw(st.integers(0, 4096)), options=options)
    data = bytearray(query.to_wire())
    for _ in range(draw(st.integers(0, 3))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    cut = draw(st.integers(0, len(data)))
    return bytes(data[: cut or len(data)]) + draw(st.binary(max_size=4))


@settings(max_examples=1500, deadline=None)
@given(
    data=st.one_of(st.binary(max_size=600), st.builds(bytes.__add__, HEADS, st.binary(max_size=80)), nearly_queries())
)
def test_any_bytes_get_the_right_answer_or_silence(data: bytes) -> None:
    answer = RESPONDER.respond(data, SOURCE)
    assert answer == RESPONDER.respond_with_care(data, SOURCE)
    assert (answer is None) == expected_silence(data)
    if answer is None:
        return
    assert answer[:2] == data[:2]
    assert answer[2] & 0x80
    assert len(answer) <= 1232
    if answer.endswith(b"\0\x08\0\4\0\0\0\0"):
        return  # client subnet of family 0, which dnspython cannot read
    opcode = data[2] >> 3 & 15
    assert answer[2] >> 3 & 15 == opcode
    if opcode:
        # dnspython demands of updates what nobody else does.
        assert answer[3] & 15 == dns.rcode.NOTIMP
        return
    message = dns.message.from_wire(answer)
    if data[4:6] != b"\0\1":
        assert message.rcode() == dns.rcode.FORMERR
    try:
        query = dns.message.from_wire(data)
    except (dns.exception.DNSException, ValueError):
        return
    if query.question and data[4:6] == b"\0\1" and message.question:
        assert message.question == query.question


@settings(max_examples=300, deadline=None)
@given(address=st.binary(min_size=4, max_size=4), bits=st.integers(0, 32), name=NAMES)
def test_the_echo_is_exact(address: bytes, bits: int, name: str) -> None:
    number = int.from_bytes(address, "big") & (0xFFFFFFFF << (32 - bits))
    text = ".".join(str(b) for b in (number & 0xFFFFFFFF).to_bytes(4, "big"))
    sent = dns.edns.ECSOption(text, bits, 0)
    got = ask(name, options=[sent]).options[0]
    assert isinstance(got, dns.edns.ECSOption)
    assert (got.family, got.srclen, got.address) == (sent.family, bits, text)
    wires = [option.to_wire() or b"" for option in (got, sent)]
    assert wires[0][:3] + wires[0][4:] == wires[1][:3] + wires[1][4:]
    assert got.scopelen == 0 if bits == 0 else 0 <= got.scopelen <= 32


def test_unknown_place_without_any_map_gets_every_region() -> None:
    bare = {name: Region(r.id, r.latitude, r.longitude, edges=r.edges) for name, r in regions().items()}
    assert len(texts(ask("hello.example.net", on=responder(table(regions=bare))))) == 3


def test_a_client_that_asks_is_told_how_long_a_connection_may_rest() -> None:
    """RFC 7828, section 3: over TCP only, and only when asked."""
    server = responder(manners=Manners(tcp_idle_s=12.5))
    keepalive = dns.edns.OptionType(11)

    def told(tcp: bool, *asked: dns.edns.Option) -> list[bytes]:
        message = ask("hello.example.net", on=server, tcp=tcp, options=list(asked), edns=0)
        return [option.to_wire() or b"" for option in message.options if option.otype == keepalive]

    assert told(True, dns.edns.GenericOption(keepalive, b"")) == [(125).to_bytes(2, "big")]
    assert told(True) == told(False, dns.edns.GenericOption(keepalive, b"")) == []
