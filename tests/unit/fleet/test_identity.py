from __future__ import annotations

import datetime
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from fleet import enrol, identity
from fleet.errors import LocciError
from fleet.identity import IdentityDirectory, IdentityFacts, SpiffeId

FACTS = IdentityFacts("eu-1", "eu", "locci.test", ("10.0.0.1:7445",), "https://10.0.0.1:7443")


def self_signed(
    uris: list[str], start: datetime.datetime
) -> tuple[identity.ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = identity.new_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(hours=24))
    )
    if uris:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])
        builder = builder.add_extension(names, critical=False)
    return key, builder.sign(key, hashes.SHA256())


def test_spiffe_ids_there_and_back() -> None:
    spiffe = SpiffeId("locci.test", "eu", "eu-1")
    assert spiffe.uri() == "spiffe://locci.test/region/eu/node/eu-1"
    assert SpiffeId.parse(spiffe.uri()) == spiffe


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "https://locci.test/region/eu/node/eu-1",
        "locci.test/region/eu/node/eu-1",
        "spiffe://locci.test/node/eu-1",
        "spiffe:///region/eu/node/a",
        "spiffe://locci.test/region/eu/node/",
        "spiffe://locci.test/region/eu/node/a/b",
    ],
)
def test_what_is_no_node(uri: str) -> None:
    with pytest.raises(LocciError, match="no SPIFFE id"):
        SpiffeId.parse(uri)


def test_a_certificate_needs_exactly_one_id() -> None:
    now = datetime.datetime.now(datetime.UTC)
    good = "spiffe://locci.test/region/eu/node/eu-1"
    _, certificate = self_signed([good], now)
    assert identity.spiffe_id(certificate).node == "eu-1"
    for uris in ([], [good, good.replace("eu-1", "eu-2")]):
        with pytest.raises(LocciError, match="SPIFFE"):
            identity.spiffe_id(self_signed(uris, now)[1])


def test_a_saved_identity_is_private_and_whole(tmp_path: Path) -> None:
    directory = IdentityDirectory(tmp_path / "identity")
    assert not directory.exists()
    with pytest.raises(LocciError, match="has not joined"):
        directory.facts()
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    key, certificate = self_signed([], start)
    pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
    directory.save(FACTS, key, pem, pem)
    assert directory.exists()
    assert directory.facts() == FACTS
    assert stat.S_IMODE(directory.path.stat().st_mode) == 0o700
    assert {stat.S_IMODE(f.stat().st_mode) for f in directory.path.iterdir()} == {0o600}
    key_pem, chain = directory.key_and_chain()
    assert b"PRIVATE KEY" in key_pem
    assert b"PRIVATE KEY" not in chain
    assert not directory.renewal_due(start.timestamp() + 11 * 3600)
    assert directory.renewal_due(start.timestamp() + 13 * 3600)


@pytest.mark.parametrize(
    "token",
    ["", "locci1.x", "locci2.abcdefgh.aaaaaaaaaaaaaaaaaaaaaaaa." + "0" * 64, "locci1.abcdefgh.short." + "0" * 64],
)
def test_what_is_no_token_is_not_repeated(token: str) -> None:
    with pytest.raises(LocciError) as caught:
        enrol.parse_token(token)
    assert caught.value.reason == "MALFORMED_TOKEN"
    assert not token or token not in caught.value.message


def test_the_parts_of_a_token() -> None:
    parsed = enrol.parse_token(" locci1.abcdefgh.aaaaaaaaaaaaaaaaaaaaaaaa." + "0f" * 32 + "\n")
    assert (parsed.id, parsed.fingerprint) == ("abcdefgh", "0f" * 32)
