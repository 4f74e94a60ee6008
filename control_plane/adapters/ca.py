"""The fleet's certificate authority, on the control plane's own disk (RFC 5280; SPIFFE X.509-SVID, section 2)."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Callable, Sequence
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


class FileAuthority:
    """A P-256 CA in `directory`: `ca.key`, `ca.pem`; and the control plane's own `server.pem`."""

    def __init__(self, directory: Path, trust_domain: str, node_ttl_s: float, wall: Callable[[], float]):
        self._directory = directory
        self._node_ttl = datetime.timedelta(seconds=node_ttl_s)
        self._wall = wall
        self.trust_domain = trust_domain
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not (directory / "ca.pem").exists():
            self._create()
        self._load()

    def _load(self) -> None:
        try:
            key = serialization.load_pem_private_key((self._directory / "ca.key").read_bytes(), None)
            self.ca_pem = (self._directory / "ca.pem").read_text()
            self._certificate = x509.load_pem_x509_certificate(self.ca_pem.encode())
        except (OSError, ValueError) as error:
            raise invalid("data_dir", f"{self._directory}: the CA cannot be read: {error}", "CA_UNREADABLE") from error
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key = key
        self.fingerprints: Sequence[str] = (identity.fingerprint(self._certificate),)

    def _create(self) -> None:
        key = identity.new_key()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Locci CA {self.trust_domain}")])
        usage = _key_usage(ca=True)
        certificate = (
            self._builder(name, name, key.public_key(), _CA_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        # The certificate is written last: a crash leaves either no CA or a whole one.
        write_atomic(self._directory / "ca.key", identity.key_pem(key))
        write_atomic(self._directory / "ca.pem", _pem(certificate).encode())

    def sign_report(self, report: str) -> bytes:
        """The signature under the report of a drill's run."""
        return signed_report.sign(self._key, report)

    def issue(self, csr_pem: str, *, region: str, node: str) -> Issued:
        """A certificate for client and server authentication with the node's SPIFFE id as its only name."""
        public_key = _public_key(csr_pem)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node)])
        uri = x509.UniformResourceIdentifier(SpiffeId(self.trust_domain, region, node).uri())
        certificate = self._sign(subject, public_key, [uri], self._node_ttl, client=True)
        return Issued(_pem(certificate), certificate.not_valid_after_utc.timestamp())

    def server_certificate(self, names: Sequence[str]) -> tuple[bytes, bytes]:
        """Key and chain of the control plane's listeners in PEM; renewed when half of its life is over."""
        path = self._directory / "server.pem"
        wanted = _alternative_names([SERVER_NAME, *names, "localhost", "127.0.0.1", "::1"])
        if not self._still_good(path, wanted):
            key = identity.new_key()
            subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, SERVER_NAME)])
            certificate = self._sign(subject, key.public_key(), wanted, _SERVER_LIFE, client=False)
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
            certificate.verify_directly_issued_by(self._certificate)
            held = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (OSError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
            return False
        start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        return self._now() < start + (end - start) / 2 and list(held) == list(names)

    def _now(self) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(self._wall(), datetime.UTC)

    def _builder(
        self, subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, life: datetime.timedelta
    ) -> x509.CertificateBuilder:
        now = self._now()
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATED)
            .not_valid_after(now + life)
        )

    def _sign(
        self,
        subject: x509.Name,
        public_key: ec.EllipticCurvePublicKey,
        names: Sequence[x509.GeneralName],
        life: datetime.timedelta,
        *,
        client: bool,
    ) -> x509.Certificate:
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH, *([ExtendedKeyUsageOID.CLIENT_AUTH] if client else [])]
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            self._builder(subject, self._certificate.subject, public_key, life)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(authority, critical=False)
            .sign(self._key, hashes.SHA256())
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
