"""A certificate authority for tests of one program without a control plane."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from fleet import identity
from fleet.identity import SERVER_NAME, IdentityDirectory, IdentityFacts, SpiffeId

TRUST_DOMAIN = "locci.test"


class Authority:
    """Signs what a test needs."""

    def __init__(self) -> None:
        self._key = identity.new_key()
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
        self.certificate = self._sign(self._key, self._name, [], ca=True)

    @property
    def pem(self) -> str:
        """The CA's certificate."""
        return _pem(self.certificate)

    def server(self) -> tuple[bytes, bytes]:
        """Private key and certificate of a control plane, each in PEM."""
        key = identity.new_key()
        names = [x509.DNSName(SERVER_NAME), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        return identity.key_pem(key), _pem(self._sign(key, _subject("server"), names)).encode()

    def website(self, *hostnames: str, days: float = 30.0) -> tuple[str, str]:
        """Certificate and private key of a web server, each in PEM."""
        key = identity.new_key()
        names: list[x509.GeneralName] = [x509.DNSName(hostname) for hostname in hostnames]
        return _pem(self._sign(key, _subject("website"), names, days=days)), identity.key_pem(key).decode()

    def join(self, path: Path, *, node: str, region: str, endpoints: tuple[str, ...] = ()) -> IdentityDirectory:
        """The identity of a node that has joined."""
        key = identity.new_key()
        uri = x509.UniformResourceIdentifier(SpiffeId(TRUST_DOMAIN, region, node).uri())
        directory = IdentityDirectory(path)
        facts = IdentityFacts(node, region, TRUST_DOMAIN, endpoints, "https://127.0.0.1:1")
        directory.save(facts, key, _pem(self._sign(key, _subject(node), [uri])), self.pem)
        return directory

    def _sign(
        self,
        key: identity.ec.EllipticCurvePrivateKey,
        subject: x509.Name,
        names: list[x509.GeneralName],
        ca: bool = False,
        days: float = 1.0,
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256())


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
