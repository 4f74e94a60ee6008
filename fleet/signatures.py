"""Signatures of images as cosign makes them with a key: what is signed, and by whom. Nothing here asks a registry.

A signature stands in the image's own repository under the tag `sha256-<digest>.sig`: an OCI manifest whose layers are
"simple signing" documents that name the image's digest, each with the signature over it in an annotation
(github.com/sigstore/cosign, specs/SIGNATURE_SPEC.md).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey

KEYS_MAX: Final = 16
KEY_LENGTH_MAX: Final = 4096
SIGNATURES_MAX: Final = 32
"""Of one image; more are not looked at."""
PAYLOAD_BYTES_MAX: Final = 64 * 1024
_RSA_BITS_MIN: Final = 2048
_ANNOTATION: Final = "dev.cosignproject.cosign/signature"
_MEDIA_TYPE: Final = "application/vnd.dev.cosign.simplesigning.v1+json"
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_KIND: Final = "cosign container image signature"
_HASHES: Final[dict[str, tuple[type[hashes.HashAlgorithm], ...]]] = {
    "secp256r1": (hashes.SHA256,),
    "secp384r1": (hashes.SHA256, hashes.SHA384),
    "secp521r1": (hashes.SHA256, hashes.SHA512),
}
"""By curve; cosign took SHA-256 for every one, and takes the curve's own since."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What was signed, and the signature over it. It proves itself, wherever it was found."""

    payload: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Layer:
    """Where in the registry a payload is, and its signature."""

    digest: str
    signature: bytes


def load_key(pem: str) -> PublicKey:
    """A public key in PEM. Raises ValueError for what is none, or of a kind or size that proves nothing."""
    if len(pem) > KEY_LENGTH_MAX:
        raise ValueError(f"is longer than {KEY_LENGTH_MAX} characters")
    try:
        key = serialization.load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("is no public key in PEM, as `cosign generate-key-pair` writes to cosign.pub") from None
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _HASHES:
        return key
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= _RSA_BITS_MIN:
        return key
    raise ValueError(f"must be ECDSA (P-256, P-384, P-521), Ed25519, or RSA of {_RSA_BITS_MIN} bits or more")


def tag_of(digest: str) -> str:
    """The tag under which the signatures of an image are."""
    return digest.replace(":", "-") + ".sig"


def layers_of(manifest: bytes) -> list[Layer]:
    """The signatures that a manifest names; what is malformed counts for nothing."""
    document = _object(manifest)
    found = document.get("layers") if document is not None else None
    layers = []
    for layer in found[:SIGNATURES_MAX] if isinstance(found, list) else ():
        if not isinstance(layer, dict) or layer.get("mediaType") != _MEDIA_TYPE:
            continue
        annotations, digest, size = layer.get("annotations"), layer.get("digest"), layer.get("size")
        text = annotations.get(_ANNOTATION) if isinstance(annotations, dict) else None
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            continue
        if isinstance(text, str) and isinstance(size, int) and size <= PAYLOAD_BYTES_MAX:
            try:
                layers.append(Layer(digest, base64.b64decode(text, validate=True)))
            except binascii.Error:
                continue
    return layers


def signed_by(digest: str, signatures: Iterable[Signature], keys: Sequence[PublicKey]) -> bool:
    """Whether one of the keys signed an image of this digest."""
    return any(
        _names(signature.payload, digest) and any(_is_by(key, signature) for key in keys) for signature in signatures
    )


def _names(payload: bytes, digest: str) -> bool:
    """Whether a payload says that an image of this digest is signed."""
    critical = (_object(payload) or {}).get("critical")
    if not isinstance(critical, dict) or critical.get("type") != _KIND:
        return False
    image = critical.get("image")
    return isinstance(image, dict) and image.get("docker-manifest-digest") == digest


def _is_by(key: PublicKey, signed: Signature) -> bool:
    algorithms = _HASHES[key.curve.name] if isinstance(key, ec.EllipticCurvePublicKey) else (hashes.SHA256,)
    return any(_verifies(key, signed, algorithm()) for algorithm in algorithms)


def _verifies(key: PublicKey, signed: Signature, algorithm: hashes.HashAlgorithm) -> bool:
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signed.signature, signed.payload, ec.ECDSA(algorithm))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signed.signature, signed.payload, padding.PKCS1v15(), algorithm)
        else:
            key.verify(signed.signature, signed.payload)
    except InvalidSignature:
        return False
    return True


def _object(text: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
