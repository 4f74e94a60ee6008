"""The same zones in Debian's BIND and in our server: both are asked for all that is there and much that is not."""

from __future__ import annotations

import asyncio
import random
import shutil
import socket
from collections.abc import Iterable

import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from locci.v1 import resource_pb2
from tests.fakes.ports import free_port
from tests.integration.routing.rig import Rig
from tests.integration.routing.test_bind import named

pytestmark = pytest.mark.skipif(shutil.which("named") is None, reason="needs Debian's bind9")

Row = tuple[str, str, str]
"""Owner below the origin (`@` for it), type, data."""
TYPES = ("A", "AAAA", "TXT", "MX", "CNAME", "NS", "SOA", "DS", "HTTPS", "SRV", "TYPE65280")
FEW = ("A", "TXT", "MX", "CNAME", "NS", "DS")
TTL = 300

# RFC 4592, section 2.2.1, in a zone of our own.
WILD: list[Row] = [
    ("*", "TXT", '"this is a wildcard"'),
    ("*", "MX", "10 host1.wild.test."),
    ("sub.*", "TXT", '"this is not a wildcard"'),
    ("host1", "A", "192.0.2.1"),
    ("_ssh._tcp.host1", "SRV", "0 0 22 host1.wild.test."),
    ("_ssh._tcp.host2", "SRV", "0 0 22 host2.wild.test."),
    ("subdel", "NS", "ns.wild.test."),
    ("subdel", "NS", "ns.elsewhere.test."),
    ("ns", "A", "192.0.2.53"),
    ("*.addresses", "A", "192.0.2.77"),
    ("*.alias", "CNAME", "host1.wild.test."),
    ("*.away", "CNAME", "host.elsewhere.test."),
    ("*.nowhere", "CNAME", "x.y.host1.wild.test."),
    ("a.b.c.d", "A", "192.0.2.4"),
]
KINDS: list[Row] = [
    ("@", "A", "192.0.2.1"),
    ("@", "MX", "10 mail.kinds.test."),
    ("@", "MX", "20 mail.elsewhere.test."),
    ("@", "TXT", '"v=spf1 -all"'),
    ("@", "TXT", '"two" "strings with ; and \\"quotes\\""'),
    ("@", "CAA", '0 issue "ca.example"'),
    ("@", "HTTPS", "1 . alpn=h2,h3 ipv4hint=192.0.2.1"),
    ("mail", "A", "192.0.2.25"),
    ("mail", "AAAA", "2001:db8::25"),
    ("_25._tcp.mail", "TLSA", "3 1 1 " + "ab" * 32),
    ("mail", "SSHFP", "4 2 " + "cd" * 32),
    ("_sip._tcp", "SRV", "10 60 5060 mail.kinds.test."),
    ("_sip._tcp", "SRV", "20 0 5061 mail.kinds.test."),
    ("_8443._foo.api", "SVCB", "1 svc.kinds.test. port=8443"),
    ("api", "HTTPS", "0 svc.kinds.test."),
    ("naptr", "NAPTR", '100 50 "s" "SIP+D2U" "" _sip._udp.kinds.test.'),
    ("_http._tcp", "URI", '10 1 "https://kinds.test/"'),
    ("4.3", "PTR", "mail.kinds.test."),
    ("www", "CNAME", "mail.kinds.test."),
    ("two", "CNAME", "www.kinds.test."),
    ("broken", "CNAME", "nothing.kinds.test."),
    ("out", "CNAME", "host.elsewhere.test."),
    ("lame", "CNAME", "x.child.kinds.test."),
    ("child", "NS", "ns.child.kinds.test."),
    ("child", "NS", "mail.kinds.test."),
    ("ns.child", "A", "192.0.2.54"),
    ("ns.child", "AAAA", "2001:db8::54"),
    ("child", "DS", "12345 13 2 " + "ef" * 32),
    ("other", "NS", "ns.child.kinds.test."),
    ("deep.er", "NS", "ns.elsewhere.test."),
    ("many", "A", "192.0.2.100"),
    *(("many", "A", f"192.0.2.{n}") for n in range(101, 110)),
    ("long", "TXT", " ".join('"' + "x" * 250 + '"' for _ in range(3))),
]


def made_up(origin: str, seed: int) -> list[Row]:
    """A zone by chance, from few labels, so that names meet: wildcards, empty names in between, aliases, children."""
    rng = random.Random(seed)
    labels = ("a", "b", "c", "*")

    def name() -> str:
        return ".".join(rng.choice(labels) for _ in range(rng.randint(1, 4)))

    rows: list[Row] = []
    alone: set[str] = set()
    others: set[str] = set()
    for _ in range(24):
        owner = name()
        target = f"{name()}.{origin}."
        choice = rng.random()
        if choice < 0.2 and owner not in others and owner not in alone:
            alone.add(owner)
            rows.append((owner, "CNAME", target if target != f"{owner}.{origin}." else "host.elsewhere.test."))
        elif choice < 0.3 and "*" not in owner and owner not in alone:
            others.add(owner)
            rows.append((owner, "NS", rng.choice((f"ns.{owner}.{origin}.", "ns.elsewhere.test."))))
            rows.append((f"ns.{owner}", "A", f"192.0.2.{rng.randint(1, 250)}"))
        elif owner not in alone:
            others.add(owner)
            kind, data = rng.choice(
                (("A", f"192.0.2.{rng.randint(1, 250)}"), ("TXT", f'"{rng.randint(0, 9)}"'), ("MX", f"10 {target}"))
            )
            rows.append((owner, kind, data))
    return list(dict.fromkeys(row for row in rows if row[1] == "CNAME" or row[0] not in alone))


