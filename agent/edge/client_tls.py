"""What clients are shown over TLS: the certificate for the name that they ask for (SNI, RFC 6066, section 3)."""

from __future__ import annotations

import datetime
import os
import ssl
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent.edge.core.routing import Certificate, certificate_for

CONTEXTS_MAX: Final = 1000
DEFAULT_NAME: Final = "no certificate for this name - Locci edge default"
_DEFAULT_DAYS: Final = 30
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: forward secrecy and authenticated encryption only (RFC 9325, section 4.2)."""
ALPN: Final = ("h2", "http/1.1")
log = structlog.get_logger()


class ClientTls:
    """Contexts by certificate, made when they are first asked for; those that were not for long are forgotten.

    `context` is for listeners. Connections keep what they were shown when certificates change.
    """

    def __init__(self, wall: float):
        self.refused = 0
        """Handshakes for which the certificate could not be used."""
        self._by_name: Mapping[str, Certificate] = {}
        self._contexts: OrderedDict[str, ssl.SSLContext] = OrderedDict()
        self.context = _context(*_default(wall))
        self.context.sni_callback = self._choose

    def take(self, by_name: Mapping[str, Certificate]) -> None:
        """Shows these from now on."""
        kept = {certificate.chain_pem for certificate in by_name.values()}
        self._by_name = by_name
        self._contexts = OrderedDict((chain, made) for chain, made in self._contexts.items() if chain in kept)

    def _choose(self, tls: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> int | None:
        """The callback of the handshake. A name without a certificate is shown the default one, which says so."""
        certificate = certificate_for(self._by_name, (name or "").lower())
        if certificate is not None:
            made = self._contexts.get(certificate.chain_pem)
            if made is None:
                try:
                    made = _context(certificate.chain_pem, certificate.key_pem)
                except (ssl.SSLError, OSError, ValueError) as error:
                    self.refused += 1
                    log.error("a certificate cannot be used", certificate=certificate.name, reason=str(error))
                    return None
                while len(self._contexts) >= CONTEXTS_MAX:
                    self._contexts.popitem(last=False)
                self._contexts[certificate.chain_pem] = made
            self._contexts.move_to_end(certificate.chain_pem)
            tls.context = made
        return None


def _context(chain_pem: str, key_pem: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(list(ALPN))
    with _Memory(chain_pem) as chain, _Memory(key_pem) as key:
        context.load_cert_chain(chain, key)
    return context


class _Memory:
    """A file that is nowhere on a disk: `ssl` takes keys by path only."""

    def __init__(self, text: str):
        self._text = text

    def __enter__(self) -> str:
        self._file = os.memfd_create("tls")
        os.write(self._file, self._text.encode())
        return f"/proc/self/fd/{self._file}"

    def __exit__(self, *_: object) -> None:
        os.close(self._file)


def _default(wall: float) -> tuple[str, str]:
    """A certificate that nobody trusts, for clients that ask for a name without one; it lives in memory only."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, DEFAULT_NAME)])
    begin = datetime.datetime.fromtimestamp(wall, datetime.UTC) - datetime.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=_DEFAULT_DAYS))
        .sign(key, hashes.SHA256())
    )
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    return certificate.public_bytes(pem).decode(), key.private_bytes(pem, form, plain).decode()
