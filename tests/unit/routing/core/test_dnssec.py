"""Signed answers, as dnspython's validator reads them."""

from __future__ import annotations

from dataclasses import replace

import dns.dnssec
import dns.edns
import dns.message
import dns.name
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routing.adapters import zone_keys
from routing.core import wire
from routing.core.answer import Manners, Responder
from routing.core.dnssec import Signer, bitmap, labels_of
from routing.core.model import SigningKey
from tests.unit.routing.core.test_records import DECLARED
from tests.unit.routing.tables import ZONE, responder, table

NOW_S = 1_800_000_000
SOURCE = bytes((10, 1, 0, 1))
ORIGIN = dns.name.from_text("example.net")
KEY = SigningKey(zone_keys._public(bytes(range(1, 33))), bytes(range(1, 33)))


def signing(**manners: object) -> tuple[Responder, Signer]:
    signer = Signer(zone_keys.sign, NOW_S)
    of = table(zones={"example.net": replace(ZONE, records=DECLARED)}, keys={"example.net": (KEY,)})
    return responder(of, manners=Manners(signer=signer)), signer


RESPONDER, SIGNER = signing()


def ask(
    name: str, kind: str = "A", *, flags: int = 0x8000, payload: int = 1232, tcp: bool = True
) -> dns.message.Message:
    query = dns.message.make_query(name, kind, flags=0)
    query.use_edns(0, ednsflags=flags, payload=payload)
    answer = RESPONDER.respond(query.to_wire(), SOURCE, tcp)
    assert answer is not None
    return dns.message.from_wire(answer)


KEYS = {ORIGIN: ask("example.net", "DNSKEY").answer[0]}


def check(message: dns.message.Message) -> None:
    """Every set of records that is ours to speak for has a signature that holds."""
    for section in message.sections[1:]:
        signatures = {(s.name, s.covers): s for s in section if s.rdtype == dns.rdatatype.RRSIG}
        for rrset in section:
            delegated = rrset.rdtype == dns.rdatatype.NS and rrset.name != ORIGIN
            glue = ".child." in rrset.name.to_text() or ".full." in rrset.name.to_text()
            if rrset.rdtype != dns.rdatatype.RRSIG and not delegated and not glue:
                dns.dnssec.validate(rrset, signatures[rrset.name, rrset.rdtype], KEYS, now=NOW_S)


