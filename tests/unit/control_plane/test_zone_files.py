"""Records as people write them: what is taken, what is refused and how, and zone files there and back."""

from __future__ import annotations

import pytest

from control_plane.zone_files import Declared, check, conflict, parse_id, read_file, write_file
from fleet.errors import LocciError

ORIGIN = "example.net"


@pytest.mark.parametrize(
    ("kind", "owner", "data", "expected"),
    [
        ("A", "www", ["192.0.2.1"], ("192.0.2.1",)),
        ("MX", "@", ["10 mail"], ("10 mail.example.net.",)),
        ("MX", "@", ["10 mail.example.org."], ("10 mail.example.org.",)),
        ("CNAME", "Web", ["Hello.Example.NET."], ("hello.example.net.",)),
        ("ALIAS", "@", ["hello"], ("hello.example.net.",)),
        ("TXT", "_dmarc", ['"v=DMARC1; p=none"'], ('"v=DMARC1; p=none"',)),
        ("A", "*.dev", ["192.0.2.2"], ("192.0.2.2",)),
        ("SRV", "_sip._tcp", ["0 5 5060 sip"], ("0 5 5060 sip.example.net.",)),
        ("CAA", "@", ['0 issue "ca.example"'], ('0 issue "ca.example"',)),
        ("HTTPS", "svc", ["1 . alpn=h2"], ('1 . alpn="h2"',)),
    ],
)
def test_what_is_taken(kind: str, owner: str, data: list[str], expected: tuple[str, ...]) -> None:
    found = check(ORIGIN, kind, owner, 60, data)
    assert found.data == expected
    assert found.owner == owner.lower()


@pytest.mark.parametrize(
    ("kind", "owner", "ttl_s", "data", "says"),
    [
        ("A", "www", 60, ["192.0.2.256"], "192.0.2.256"),
        ("A", "www", 60, [], "0 records"),
        ("A", "www", 60, ["192.0.2.1", "192.0.2.1"], "twice"),
        ("A", "www", -1, ["192.0.2.1"], "7 days"),
        ("CNAME", "@", 60, ["x"], "use ALIAS"),
        ("NS", "@", 60, ["ns1"], "role dns"),
        ("CNAME", "www", 60, ["a", "b"], "2 records"),
        ("A", "a.*.b", 60, ["192.0.2.1"], "first label"),
        ("A", "www.example.org.", 60, ["192.0.2.1"], "no name within"),
        ("A", "w" * 64, 60, ["192.0.2.1"], "no name"),
        ("MX", "@", 60, ["mail"], "no MX record"),
    ],
)
def test_what_is_refused(kind: str, owner: str, ttl_s: int, data: list[str], says: str) -> None:
    with pytest.raises(LocciError, match="record_set") as caught:
        check(ORIGIN, kind, owner, ttl_s, data)
    assert says in caught.value.message


@pytest.mark.parametrize("text", ["MX", "MX.", "BOGUS.www", ".www", "SOA.@"])
def test_ids_that_are_none(text: str) -> None:
    with pytest.raises(LocciError):
        parse_id(text)


def test_what_cannot_stand_side_by_side() -> None:
    a = Declared("www", "A", 0, ("192.0.2.1",))
    cname = Declared("www", "CNAME", 0, ("x.example.net.",))
    alias = Declared("www", "ALIAS", 0, ("x.example.net.",))
    assert "stands alone" in conflict(cname, {a.id: a}, (), ORIGIN)
    assert "remove it first" in conflict(a, {cname.id: cname}, (), ORIGIN)
    assert "ALIAS" in conflict(a, {alias.id: alias}, (), ORIGIN)
    assert "A records" in conflict(alias, {a.id: a}, (), ORIGIN)
    assert "app's hostname" in conflict(a, {}, ("www.example.net",), ORIGIN)
    assert conflict(a, {}, ("other.example.net",), ORIGIN) == ""
    assert conflict(Declared("www", "TXT", 0, ('"x"',)), {a.id: a}, ("www.example.net",), ORIGIN) == ""


FILE = """
$ORIGIN example.net.
$TTL 300
@ SOA ns1 hostmaster 7 3600 600 604800 10
@ NS ns1
@ MX 10 mail
mail 60 A 192.0.2.9
  AAAA 2001:db8::9
*.dev TXT "a" "b"
www CNAME mail
odd HINFO "a" "b"
"""


def test_a_zone_file_there_and_back() -> None:
    declared, skipped = read_file(FILE, ORIGIN)
    by_id = {d.id: d for d in declared}
    assert by_id.keys() == {"MX.@", "A.mail", "AAAA.mail", "TXT.*.dev", "CNAME.www"}
    assert by_id["A.mail"].ttl_s == 60
    assert len(skipped) == 3
    assert any("HINFO" in text for text in skipped)
    soa = "eu-1.ns.example.net. hostmaster.example.net. 7 3600 600 604800 10"
    text = write_file(ORIGIN, soa, 300, {"eu-1.ns.example.net": ["192.0.2.11"]}, declared, ["hello.example.net"])
    again, left_out = read_file(text, ORIGIN)
    assert {d.id: d.data for d in again if d.id in by_id} == {d.id: d.data for d in declared}
    assert len(left_out) == 2


@pytest.mark.parametrize("text", ["www A 192.0.2.1.5", "$INCLUDE /etc/passwd", "@@@@", "www 60 IN\n"])
def test_files_that_are_none(text: str) -> None:
    with pytest.raises(LocciError) as caught:
        read_file(f"$ORIGIN {ORIGIN}.\n$TTL 60\n{text}\n", ORIGIN)
    assert caught.value.message.startswith("content")
