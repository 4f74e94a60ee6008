"""The fleet's certificate authorities (RFC 5280; SPIFFE X.509-SVID, section 2)."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from control_plane.ports import Issued
from fleet import identity, signed_report
from fleet.errors import invalid
from fleet.files import write_atomic
from fleet.identity import SERVER_NAME, SpiffeId

_CA_LIFE: Final = datetime.timedelta(days=3650)
_SERVER_LIFE: Final = datetime.timedelta(days=397)
_BACKDATED: Final = datetime.timedelta(minutes=5)
"""Certificates begin this much earlier, for nodes whose clocks are behind."""


@dataclass(frozen=True, slots=True)
class Signer:
    """An authority's private key and certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate, hexadecimal."""
        return identity.fingerprint(self.certificate)

    @classmethod
    def parse(cls, key_pem: bytes, certificate_pem: str) -> Signer:
        """Raises ValueError."""
        key = serialization.load_pem_private_key(key_pem, None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError("the key is not on an elliptic curve")
        return cls(key, x509.load_pem_x509_certificate(certificate_pem.encode()))

    @classmethod
    def create(cls, trust_domain: str, now: float) -> Signer:
        """A new P-256 authority; `now` is seconds since 1970."""
        key = identity.new_key()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Locci CA {trust_domain}")])
        certificate = (
            _builder(name, name, key.public_key(), _CA_LIFE, now)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(ca=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(key, certificate)

    def key_pem(self) -> bytes:
        """The private key in PEM."""
        return identity.key_pem(self.key)

    def certificate_pem(self) -> str:
        """The certificate in PEM."""
        return _pem(self.certificate)


class FleetAuthority:
    """A `CertificateAuthority`. Whom it signs with, and whom the fleet trusts, is what `use` was told last."""

    def __init__(self, directory: Path, trust_domain: str, node_ttl_s: float, wall: Callable[[], float]):
        """`directory` keeps the control plane's own `server.pem`."""
        self._directory = directory
        self._node_ttl = datetime.timedelta(seconds=node_ttl_s)
        self._wall = wall
        self.trust_domain = trust_domain

    def use(self, nodes: Signer, server: Signer, trusted: Sequence[Signer]) -> None:
        """Certificates of nodes come from `nodes`, the control plane's own from `server`, which stays trusted by all
        until it is the same; `server` is the first in what is given out."""
        self._nodes, self._server = nodes, server
        ordered = [server, *(signer for signer in trusted if signer.fingerprint != server.fingerprint)]
        self.ca_pem = "".join(signer.certificate_pem() for signer in ordered)
        self.fingerprints: Sequence[str] = tuple(signer.fingerprint for signer in ordered)
        self.issuer = nodes.fingerprint
        self._trusted = ordered

    def has_issued(self, certificate: x509.Certificate) -> bool:
        """Whether an authority that is trusted now signed a certificate, however long ago."""
        for signer in self._trusted:
            try:
                certificate.verify_directly_issued_by(signer.certificate)
            except (ValueError, TypeError, InvalidSignature):
                continue
            return True
        return False

    def sign_report(self, report: str) -> bytes:
        """The signature under the report of a drill's run."""
        return signed_report.sign(self._server.key, report)

    def issue(self, csr_pem: str, *, region: str, node: str) -> Issued:
        """A certificate for client and server authentication with the node's SPIFFE id as its only name."""
        public_key = _public_key(csr_pem)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node)])
        uri = x509.UniformResourceIdentifier(SpiffeId(self.trust_domain, region, node).uri())
        certificate = self._sign(self._nodes, subject, public_key, [uri], self._node_ttl, client=True)
        return Issued(_pem(certificate), certificate.not_valid_after_utc.timestamp())

    def server_certificate(self, names: Sequence[str]) -> tuple[bytes, bytes]:
        """Key and chain of the control plane's listeners in PEM; renewed when half of its life is over."""
        path = self._directory / "server.pem"
        wanted = _alternative_names([SERVER_NAME, *names, "localhost", "127.0.0.1", "::1"])
        if not self._still_good(path, wanted):
            key = identity.new_key()
            subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, SERVER_NAME)])
            certificate = self._sign(self._server, subject, key.public_key(), wanted, _SERVER_LIFE, client=False)
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomic(path, identity.key_pem(key) + _pem(certificate).encode())
        content = path.read_bytes()
        start = content.index(b"-----BEGIN CERTIFICATE-----")
        return content[:start], content[start:]

    @property
    def server_pem(self) -> Path:
        """The file that `server_certificate` keeps: private key and certificate."""
        return self._directory / "server.pem"

    def _still_good(self, path: Path, names: Sequence[x509.GeneralName]) -> bool:
        try:
            certificate = x509.load_pem_x509_certificate(path.read_bytes())
            certificate.verify_directly_issued_by(self._server.certificate)
            held = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (OSError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
            return False
        start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        return self._now() < start + (end - start) / 2 and list(held) == list(names)

    def _now(self) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(self._wall(), datetime.UTC)

    def _sign(
        self,
        signer: Signer,
        subject: x509.Name,
        public_key: ec.EllipticCurvePublicKey,
        names: Sequence[x509.GeneralName],
        life: datetime.timedelta,
        *,
        client: bool,
    ) -> x509.Certificate:
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH, *([ExtendedKeyUsageOID.CLIENT_AUTH] if client else [])]
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key())
        return (
            _builder(subject, signer.certificate.subject, public_key, life, self._wall())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(authority, critical=False)
            .sign(signer.key, hashes.SHA256())
        )


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, life: datetime.timedelta, now: float
) -> x509.CertificateBuilder:
    begin = datetime.datetime.fromtimestamp(now, datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin - _BACKDATED)
        .not_valid_after(begin + life)
    )


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _public_key(csr_pem: str) -> ec.EllipticCurvePublicKey:
    """The public key of a request that its owner has signed (RFC 2986, section 3)."""
    try:
        request = x509.load_pem_x509_csr(csr_pem.encode())
        valid, key = request.is_signature_valid, request.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise invalid("csr_pem", f"csr_pem: this is no PEM certificate request: {error}") from error
    if not valid:
        raise invalid("csr_pem", "csr_pem: its signature does not match its key")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise invalid("csr_pem", "csr_pem: the key must be on the curve P-256")
    return key


def _alternative_names(names: Sequence[str]) -> list[x509.GeneralName]:
    result: list[x509.GeneralName] = []
    for name in dict.fromkeys(names):
        try:
            result.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            try:
                result.append(x509.DNSName(name))
            except ValueError as error:
                raise invalid("advertise", f"advertise: {name!r} is no host name or address") from error
    return list(dict.fromkeys(result))


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