def nsec_types(message: dns.message.Message) -> tuple[str, set[str]]:
    (nsec,) = [r for r in message.authority if r.rdtype == dns.rdatatype.NSEC]
    kinds = {
        dns.rdatatype.to_text(dns.rdatatype.RdataType.make(window * 256 + bit))
        for window, bits in nsec[0].windows
        for bit in range(len(bits) * 8)
        if bits[bit // 8] & 0x80 >> bit % 8
    }
    return nsec[0].next.to_text(), kinds


def test_the_keys_sign_themselves_and_are_published() -> None:
    check(ask("example.net", "DNSKEY"))
    ds = dns.dnssec.make_ds(ORIGIN, KEYS[ORIGIN][0], "SHA256")
    assert ask("example.net", "CDS").answer[0][0].to_text() == ds.to_text()
    assert ask("example.net", "CDNSKEY").answer[0][0].key == KEY.public


@pytest.mark.parametrize(
    "name", sorted({r.name for r in DECLARED} | {"hello.example.net", "nope.example.net", "example.net"})
)
@pytest.mark.parametrize("kind", ["A", "AAAA", "TXT", "MX", "NS", "DS", "SOA", "SRV", "HTTPS", "CNAME", "ANY"])
def test_everything_holds(name: str, kind: str) -> None:
    if name == "*.dev.example.net":
        name = "a.dev.example.net"
    found = ask(name, kind)
    check(found)
    plain = ask(name, kind, flags=0)
    unsigned = (dns.rdatatype.RRSIG, dns.rdatatype.NSEC, dns.rdatatype.DS)
    assert [r for r in found.answer if r.rdtype not in unsigned] == [
        r for r in plain.answer if r.rdtype not in unsigned
    ]
    assert not any(r.rdtype in unsigned[:2] for section in plain.sections for r in section)


def test_a_name_that_is_not_there() -> None:
    found = ask("nope.example.net")
    assert int(found.rcode()) == 0
    assert nsec_types(found) == ("\\000.nope.example.net.", {"NSEC", "RRSIG", "NXNAME"})
    assert int(ask("nope.example.net", flags=0xC000).rcode()) == 3
    assert int(ask("nope.example.net", flags=0).rcode()) == 3
    refused = ask("nope.example.net", "TYPE128")
    assert int(refused.rcode()) == 1
    assert [int(option.code) for option in refused.options if isinstance(option, dns.edns.EDEOption)] == [30]


def test_a_type_that_is_not_there() -> None:
    assert nsec_types(ask("mail.example.net", "AAAA"))[1] == {"A", "NSEC", "RRSIG"}
    assert nsec_types(ask("hello.example.net", "TXT"))[1] == {"A", "AAAA", "NSEC", "RRSIG"}
    assert nsec_types(ask("law.example.net", "MX"))[1] == {"A", "AAAA", "NSEC", "RRSIG"}
    assert nsec_types(ask("_tcp.example.net", "A"))[1] == {"NSEC", "RRSIG"}
    assert nsec_types(ask("a.dev.example.net", "MX"))[1] == {"A", "TXT", "NSEC", "RRSIG"}
    assert {"SOA", "NS", "DNSKEY", "CDS", "CDNSKEY"} < nsec_types(ask("example.net", "SRV"))[1]


def test_the_end_of_a_chain_is_denied_by_its_own_name() -> None:
    found = ask("lost.example.net")
    (nsec,) = [r for r in found.authority if r.rdtype == dns.rdatatype.NSEC]
    assert nsec.name.to_text() == "nothing.example.net."
    assert int(found.rcode()) == 0


def test_delegations() -> None:
    referral = ask("www.child.example.net")
    kinds = [dns.rdatatype.to_text(r.rdtype) for r in referral.authority]
    assert kinds == ["NS", "DS", "RRSIG"]
    check(referral)


def test_questions_for_proofs() -> None:
    assert next(r.rdtype for r in ask("mail.example.net", "NSEC").answer) == dns.rdatatype.NSEC
    assert [r.covers for r in ask("mail.example.net", "RRSIG").answer] == [dns.rdatatype.NSEC]


def test_signatures_are_kept_for_an_hour_and_then_made_anew() -> None:
    signs, signer = signing()
    query = dns.message.make_query("mail.example.net", "A", want_dnssec=True).to_wire()
    first = signs.respond(query, SOURCE)
    made = signer.signed
    assert signs.respond(query, SOURCE) == first
    assert signer.signed == made
    signer.now_s += 3600
    assert signs.respond(query, SOURCE) != first


def test_addresses_beside_an_answer_are_signed() -> None:
    """RFC 4035, section 3.1.1."""
    for name, kind in (("example.net", "NS"), ("example.net", "MX"), ("_sip._tcp.example.net", "SRV")):
        found = ask(name, kind)
        check(found)
        assert any(r.rdtype == dns.rdatatype.RRSIG for r in found.additional)


def test_what_is_cut_keeps_its_code() -> None:
    name = "nope." + ".".join(["a" * 60] * 3) + ".example.net"
    assert [int(ask(name, flags=f, payload=512, tcp=False).rcode()) for f in (0x8000, 0xC000)] == [0, 3]


def test_what_does_not_fit_is_cut() -> None:
    found = ask("example.net", "DNSKEY", payload=512, tcp=False)
    assert found.flags & 0x0200 or len(found.answer) == 2
    assert ask("nope." + ".".join(["a" * 60] * 3) + ".example.net", payload=512, tcp=False).flags & 0x0200


@given(st.lists(st.text("abcdefgh*_-", min_size=1, max_size=63), min_size=1, max_size=4), st.integers(1, 300))
@settings(max_examples=150, deadline=None)
def test_any_name_is_proven(labels: list[str], kind: int) -> None:
    name = dns.name.Name([label.encode() for label in labels] + [b"example", b"net", b""])
    if kind in (41, 249, 250, 251, 252, 253, 254, 255, 128):
        return
    query = dns.message.make_query(name, kind, flags=0, want_dnssec=True)
    answer = RESPONDER.respond(query.to_wire(), SOURCE, True)
    assert answer is not None
    check(dns.message.from_wire(answer))


def test_the_longest_name_is_denied_too() -> None:
    name = dns.name.Name([b"a" * 63, b"b" * 63, b"c" * 63, b"d" * 48, b"example", b"net", b""])
    assert len(name.to_wire()) >= 254
    found = ask(name.to_text())
    check(found)
    assert nsec_types(found)[0] == "example.net."


def test_labels_and_types() -> None:
    assert [labels_of(wire.name(text)) for text in ("", "net", "a.example.net", "*.example.net")] == [0, 1, 3, 2]
    assert bitmap((wire.NSEC, b"\x01\x01", wire.A)).hex() == "0006400000000001" + "010140"
