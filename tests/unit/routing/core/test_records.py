"""Operators' records: CNAME chains, wildcards, aliases, delegations, as dnspython reads the answers."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.rcode
import dns.rdata
import dns.rdatatype
import pytest

from routing.core.answer import Responder
from routing.core.model import ALIAS, RecordSet, Zone
from tests.unit.routing.tables import ZONE, responder, table

SOURCE = bytes((10, 1, 0, 1))


def records(name: str, kind: str, *texts: str, ttl_s: int = 60) -> RecordSet:
    """A set as the table's reader makes it."""
    read = "CNAME" if kind == "ALIAS" else kind
    rdatas = [dns.rdata.from_text("IN", read, text) for text in texts]
    target = texts[0].removesuffix(".") if read == "CNAME" else ""
    number = ALIAS if kind == "ALIAS" else int(dns.rdatatype.from_text(kind))
    return RecordSet(name, number, ttl_s, tuple(rdata.to_wire() or b"" for rdata in rdatas), target)


CROWD = tuple(f"mail-{n}.{'x' * 20}.example.net." for n in range(7))
DECLARED = (
    records("example.net", "MX", "10 mail.example.net.", "20 mail.example.org."),
    records("example.net", "TXT", '"v=spf1 -all"'),
    records("example.net", "CAA", '0 issue "ca.example.net"'),
    records("mail.example.net", "A", "192.0.2.99"),
    records("www.example.net", "CNAME", "hello.example.net."),
    records("far.example.net", "CNAME", "www.example.org."),
    records("lost.example.net", "CNAME", "nothing.example.net."),
    records("chain.example.net", "CNAME", "www.example.net."),
    records("loop.example.net", "CNAME", "pool.example.net."),
    records("pool.example.net", "CNAME", "loop.example.net."),
    records("*.dev.example.net", "A", "192.0.2.50"),
    records("*.dev.example.net", "TXT", '"wild"'),
    records("real.dev.example.net", "TXT", '"real"'),
    records("alias.example.net", "ALIAS", "hello.example.net."),
    records("mirror.example.net", "ALIAS", "mail.example.net."),
    records("child.example.net", "NS", "ns1.child.example.net.", "ns.example.org."),
    records("ns1.child.example.net", "A", "192.0.2.77"),
    records("child.example.net", "DS", "12345 13 2 " + "ab" * 32),
    records("child2.between.example.net", "NS", "ns.elsewhere.test."),
    records("lent.example.net", "CNAME", "x.child.example.net."),
    records("_sip._tcp.example.net", "SRV", "0 5 5060 mail.example.net."),
    records("svc.example.net", "HTTPS", "1 . alpn=h2"),
    records("both.example.net", "HTTPS", "1 . alpn=h2", "2 mail.example.net. alpn=h2"),
    records("both.example.net", "A", "192.0.2.98"),
    records("steered.example.net", "MX", "10 hello.example.net."),
    records("crowded.example.net", "MX", *(f"{n} {CROWD[n]}" for n in range(7))),
    *(records(host.removesuffix("."), "AAAA", f"2001:db8::{n}") for n, host in enumerate(CROWD[:7])),
    records("full.example.net", "NS", *(f"ns{n}.full.example.net." for n in range(9))),
    *(records(f"ns{n}.full.example.net", "AAAA", f"2001:db8:1::{n}") for n in range(9)),
    records("neighbour.example.net", "NS", *(f"ns{n}.full.example.net." for n in range(9))),
)
RESPONDER: Responder = responder(
    table(zones={"example.net": Zone(**{f: getattr(ZONE, f) for f in Zone.__slots__} | {"records": DECLARED})})
)


def ask(name: str, kind: str = "A") -> dns.message.Message:
    query = dns.message.make_query(name, kind, flags=0)
    answer = RESPONDER.respond(query.to_wire(), SOURCE)
    assert answer is not None
    assert answer == RESPONDER.respond_with_care(query.to_wire(), SOURCE)
    return dns.message.from_wire(answer)


def said(message: dns.message.Message) -> set[str]:
    return {f"{rrset.name} {record.to_text()}" for rrset in message.answer for record in rrset}


