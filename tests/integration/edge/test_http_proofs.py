"""Host names in zones of others: an ACME authority (pebble) asks the edge for the proof (RFC 8555, section 8.3)."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

from cryptography import x509

from agent import decode, encode
from agent.core.edge_view import edge_view
from locci.v1 import app_pb2, certificate_pb2, certificate_pb2_grpc, edge_pb2
from tests.fakes.origin import Origin
from tests.fakes.pebble import EveryNameHere, Pebble
from tests.integration.control_plane.rig import Host, Rig, manifest, until
from tests.integration.edge.client import Client
from tests.integration.edge.conftest import Edge, MakeEdge

DEADLINE_S = 60.0


async def pass_on(host: Host, edge: Edge) -> None:
    """What the agent does for its edge: gives it what the host holds, and tells when it serves that."""
    while True:
        snapshot = host.link.snapshot
        if snapshot.revision > host.edge_revision:
            target = decode.target(snapshot)
            view = edge_view(target.routes, (), (), target.certificates)
            edge.generation += 1
            facts = host.directory.facts()
            await edge.agent.send(encode.edge_config(edge.generation, view, facts, Path()))
            await until(lambda: edge.worker.state.table.generation == edge.generation, "the edge serves")
            host.edge_revision = snapshot.revision
            host.link.wake()
        await asyncio.sleep(0.02)


async def test_a_certificate_is_proven_over_http_and_shown(tmp_path: Path, make_edge: MakeEdge) -> None:
    edge = await make_edge(https_listen=["127.0.0.1:0"])
    names = EveryNameHere(tmp_path)
    pebble = Pebble(tmp_path, names.port, edge.port)
    rig = Rig(
        tmp_path,
        acme_directory=pebble.directory,
        acme_terms_agreed=True,
        acme_ca_file=pebble.ca_file,
    )
    passing: asyncio.Task[None] | None = None
    await names.start()
    await pebble.start()
    await rig.start()
    try:
        await rig.region("eu")
        host = await rig.host("eu-1", "eu")
        passing = asyncio.create_task(pass_on(host, edge))
        wanted = manifest("hello")
        wanted.tls.redirect = True
        await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=wanted))
        stub = certificate_pb2_grpc.CertificateServiceStub(rig.channel)
        rows: list[certificate_pb2.Certificate] = []

        async def issued() -> bool:
            rows[:] = (await stub.ListCertificates(certificate_pb2.ListCertificatesRequest())).certificates
            assert not rows or not rows[0].problem, rows[0].problem
            return bool(rows) and bool(rows[0].chain_pem)

        await until(issued, "the certificate", DEADLINE_S)
        assert list(rows[0].hostnames) == ["hello.example.net"]
        await until(lambda: "hello.example.net" in edge.worker.state.table.certificates, "the edge has it")
        assert "Pebble" in await issuer_shown(edge.worker.https_ports[0])
        assert not rig.plane.state.http_challenges.values(), "nothing is left at the edges"
    finally:
        if passing is not None:
            passing.cancel()
            await asyncio.gather(passing, return_exceptions=True)
        await rig.close()
        await pebble.stop()
        await names.stop()


async def issuer_shown(port: int) -> str:
    """Who has signed what clients are shown for the host name."""
    context = ssl._create_unverified_context()
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="hello.example.net")
    der = writer.get_extra_info("ssl_object").getpeercert(True)
    writer.close()
    return x509.load_der_x509_certificate(der).issuer.rfc4514_string()


async def test_only_what_is_asked_for_is_answered_by_the_edge(edge: Edge, origin: Origin) -> None:
    assert edge.agent.config is not None
    hello = edge_pb2.EdgeRoute()
    hello.CopyFrom(edge.agent.config.routes[0])
    hello.tls.redirect = True
    hello.proofs.challenges.add(hostname="hello.test", token="abc", key_authorization="abc.xyz")
    await edge.serve(hello)
    async with await Client.open(edge.port) as client:
        found = await client.get("/.well-known/acme-challenge/abc")
        assert (found.status, found.body) == (200, b"abc.xyz")
        assert (await client.get("/.well-known/acme-challenge/abc", Host="other.test")).status == 421
        assert origin.seen == []
        await client.get("/.well-known/acme-challenge/other")
        assert len(origin.seen) == 1, "an app may prove its names itself"
