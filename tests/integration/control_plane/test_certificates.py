"""Certificates for clients: what is refused, who gets them, and that their keys are seen by nobody else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from control_plane.core.acme import covers
from locci.v1 import (
    access_pb2,
    access_pb2_grpc,
    app_pb2,
    certificate_pb2,
    certificate_pb2_grpc,
    event_pb2,
)
from tests.fakes.authority import Authority
from tests.integration.control_plane.rig import Rig, manifest, running, until

AUTHORITY = Authority()


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with running(tmp_path) as rig:
        await rig.region("eu")
        yield rig


def service(rig: Rig) -> certificate_pb2_grpc.CertificateServiceStub:
    return certificate_pb2_grpc.CertificateServiceStub(rig.channel)


async def upload(rig: Rig, chain: str, key: str, name: str = "hello") -> certificate_pb2.Certificate:
    certificate = certificate_pb2.Certificate(chain_pem=chain, private_key_pem=key)
    request = certificate_pb2.CreateCertificateRequest(certificate_id=name, certificate=certificate)
    return await service(rig).CreateCertificate(request)


async def test_edges_get_what_they_serve(rig: Rig) -> None:
    host = await rig.host("eu-1", "eu")
    dns = await rig.host("dns-1", "eu", dns=True)
    chain, key = AUTHORITY.website("hello.example.net", "*.other.example.net")
    row = await upload(rig, chain, key)
    assert list(row.hostnames) == ["hello.example.net", "*.other.example.net"]
    assert (row.private_key_pem, row.issuer, len(row.fingerprint)) == ("", "CN=test CA", 64)
    await upload(rig, *AUTHORITY.website("unrelated.example.org"), name="unrelated")
    assert not [name for name in host.resources if name.startswith("certificates/")]

    await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=manifest()))
    await until(lambda: "certificates/hello" in host.resources, "the certificate of an app's host name")
    assert "certificates/unrelated" not in host.resources
    assert not [name for name in dns.resources if name.startswith("certificates/")]
    material = host.resources["certificates/hello"].certificate
    assert serialization.load_pem_private_key(material.private_key_pem.encode(), None) is not None
    assert material.chain_pem == chain

    renewed, new_key = AUTHORITY.website("hello.example.net", days=60)
    given = certificate_pb2.Certificate(name=row.name, chain_pem=renewed, private_key_pem=new_key, etag="1")
    with pytest.raises(grpc.aio.AioRpcError, match="was changed meanwhile"):
        await service(rig).UpdateCertificate(certificate_pb2.UpdateCertificateRequest(certificate=given))
    given.etag = row.etag
    after = await service(rig).UpdateCertificate(certificate_pb2.UpdateCertificateRequest(certificate=given))
    assert after.expire_time.seconds > row.expire_time.seconds
    await until(lambda: host.resources["certificates/hello"].certificate.chain_pem == renewed, "the new certificate")
    await service(rig).DeleteCertificate(certificate_pb2.DeleteCertificateRequest(name=row.name))
    await until(lambda: "certificates/hello" not in host.resources, "no certificate")


async def test_a_key_is_seen_by_edges_only(rig: Rig) -> None:
    chain, key = AUTHORITY.website("hello.example.net")
    await upload(rig, chain, key)
    secret = "".join(key.splitlines()[1:-1])[60:100]  # behind what all keys of the curve begin with
    everyone = [
        (await service(rig).ListCertificates(certificate_pb2.ListCertificatesRequest())).SerializeToString(),
        (await rig.events.ListEvents(event_pb2.ListEventsRequest())).SerializeToString(),
        (
            await access_pb2_grpc.AuditServiceStub(rig.channel).ListAuditRecords(access_pb2.ListAuditRecordsRequest())
        ).SerializeToString(),
    ]
    await rig.stop()
    try:
        files = [path.read_bytes() for path in rig.settings.data_dir.rglob("*") if path.is_file()]
    finally:
        await rig.start()
    assert any(b"hello.example.net" in content for content in files)
    for content in (*everyone, *files):
        assert secret.encode() not in content.replace(b"\n", b"").replace(b"\\n", b"")


def pem(key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey, password: bytes = b"") -> str:
    form = serialization.PrivateFormat.PKCS8
    how = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, how).decode()


async def test_what_is_refused(rig: Rig) -> None:
    chain, key = AUTHORITY.website("hello.example.net")
    other, _ = AUTHORITY.website("other.example.net")
    for bad_chain, bad_key, why in (
        (chain, "", "private_key_pem: is missing"),
        ("", key, "chain_pem: is missing"),
        ("nonsense", key, "is no chain of PEM certificates"),
        (chain, "nonsense", "is no private key in PEM"),
        (chain, AUTHORITY.website("hello.example.net")[1], "the key does not belong to the first certificate"),
        (chain + other, key, "certificate 1 was not issued by certificate 2"),
        (AUTHORITY.pem, key, "the key does not belong"),
        (*AUTHORITY.website("hello.example.net", days=-0.001), "the certificate has ended"),
        (*AUTHORITY.website(), "it needs 1 to 200"),
        (chain, pem(rsa.generate_private_key(65537, 1024)), "RSA needs 2048"),
        (chain, pem(ed25519.Ed25519PrivateKey.generate()), "must be an ECDSA or RSA key"),
        (chain, pem(rsa.generate_private_key(65537, 2048), b"secret"), "has a passphrase"),
    ):
        with pytest.raises(grpc.aio.AioRpcError, match="certificate") as error:
            await upload(rig, bad_chain, bad_key)
        assert why in error.value.details(), (why, error.value.details())
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    await upload(rig, chain + AUTHORITY.pem, key)
    with pytest.raises(grpc.aio.AioRpcError, match="exists"):
        await upload(rig, chain, key)


def test_wildcards_stand_for_one_label() -> None:
    assert covers("*.example.net", "a.example.net")
    assert not covers("*.example.net", "example.net")
    assert not covers("*.example.net", "a.b.example.net")
    assert covers("a.example.net", "a.example.net")
