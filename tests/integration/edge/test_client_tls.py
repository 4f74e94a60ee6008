"""TLS for clients: which certificate is shown, what changes without a broken connection, redirects, HSTS."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from agent.edge.client_tls import DEFAULT_NAME
from locci.v1 import edge_pb2, resource_pb2
from tests.fakes.authority import TRUST_DOMAIN, Authority
from tests.fakes.edge_agent import route
from tests.fakes.origin import Origin, Seen
from tests.integration.edge.client import Client, until
from tests.integration.edge.conftest import Edge, MakeEdge

AUTHORITY = Authority()


def material(name: str, *hostnames: str, days: float = 30.0) -> resource_pb2.CertificateMaterial:
    chain, key = AUTHORITY.website(*hostnames, days=days)
    found = resource_pb2.CertificateMaterial(
        certificate=name, hostnames=hostnames, chain_pem=chain, private_key_pem=key
    )
    found.expire_time.FromSeconds(int(days * 86_400))
    return found


def secured(name: str, hostname: str, origin: Origin, *, redirect: bool = False, hsts_s: int = 0) -> edge_pb2.EdgeRoute:
    made = route(name, [hostname], [origin.address])
    made.tls.redirect = redirect
    made.tls.hsts.FromSeconds(hsts_s)
    return made


@pytest.fixture
async def edge(make_edge: MakeEdge, origin: Origin) -> Edge:
    made = await make_edge(https_listen=["127.0.0.1:0"])
    made.certificates = [material("hello", "hello.test"), material("wild", "*.wild.test")]
    await made.serve(route("hello", ["hello.test"], [origin.address]), route("wild", ["a.wild.test"], [origin.address]))
    return made


async def secure(edge: Edge, name: str = "hello.test", *, verify: bool = True) -> Client:
    context = ssl.create_default_context(cadata=AUTHORITY.pem) if verify else ssl._create_unverified_context()
    port = edge.worker.https_ports[0]
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name, limit=2**24)
    return Client(reader, writer)


def shown(client: Client) -> bytes:
    found = client.writer.get_extra_info("ssl_object").getpeercert(True)
    assert isinstance(found, bytes)
    return found


async def curl(*arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        "curl", "-sS", "--noproxy", "*", *arguments, stdout=-1, stderr=-2, env={"PATH": "/usr/bin:/bin"}
    )
    async with asyncio.timeout(30):
        out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


async def test_curl(edge: Edge, origin: Origin, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(AUTHORITY.pem)
    port = edge.worker.https_ports[0]
    trust = ["--cacert", str(tmp_path / "ca.pem"), "--resolve", f"hello.test:{port}:127.0.0.1"]
    for version in ("--tlsv1.2", "--tlsv1.3"):
        code, out = await curl(*trust, version, f"https://hello.test:{port}/")
        assert (code, out) == (0, "hello\n")
    assert (await curl(*trust, "--tls-max", "1.1", f"https://hello.test:{port}/"))[0] == 35
    assert origin.seen[-1].headers["x-forwarded-proto"] == "https"
    assert "proto=https" in origin.seen[-1].headers["forwarded"]


async def test_each_name_has_its_certificate(edge: Edge) -> None:
    async with await secure(edge) as client:
        assert (await client.get()).status == 200
    async with await secure(edge, "a.wild.test") as client:
        assert (await client.get("/", Host="a.wild.test")).status == 200
    for name in ("wild.test", "a.b.wild.test", "other.test"):
        with pytest.raises(ssl.SSLCertVerificationError):
            await secure(edge, name)
        async with await secure(edge, name, verify=False) as client:
            assert DEFAULT_NAME.encode() in shown(client)
            assert (await client.get("/", Host=name)).status == 421


async def test_certificates_change_and_no_connection_breaks(edge: Edge, origin: Origin) -> None:
    first = await secure(edge)
    before = shown(first)
    edge.certificates = [
        material("hello", "hello.test"),
        material("late", "hello.test", days=60),
        *edge.certificates[1:],
    ]
    await edge.serve(route("hello", ["hello.test"], [origin.address]))
    async with await secure(edge) as second:
        assert shown(second) != before
        assert shown(second) == ssl.PEM_cert_to_DER_cert(edge.certificates[1].chain_pem)
    assert (await first.get()).status == 200
    edge.certificates = []
    await edge.serve(route("hello", ["hello.test"], [origin.address]))
    assert (await first.get()).status == 200
    first.writer.close()
    with pytest.raises(ssl.SSLCertVerificationError):
        await secure(edge)


async def test_a_certificate_that_cannot_be_used_harms_nobody(edge: Edge, origin: Origin) -> None:
    edge.certificates[0].private_key_pem = AUTHORITY.website("hello.test")[1]
    await edge.serve(route("hello", ["hello.test"], [origin.address]), route("wild", ["a.wild.test"], [origin.address]))
    with pytest.raises(ssl.SSLCertVerificationError):
        await secure(edge)
    async with await secure(edge, "a.wild.test") as client:
        assert (await client.get("/", Host="a.wild.test")).status == 200


async def test_plain_requests_are_sent_to_https(edge: Edge, origin: Origin) -> None:
    await edge.serve(
        secured("hello", "hello.test", origin, redirect=True), route("open", ["open.test"], [origin.address])
    )
    port = edge.worker.https_ports[0]
    async with await Client.open(edge.port) as client:
        for method, body in (("GET", None), ("HEAD", None), ("POST", b"x" * 10)):
            answer = await client.get("/a?b=c", method, body)
            assert (answer.status, answer.headers["location"]) == (308, f"https://hello.test:{port}/a?b=c")
        assert (await client.get("/.well-known/acme-challenge/x")).status == 200
        assert (await client.get("/.well-known/locci/health")).status == 200
        assert (await client.get("/", Host="open.test")).status == 200
    async with await secure(edge) as client:
        assert (await client.get("/a?b=c")).status == 200


async def test_what_was_stored_for_plain_requests_is_not_given_out_any_more(edge: Edge, origin: Origin) -> None:
    async def keep(seen: Seen) -> None:
        await seen.answer(200, seen.headers["x-forwarded-proto"].encode(), Cache_Control="max-age=60")

    origin.handler = keep
    async with await Client.open(edge.port) as client, await secure(edge) as over_tls:
        for _ in range(2):
            assert (await client.get("/a")).body == b"http"
            assert (await over_tls.get("/a")).body == b"https"
        await edge.serve(secured("hello", "hello.test", origin, redirect=True))
        assert (await client.get("/a")).status == 308


async def test_browsers_are_told_to_stay(edge: Edge, origin: Origin) -> None:
    async def keep(seen: Seen) -> None:
        own = {"Strict_Transport_Security": "max-age=1"} if seen.target == "/own" else {}
        await seen.answer(200, b"x", Cache_Control="max-age=60" if seen.target == "/kept" else "no-store", **own)

    origin.handler = keep
    await edge.serve(secured("hello", "hello.test", origin, hsts_s=3600))
    async with await secure(edge) as client, await Client.open(edge.port) as plain:
        for target, value in (("/kept", "max-age=3600"), ("/kept", "max-age=3600"), ("/passed", "max-age=3600")):
            assert (await client.get(target)).headers["strict-transport-security"] == value
        assert (await client.get("/own")).headers["strict-transport-security"] == "max-age=1"
        assert "strict-transport-security" not in (await plain.get("/kept")).headers


async def test_another_edge_keeps_apart_what_came_over_tls(make_edge: MakeEdge, origin: Origin, tmp_path: Path) -> None:
    async def tell(seen: Seen) -> None:
        await seen.answer(200, seen.headers["x-forwarded-proto"].encode(), Cache_Control="max-age=60")

    origin.handler = tell
    near = await make_edge("near", https_listen=["127.0.0.1:0"], peer_listen="127.0.0.1:0")
    far = await make_edge("far", peer_listen="127.0.0.1:0")
    for made, node in ((near, "eu-1"), (far, "us-1")):
        identity = AUTHORITY.join(tmp_path / node, node=node, region=node[:2])
        made.fields = {
            "node": node,
            "region": node[:2],
            "identity_dir": str(identity.path),
            "trust_domain": TRUST_DOMAIN,
        }
        await made.serve()
    await until(lambda: far.worker.peer_port > 0)
    await far.serve(route("hello", ["hello.test"], [origin.address]))
    near.certificates = [material("hello", "hello.test")]
    there = ("us", "us-1", f"127.0.0.1:{far.worker.peer_port}")
    await near.serve(route("hello", ["hello.test"], [], peers=[there]))
    async with await Client.open(near.port) as plain, await secure(near) as client:
        for _ in range(2):
            assert (await plain.get("/x")).body == b"http"
            assert (await client.get("/x")).body == b"https"
        lying = await plain.get("/y", X_Forwarded_Proto="https")
        assert lying.body == b"http"
    assert len(origin.seen) == 3


async def test_garbage_and_half_handshakes(edge: Edge) -> None:
    port = edge.worker.https_ports[0]
    for content in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b"\x00" * 300, b""):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(content)
        if content:
            async with asyncio.timeout(30):
                while await reader.read(1000):
                    pass
        writer.close()
    async with await secure(edge) as client:
        assert (await client.get()).status == 200