ZONES = {"wild.test": WILD, "kinds.test": KINDS} | {f"z{n}.test": made_up(f"z{n}.test", n) for n in range(5)}


def ours(origin: str, rows: Iterable[Row]) -> resource_pb2.Resource:
    resource = resource_pb2.Resource(name=f"zones/{origin}", version="1")
    resource.zone.origin, resource.zone.serial = origin, 7
    resource.zone.name_servers.add(hostname=f"dns-1.ns.{origin}", addresses=["127.0.0.1"])
    resource.zone.name_servers.add(hostname=f"dns-2.ns.{origin}", addresses=["127.0.0.2", "::1"])
    sets: dict[tuple[str, str], list[str]] = {}
    for owner, kind, data in rows:
        sets.setdefault((origin if owner == "@" else f"{owner}.{origin}", kind), []).append(data)
    for (owner, kind), texts in sets.items():
        resource.zone.records.add(owner=owner, type=kind, data=texts).ttl.FromSeconds(TTL)
    return resource


def theirs(origin: str, rows: Iterable[Row]) -> str:
    own = [
        ("@", "SOA", "dns-1.ns hostmaster 7 3600 600 604800 10"),
        ("@", "NS", "dns-1.ns"),
        ("@", "NS", "dns-2.ns"),
        ("dns-1.ns", "A", "127.0.0.1"),
        ("dns-2.ns", "A", "127.0.0.2"),
        ("dns-2.ns", "AAAA", "::1"),
    ]
    text = f"$ORIGIN {origin}.\n" + "".join(f"{o} 3600 IN {k} {d}\n" for o, k, d in own)
    return text + "".join(f"{o} {TTL} IN {k} {d}\n" for o, k, d in rows)


def questions(origin: str, rows: list[Row]) -> list[str]:
    """Every owner, everything above and some below, and what is not there."""
    owners = {"" if owner == "@" else owner for owner, _, _ in rows} | {
        "ns",
        "dns-1.ns",
        "dns-2.ns",
        "",
        "nothing",
        "x.y.z",
    }
    above = {owner.split(".", n)[-1] for owner in owners for n in range(1, owner.count(".") + 1)}
    names = owners | above
    for extra in ("x", "*", "x.a"):
        names |= {f"{extra}.{name}" if name else extra for name in owners | above}
    return sorted(f"{name}.{origin}." if name else f"{origin}." for name in names)


Said = tuple[str, bool, tuple[object, ...], tuple[object, ...], tuple[object, ...]]


def said(message: dns.message.Message) -> Said:
    """What counts of an answer; BIND also brings the keys of mail servers (TLSA) beside it."""

    def section(rrsets: list[dns.rrset.RRset]) -> tuple[object, ...]:
        return tuple(
            sorted(
                (
                    str(rrset.name).lower(),
                    rrset.ttl,
                    dns.rdatatype.to_text(rrset.rdtype),
                    tuple(sorted(str(r).lower() for r in rrset)),
                )
                for rrset in rrsets
            )
        )

    authoritative = bool(message.flags & dns.flags.AA)
    return (
        dns.rcode.to_text(message.rcode()),
        authoritative,
        section(message.answer),
        section(message.authority),
        section([rrset for rrset in message.additional if rrset.rdtype != dns.rdatatype.TLSA]),
    )


class Asker:
    """A client of one server, on a socket of its own."""

    def __init__(self, port: int):
        self._port = port
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.settimeout(20)
        self._socket.connect(("127.0.0.1", port))

    def send(self, query: dns.message.Message) -> None:
        self._socket.send(query.to_wire())

    def receive(self, query: dns.message.Message) -> Said:
        answer = dns.message.from_wire(self._socket.recv(4096))
        if answer.flags & dns.flags.TC:
            answer = dns.query.tcp(query, "127.0.0.1", port=self._port, timeout=20)
        assert query.is_response(answer), (query, answer)
        return said(answer)


def compare(ours_at: int, theirs_at: int) -> tuple[int, list[str]]:
    """How many questions were asked, and where the two differ."""
    we, bind = Asker(ours_at), Asker(theirs_at)
    count, differences = 0, []
    for origin, rows in ZONES.items():
        for name in questions(origin, rows):
            for kind in TYPES if origin == "kinds.test" else FEW:
                query = dns.message.make_query(name, kind, flags=0, use_edns=0, payload=1232)
                we.send(query)
                bind.send(query)
                mine, other = we.receive(query), bind.receive(query)
                count += 1
                if mine != other:
                    differences.append(f"{name} {kind}\n  we:   {mine}\n  BIND: {other}")
    return count, differences


async def test_bind_says_the_same(rig: Rig) -> None:
    port, bind = free_port(), free_port()
    rig.keep([ours(origin, rows) for origin, rows in ZONES.items()])
    folder = rig.path / "zones"
    folder.mkdir()
    blocks = ""
    for origin, rows in ZONES.items():
        (folder / origin).write_text(theirs(origin, rows))
        blocks += (
            f'zone "{origin}" {{ type primary; file "{folder}/{origin}"; check-names ignore; check-integrity no; }};\n'
        )
    options = "recursion no; zero-no-soa-ttl no; minimal-responses no-auth; minimal-any yes; check-sibling no;"
    async with (
        rig.running(listen=[f"127.0.0.1:{port}"], responses_per_second=0),
        named(rig.path / "bind", bind, options, blocks),
    ):
        count, differences = await asyncio.to_thread(compare, port, bind)
        assert count > 2_000
        assert not differences, f"{len(differences)} of {count}\n" + "\n".join(differences[:40])