@pytest.mark.parametrize(
    ("name", "kind", "rcode", "answer"),
    [
        ("example.net", "MX", 0, {"example.net. 10 mail.example.net.", "example.net. 20 mail.example.org."}),
        ("example.net", "TXT", 0, {'example.net. "v=spf1 -all"'}),
        ("example.net", "CAA", 0, {'example.net. 0 issue "ca.example.net"'}),
        ("mail.example.net", "A", 0, {"mail.example.net. 192.0.2.99"}),
        ("mail.example.net", "AAAA", 0, set()),
        ("www.example.net", "A", 0, {"www.example.net. hello.example.net.", "hello.example.net. 192.0.2.11"}),
        ("www.example.net", "CNAME", 0, {"www.example.net. hello.example.net."}),
        ("www.example.net", "MX", 0, {"www.example.net. hello.example.net."}),
        ("far.example.net", "A", 0, {"far.example.net. www.example.org."}),
        ("lost.example.net", "A", 3, {"lost.example.net. nothing.example.net."}),
        ("a.dev.example.net", "A", 0, {"a.dev.example.net. 192.0.2.50"}),
        ("a.b.dev.example.net", "TXT", 0, {'a.b.dev.example.net. "wild"'}),
        ("a.dev.example.net", "MX", 0, set()),
        ("real.dev.example.net", "A", 0, set()),
        ("real.dev.example.net", "TXT", 0, {'real.dev.example.net. "real"'}),
        ("x.real.dev.example.net", "A", 3, set()),
        ("alias.example.net", "A", 0, {"alias.example.net. 192.0.2.11"}),
        ("mirror.example.net", "A", 0, {"mirror.example.net. 192.0.2.99"}),
        ("mirror.example.net", "TXT", 0, set()),
        ("_tcp.example.net", "SRV", 0, set()),
        ("_sip._tcp.example.net", "SRV", 0, {"_sip._tcp.example.net. 0 5 5060 mail.example.net."}),
        ("svc.example.net", "HTTPS", 0, {'svc.example.net. 1 . alpn="h2"'}),
        ("nope.example.net", "A", 3, set()),
    ],
)
def test_each_has_its_answer(name: str, kind: str, rcode: int, answer: set[str]) -> None:
    found = ask(name, kind)
    assert (int(found.rcode()), said(found)) == (rcode, answer)
    assert found.flags & dns.flags.AA
    if rcode or not answer:
        assert found.authority[0].rdtype == dns.rdatatype.SOA


def test_a_chain_is_followed_and_a_loop_ends() -> None:
    assert said(ask("chain.example.net")) == {
        "chain.example.net. www.example.net.",
        "www.example.net. hello.example.net.",
        "hello.example.net. 192.0.2.11",
    }
    assert len(ask("loop.example.net").answer) == 2


@pytest.mark.parametrize("name", ["child.example.net", "www.child.example.net", "a.b.child.example.net"])
def test_below_a_delegation_the_child_is_named(name: str) -> None:
    found = ask(name)
    assert not found.flags & dns.flags.AA
    assert not found.answer
    (servers,) = found.authority
    assert servers.name.to_text() == "child.example.net."
    assert {record.to_text() for record in servers} == {"ns1.child.example.net.", "ns.example.org."}
    (glue,) = found.additional
    assert (glue.name.to_text(), glue[0].to_text()) == ("ns1.child.example.net.", "192.0.2.77")


def test_ds_is_the_parents() -> None:
    found = ask("child.example.net", "DS")
    assert found.flags & dns.flags.AA
    assert len(found.answer) == 1


def test_a_delegation_makes_the_names_above_it_exist() -> None:
    """An NXDOMAIN there would deny the child, too (RFC 8020)."""
    assert ask("between.example.net", "TXT").rcode() == dns.rcode.NOERROR
    assert "ns.elsewhere.test." in str(ask("x.child2.between.example.net").authority[0])


def test_an_alias_of_a_childs_name_brings_the_childs_servers() -> None:
    answer = ask("lent.example.net")
    assert said(answer) == {"lent.example.net. x.child.example.net."}
    assert answer.authority[0].rdtype == dns.rdatatype.NS
    assert "192.0.2.77" in str(answer.additional[0])


def beside(message: dns.message.Message) -> set[str]:
    return {f"{rrset.name} {record.to_text()}" for rrset in message.additional for record in rrset}


def test_hosts_that_are_ours_come_with_their_addresses() -> None:
    assert beside(ask("example.net", "MX")) == {"mail.example.net. 192.0.2.99"}
    assert beside(ask("_sip._tcp.example.net", "SRV")) == {"mail.example.net. 192.0.2.99"}
    assert beside(ask("both.example.net", "HTTPS")) == {"both.example.net. 192.0.2.98", "mail.example.net. 192.0.2.99"}
    # Steered addresses would bind the answer to the client's place.
    assert beside(ask("steered.example.net", "MX")) == set()
    assert beside(ask("svc.example.net", "HTTPS")) == set()


def asked_short(name: str, kind: str) -> dns.message.Message:
    """The answer to a client that takes 512 bytes only."""
    answer = RESPONDER.respond(dns.message.make_query(name, kind, flags=0).to_wire(), SOURCE)
    assert answer is not None
    assert len(answer) <= 512
    return dns.message.from_wire(answer)


def test_addresses_beside_an_answer_are_left_out_first() -> None:
    found = asked_short("crowded.example.net", "MX")
    assert len(found.answer[0]) == 7
    assert not found.additional
    assert not found.flags & dns.flags.TC


def test_a_referral_without_the_glue_that_it_needs_is_cut() -> None:
    """RFC 9471, section 3.1; glue of other children may be left out (3.2)."""
    found = asked_short("x.full.example.net", "A")
    assert found.flags & dns.flags.TC
    assert not found.flags & dns.flags.AA
    beside_it = asked_short("x.neighbour.example.net", "A")
    assert not beside_it.flags & dns.flags.TC
    assert len(beside_it.authority[0]) == 9
    assert not beside_it.additional
    query = dns.message.make_query("x.full.example.net", "A", flags=0).to_wire()
    answer = RESPONDER.respond(query, SOURCE, True)
    assert answer is not None
    assert len(dns.message.from_wire(answer).additional) == 9
