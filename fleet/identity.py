"""A node's identity on its own disk, and the TLS contexts that follow from it.

One directory, 0700: `node.pem` (private key and certificate together, so that renewal is one rename),
`ca.pem` and `identity.json`. The private key is made here and never leaves the host.
SPIFFE ids: github.com/spiffe/spiffe, standards/SPIFFE-ID.md, section 2.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import ssl
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fleet.errors import Code, LocciError
from fleet.files import write_atomic

SERVER_NAME: Final = "locci-server"
"""The DNS name in every control-plane certificate; clients demand it at whatever address they dial."""


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """Who a node certificate speaks for."""

    trust_domain: str
    region: str
    node: str

    def uri(self) -> str:
        """`spiffe://<trust domain>/region/<region>/node/<node>`."""
        return f"spiffe://{self.trust_domain}/region/{self.region}/node/{self.node}"

    @classmethod
    def parse(cls, uri: str) -> SpiffeId:
        """The id in a URI. Raises UNAUTHENTICATED when it is none of a node."""
        match uri.removeprefix("spiffe://").split("/"):
            case [domain, "region", region, "node", node] if uri.startswith("spiffe://") and domain and region and node:
                return cls(domain, region, node)
        raise LocciError(Code.UNAUTHENTICATED, "NOT_A_NODE", f"{uri!r} is no SPIFFE id of a node")


def spiffe_id(certificate: x509.Certificate) -> SpiffeId:
    """The id that a certificate speaks for. Raises UNAUTHENTICATED when it has none."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise LocciError(Code.UNAUTHENTICATED, "NOT_A_NODE", "the certificate has no SPIFFE id")
    return SpiffeId.parse(uris[0])


def fingerprint(certificate: x509.Certificate) -> str:
    """Lower-case hexadecimal SHA-256 of the certificate's DER form."""
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The key in PEM, PKCS #8, without a passphrase."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def signing_request(key: ec.EllipticCurvePrivateKey, common_name: str) -> str:
    """A PEM certificate request; the control plane takes nothing but its public key (RFC 2986)."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def is_recovery(certificate: x509.Certificate, csr_pem: str, signature: bytes) -> bool:
    """Whether whoever holds the certificate's key asks for another one with `csr_pem`."""
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return False
    try:
        key.verify(signature, _recovery(csr_pem), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def _recovery(csr_pem: str) -> bytes:
    return b"locci-recover-v1\0" + csr_pem.encode()


@dataclass(frozen=True, slots=True)
class IdentityFacts:
    """What a host knows about its own place in the fleet."""

    node: str
    region: str
    trust_domain: str
    node_endpoints: tuple[str, ...]
    server: str


class IdentityDirectory:
    """The identity of this host on disk, shared by the programs that run on it."""

    def __init__(self, path: Path):
        self.path = path

    @property
    def node_pem(self) -> Path:
        """Private key and certificate."""
        return self.path / "node.pem"

    @property
    def ca_pem(self) -> Path:
        """Certificates of the CAs to trust."""
        return self.path / "ca.pem"

    def exists(self) -> bool:
        """Whether the host has joined."""
        return (self.path / "identity.json").exists() and self.node_pem.exists()

    def facts(self) -> IdentityFacts:
        """Node, region and where to dial. Raises FAILED_PRECONDITION when the host has not joined."""
        try:
            values = json.loads((self.path / "identity.json").read_text())
        except FileNotFoundError:
            raise LocciError(
                Code.FAILED_PRECONDITION,
                "NOT_JOINED",
                f"this host has not joined a fleet ({self.path} is empty): "
                "run `locci agent join --server URL --token TOKEN`",
            ) from None
        values["node_endpoints"] = tuple(values["node_endpoints"])
        return IdentityFacts(**values)

    def certificate(self) -> x509.Certificate:
        """The node's certificate."""
        return x509.load_pem_x509_certificate(self.node_pem.read_bytes())

    def key_and_chain(self) -> tuple[bytes, bytes]:
        """Private key and certificate, each in PEM."""
        content = self.node_pem.read_bytes()
        start = content.index(b"-----BEGIN CERTIFICATE-----")
        return content[:start], content[start:]

    def save(self, facts: IdentityFacts, key: ec.EllipticCurvePrivateKey, certificate_pem: str, ca_pem: str) -> None:
        """Takes an identity on; `identity.json` is written last, so that a crash leaves none or a whole one."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.renew(key, certificate_pem, ca_pem)
        write_atomic(self.path / "identity.json", json.dumps(asdict(facts), indent=2).encode())

    def renew(self, key: ec.EllipticCurvePrivateKey, certificate_pem: str, ca_pem: str) -> None:
        """Replaces key, certificate and trusted CAs."""
        write_atomic(self.ca_pem, ca_pem.encode())
        write_atomic(self.node_pem, key_pem(key) + certificate_pem.encode())

    def renewal_due(self, now_s: float) -> bool:
        """Whether half of the certificate's life is over at `now_s`, seconds since 1970."""
        certificate = self.certificate()
        start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        return datetime.datetime.fromtimestamp(now_s, datetime.UTC) > start + (end - start) / 2

    def has_ended(self, now_s: float) -> bool:
        """Whether the certificate is no longer good at `now_s`, seconds since 1970."""
        return datetime.datetime.fromtimestamp(now_s, datetime.UTC) >= self.certificate().not_valid_after_utc

    def recovery_signature(self, csr_pem: str) -> bytes:
        """Proves to whom this identity was given, for a new certificate in its place."""
        key = serialization.load_pem_private_key(self.key_and_chain()[0], None)
        assert isinstance(key, ec.EllipticCurvePrivateKey), "identities have keys of that kind only"
        return key.sign(_recovery(csr_pem), ec.ECDSA(hashes.SHA256()))

    def trusted(self) -> set[str]:
        """Fingerprints of the authorities that this host trusts."""
        return {fingerprint(found) for found in x509.load_pem_x509_certificates(self.ca_pem.read_bytes())}

    def issued_by(self, authority: str) -> bool:
        """Whether the trusted authority with this fingerprint signed the node's certificate."""
        own = self.certificate()
        for found in x509.load_pem_x509_certificates(self.ca_pem.read_bytes()):
            if fingerprint(found) == authority:
                try:
                    own.verify_directly_issued_by(found)
                except (ValueError, TypeError, InvalidSignature):
                    return False
                return True
        return False

    def peer_server_context(self) -> ssl.SSLContext:
        """For the listener that other edges call: a certificate of our CA is demanded."""
        return self._peer_context(ssl.PROTOCOL_TLS_SERVER)

    def peer_client_context(self) -> ssl.SSLContext:
        """For calls to other edges; whose certificate it is must be checked by `peer_id`."""
        return self._peer_context(ssl.PROTOCOL_TLS_CLIENT)

    def _peer_context(self, protocol: int) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(self.node_pem)
        context.load_verify_locations(self.ca_pem)
        return context


def peer_id(tls: ssl.SSLObject | ssl.SSLSocket) -> SpiffeId:
    """The SPIFFE id of the other end of a verified connection. Raises UNAUTHENTICATED when it has none."""
    der = tls.getpeercert(binary_form=True)
    if not der:
        raise LocciError(Code.UNAUTHENTICATED, "NOT_A_NODE", "the peer has no certificate")
    return spiffe_id(x509.load_der_x509_certificate(der))
