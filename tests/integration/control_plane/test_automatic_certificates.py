"""Certificates that the fleet orders itself, of a real ACME authority (pebble) that asks our DNS server for proof."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from control_plane.adapters.acme_client import external_account
from control_plane.ports import EventQuery
from fleet.errors import LocciError
from locci.v1 import app_pb2, certificate_pb2, certificate_pb2_grpc, node_pb2, zone_pb2
from routing.app import DnsApp
from routing.settings import DnsSettings
from tests.fakes.pebble import Pebble
from tests.fakes.ports import free_port
from tests.integration.control_plane.rig import Rig, error_of, manifest, until

HELLO = "hello.example.net"
DEADLINE_S = 60.0


class Fleet:
    """A control plane that orders of pebble, and a real DNS server that pebble asks."""

    def __init__(self, path: Path, bound_to: dict[str, str] | None = None, **settings: Any):
        self.path = path
        self.dns_port = free_port()
        self.pebble = Pebble(path, self.dns_port, bound_to=bound_to)
        self.rig = Rig(
            path,
            acme_directory=self.pebble.directory,
            acme_terms_agreed=True,
            acme_contact=["ops@example.net"],
            acme_ca_file=self.pebble.ca_file,
            **settings,
        )

    async def start(self) -> None:
        """All of it."""
        await self.pebble.start()
        await self.rig.start()
        await self.rig.region("eu")

    async def dns(self) -> asyncio.Task[None]:
        """Joins and runs a DNS server."""
        token = await self.rig.token("eu", roles=[node_pb2.NODE_ROLE_DNS])
        await self.rig.enrol(token, "dns-1", path=self.path / "dns-identity")
        settings = DnsSettings(
            listen=[f"127.0.0.1:{self.dns_port}"],
            identity_dir=self.path / "dns-identity",
            state_dir=self.path / "dns",
            metrics_listen="",
        )
        app = DnsApp(settings)
        await app.start()
        running = asyncio.create_task(app.run())
        await self.rig.condition("dns-1", node_pb2.NODE_CONDITION_READY)
        return running

    @property
    def certificates(self) -> certificate_pb2_grpc.CertificateServiceStub:
        """The API."""
        return certificate_pb2_grpc.CertificateServiceStub(self.rig.channel)

    async def kept(self) -> list[certificate_pb2.Certificate]:
        """Every certificate."""
        return list((await self.certificates.ListCertificates(certificate_pb2.ListCertificatesRequest())).certificates)

    async def issued(self, *hostnames: str, besides: str = "") -> certificate_pb2.Certificate:
        """The certificate for these host names, when it is there and has not the fingerprint `besides`."""
        found: list[certificate_pb2.Certificate] = []

        async def there() -> bool:
            found[:] = [c for c in await self.kept() if tuple(c.hostnames) == hostnames and c.chain_pem]
            return bool(found) and found[0].fingerprint != besides

        await until(there, f"a certificate for {hostnames}", DEADLINE_S)
        return found[0]

    async def events(self) -> list[str]:
        """Types of events about certificates, oldest first."""
        rows = await self.rig.plane.state.events(EventQuery(limit=500, ascending=True))
        return [e.type for e in rows if e.type.startswith("Certificate")]


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    fleet = Fleet(tmp_path)
    await fleet.start()
    running = await fleet.dns()
    try:
        yield fleet
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await fleet.rig.close()
        await fleet.pebble.stop()


async def deploy(fleet: Fleet, name: str = "hello") -> None:
    await fleet.rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=manifest(name)))


async def test_every_host_name_gets_a_certificate_that_its_edges_hold(fleet: Fleet) -> None:
    edge = await fleet.rig.host("eu-1", "eu")
    await fleet.rig.zones.CreateZone(zone_pb2.CreateZoneRequest(zone_id="example.net"))
    await deploy(fleet)
    row = await fleet.issued(HELLO)
    assert row.automatic
    assert "Pebble" in row.issuer
    assert not row.private_key_pem
    life_s = row.expire_time.seconds - row.begin_time.seconds
    assert row.begin_time.seconds < row.order_time.seconds <= row.begin_time.seconds + life_s * 0.67

    await until(lambda: row.name in edge.resources, "the edge holds it")
    held = edge.resources[row.name].certificate
    leaf = x509.load_pem_x509_certificates(held.chain_pem.encode())[0]
    key = serialization.load_pem_private_key(held.private_key_pem.encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.public_key() == leaf.public_key()
    assert not fleet.rig.plane.state.dns_challenges.values(), "nothing is left in DNS"
    assert held.private_key_pem not in (fleet.path / "server" / "locci.db").read_bytes().decode("latin-1")

    renewed = await fleet.certificates.RenewCertificate(certificate_pb2.RenewCertificateRequest(name=row.name))
    assert renewed.fingerprint == row.fingerprint, "the old one is shown until the new one is there"
    after = await fleet.issued(HELLO, besides=row.fingerprint)
    await until(lambda: edge.resources[row.name].certificate.chain_pem == after.chain_pem, "the edge holds the new one")


async def test_a_wildcard_is_ordered_on_request_and_spares_the_host_names_below_it(fleet: Fleet) -> None:
    wish = certificate_pb2.Certificate(automatic=True, hostnames=["*.example.net", "example.net"])
    request = certificate_pb2.CreateCertificateRequest(certificate_id="all", certificate=wish)
    error = await error_of(fleet.certificates.CreateCertificate(request))
    assert "is in no zone that this fleet answers for" in str(error.details())
    await fleet.rig.zones.CreateZone(zone_pb2.CreateZoneRequest(zone_id="example.net"))
    await fleet.certificates.CreateCertificate(request)
    await fleet.rig.host("eu-1", "eu")
    await deploy(fleet)
    row = await fleet.issued("*.example.net", "example.net")
    assert row.name == "certificates/all"
    assert [c.name for c in await fleet.kept()] == ["certificates/all"]
    with pytest.raises(grpc.aio.AioRpcError, match="ordered by the fleet itself"):
        await fleet.certificates.UpdateCertificate(
            certificate_pb2.UpdateCertificateRequest(certificate=certificate_pb2.Certificate(name=row.name))
        )


async def test_what_fails_says_why_and_is_tried_again(fleet: Fleet) -> None:
    await fleet.rig.host("eu-1", "eu")
    await fleet.rig.zones.CreateZone(zone_pb2.CreateZoneRequest(zone_id="example.net"))
    await fleet.pebble.stop()
    await deploy(fleet)

    async def failed() -> bool:
        rows = await fleet.kept()
        return bool(rows) and "the authority cannot be used" in rows[0].problem

    await until(failed, "the reason")
    (row,) = await fleet.kept()
    assert (row.failures, row.chain_pem) == (1, "")
    assert row.order_time.seconds > row.create_time.seconds + 25
    assert "CertificateOrderFailed" in await fleet.events()

    await fleet.pebble.start()
    await fleet.certificates.RenewCertificate(certificate_pb2.RenewCertificateRequest(name=row.name))
    after = await fleet.issued(HELLO)
    assert (after.problem, after.failures) == ("", 0)


async def test_an_order_that_was_broken_off_is_begun_anew(fleet: Fleet) -> None:
    await fleet.rig.host("eu-1", "eu")
    await fleet.rig.zones.CreateZone(zone_pb2.CreateZoneRequest(zone_id="example.net"))
    await deploy(fleet)
    await until(lambda: bool(fleet.rig.plane.state.dns_challenges.values()), "the proof is in DNS", DEADLINE_S)
    await fleet.rig.stop()
    await fleet.rig.start()
    row = await fleet.issued(HELLO)
    assert row.failures == 0
    assert not fleet.rig.plane.state.dns_challenges.values()


async def test_an_account_is_bound_to_one_that_the_authority_knows(tmp_path: Path) -> None:
    keys = {"customer-7": "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"}
    file = tmp_path / "hmac-key"
    file.write_text(keys["customer-7"] + "\n")
    file.chmod(0o600)
    fleet = Fleet(tmp_path, bound_to=keys, acme_eab_kid="customer-7", acme_eab_hmac_key_file=file)
    await fleet.start()
    running = await fleet.dns()
    try:
        await fleet.rig.host("eu-1", "eu")
        await fleet.rig.zones.CreateZone(zone_pb2.CreateZoneRequest(zone_id="example.net"))
        await deploy(fleet)
        assert (await fleet.issued(HELLO)).automatic
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await fleet.rig.close()
        await fleet.pebble.stop()


async def test_without_being_bound_it_is_told_so(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, bound_to={"customer-7": "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"})
    await fleet.start()
    running = await fleet.dns()
    try:
        await fleet.rig.host("eu-1", "eu")
        await fleet.rig.zones.CreateZone(zone_pb2.CreateZoneRequest(zone_id="example.net"))
        await deploy(fleet)

        async def told() -> bool:
            return any("xternal" in row.problem for row in await fleet.kept())

        await until(told, "the reason", DEADLINE_S)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await fleet.rig.close()
        await fleet.pebble.stop()


@pytest.mark.parametrize(("text", "mode", "said"), [("a" * 40, 0o644, "chmod 600"), ("not a key!", 0o600, "base64url")])
def test_a_key_that_cannot_be_used_is_said_at_the_start(tmp_path: Path, text: str, mode: int, said: str) -> None:
    file = tmp_path / "hmac-key"
    file.write_text(text)
    file.chmod(mode)
    with pytest.raises(LocciError, match=said):
        external_account("customer-7", file)
    with pytest.raises(LocciError, match="cannot be read"):
        external_account("customer-7", tmp_path / "nowhere")
    assert external_account("", None) is None
