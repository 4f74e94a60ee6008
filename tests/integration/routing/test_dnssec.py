"""A signed zone, as delv and unbound validate it over real sockets; with the compiled loop and without."""

from __future__ import annotations

import asyncio

import dns.asyncquery
import dns.flags
import dns.message
import dns.rcode
import pytest

from locci.v1 import resource_pb2
from tests.integration.routing.rig import Rig
from tests.integration.routing.test_protocol import declared
from tests.integration.routing.test_serving import dig, resolver

PRIVATE = bytes(range(1, 33))
MORE = (
    ("example.net", "ALIAS", ["hello.example.net."]),
    ("example.net", "CAA", ['0 issue "ca.example"']),
    ("example.net", "TXT", ['"' + "x" * 255 + '" "' + "y" * 200 + '"']),
    ("chain.example.net", "CNAME", ["www.example.net."]),
    ("wild.example.net", "CNAME", ["x.y.dev.example.net."]),
    ("*.b.c.example.net", "A", ["192.0.2.51"]),
    ("*.alias.dev.example.net", "CNAME", ["hello.example.net."]),
    ("_sip._tcp.example.net", "SRV", ["10 60 5060 mail.example.net."]),
    ("example.net", "HTTPS", ["1 . alpn=h2"]),
    ("safe.example.net", "NS", ["ns.safe.example.net."]),
    ("safe.example.net", "DS", ["12345 13 2 " + "ab" * 32]),
)
YES, NO = "fully validated", "negative response, fully validated"
# Names in the middle, wildcards at several depths, chains, delegations, the zone's own name as an alias.
WHOLE = (
    ("example.net", "A", YES),
    ("example.net", "NS", YES),
    ("example.net", "CAA", YES),
    ("example.net", "TXT", YES),
    ("example.net", "DNSKEY", YES),
    ("example.net", "CDS", YES),
    ("example.net", "HTTPS", YES),
    ("chain.example.net", "A", YES),
    ("wild.example.net", "TXT", YES),
    ("x.alias.dev.example.net", "A", YES),
    ("a.b.c.example.net", "A", YES),
    ("z.y.a.b.c.example.net", "A", YES),
    ("_sip._tcp.example.net", "SRV", YES),
    ("safe.example.net", "DS", YES),
    ("child.example.net", "DS", NO),
    ("b.c.example.net", "A", NO),
    ("c.example.net", "MX", NO),
    ("a.b.c.example.net", "TXT", NO),
    ("_tcp.example.net", "SRV", NO),
    ("example.net", "SRV", NO),
    ("a.hello.example.net", "A", NO),
    ("\\000.odd.example.net", "A", NO),
)
CHAINS = ("chain.example.net", "wild.example.net", "x.alias.dev.example.net")


def signed(port: int) -> list[resource_pb2.Resource]:
    keys = resource_pb2.Resource(name="zonekeys/example.net", version="1")
    keys.zone_keys.origin = "example.net"
    keys.zone_keys.keys.add(private_key=PRIVATE, active=True)
    resources = declared(port)
    zone = next(resource.zone for resource in resources if resource.name == "zones/example.net")
    for owner, kind, data in MORE:
        zone.records.add(owner=owner, type=kind, data=data).ttl.FromSeconds(60)
    return [*resources, keys]


@pytest.mark.parametrize("compiled", [True, False])
async def test_validators_agree(rig: Rig, compiled: bool) -> None:
    rig.keep(signed(rig.edges.port))
    async with rig.running(compiled=compiled) as app:
        (port,) = app.ports
        ds = (await dig(port, "example.net", "CDS", "+short")).strip()
        anchor = rig.path / "anchor"
        tag, algorithm, digest_type, *digest = ds.split()
        anchor.write_text(
            f'trust-anchors {{ example.net. static-ds {tag} {algorithm} {digest_type} "{"".join(digest)}"; }};\n'
        )
        for _ in range(2):
            for name, kind, wanted in (
                ("hello.example.net", "A", "fully validated"),
                ("alias.example.net", "A", "fully validated"),
                ("www.example.net", "A", "fully validated"),
                ("x.dev.example.net", "TXT", "fully validated"),
                ("example.net", "MX", "fully validated"),
                ("example.net", "SOA", "fully validated"),
                ("hello.example.net", "MX", "negative response, fully validated"),
                ("nope.example.net", "A", "negative response, fully validated"),
                ("child.example.net", "DS", "negative response, fully validated"),
            ):
                assert f"; {wanted}" in await delv(port, str(anchor), name, kind), (name, kind)
        key = rig.path / "key"
        key.write_text(await dig(port, "example.net", "DNSKEY", "+noall", "+answer"))
        for name, kind, wanted in WHOLE:
            assert f"; {wanted}" in await delv(port, str(anchor), name, kind), (name, kind)
            if name in CHAINS:
                # ldns' drill follows none.
                continue
            said = await drill(port, str(key), name, kind)
            assert ("; Existence denied" if wanted.startswith("neg") else "; VALIDATED by id =") in said, (
                name,
                kind,
                said,
            )
            assert "BOGUS" not in said, (name, kind)
        async with resolver(rig.path, port, f"example.net. DS {ds}") as recursive:
            for name, kind, _ in WHOLE:
                query = dns.message.make_query(name, kind, want_dnssec=True)
                answer = await dns.asyncquery.udp(query, "127.0.0.1", port=recursive, timeout=30)
                assert (answer.rcode(), bool(answer.flags & dns.flags.AD)) == (dns.rcode.NOERROR, True), (name, kind)
            for name, kind, rcode in (
                ("hello.example.net", "A", dns.rcode.NOERROR),
                ("www.example.net", "AAAA", dns.rcode.NOERROR),
                ("nope.example.net", "A", dns.rcode.NOERROR),
                ("x.dev.example.net", "TXT", dns.rcode.NOERROR),
            ):
                query = dns.message.make_query(name, kind, want_dnssec=True)
                answer = await dns.asyncquery.udp(query, "127.0.0.1", port=recursive, timeout=30)
                assert (answer.rcode(), bool(answer.flags & dns.flags.AD)) == (rcode, True), name


async def drill(port: int, key: str, name: str, kind: str) -> str:
    """What ldns makes of an answer, by the zone's key."""
    command = ["drill", "-p", str(port), "-D", "-k", key, name, "@127.0.0.1", kind]
    process = await asyncio.create_subprocess_exec(*command, stdout=-1, stderr=-2)
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    return out.decode(errors="replace")


async def delv(port: int, anchor: str, name: str, kind: str) -> str:
    command = ["delv", "@127.0.0.1", "-p", str(port), "-a", anchor, "+root=example.net", name, kind]
    process = await asyncio.create_subprocess_exec(*command, stdout=-1, stderr=-2)
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    return out.decode()


async def test_a_broken_key_is_refused(rig: Rig) -> None:
    rig.keep(signed(rig.edges.port))
    async with rig.control_plane() as control_plane, rig.running() as app:
        resources = signed(rig.edges.port)
        resources[-1].zone_keys.keys[0].private_key = b"short"
        resources[-1].version = "2"
        control_plane.feed(resources, 9)
        async with asyncio.timeout(30):
            while not control_plane.said("nack"):
                await asyncio.sleep(0.02)
        (problem,) = control_plane.said("nack")[0].nack.problems
        assert (problem.name, "no private key of the curve P-256" in problem.message) == ("zonekeys/example.net", True)
        assert "RRSIG" in await dig(app.ports[0], "hello.example.net", "+dnssec")
