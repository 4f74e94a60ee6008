"""Signatures of images in cosign's form, made with a key and pushed to a real registry.

Run as a program it pushes from where it is started: `python -m tests.fakes.signing HOST REPOSITORY DIGEST`, with the
signatures on standard input, one in a line, payload and signature in base64.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import urllib.request
from collections.abc import Iterable, Sequence

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from fleet.signatures import Signature, tag_of

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_PAYLOAD = "application/vnd.dev.cosign.simplesigning.v1+json"


def pem_of(key: PrivateKey) -> str:
    """The public half, as `cosign.pub` has it."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()


def payload_of(digest: str, name: str = "registry.test/hello") -> bytes:
    """What cosign signs."""
    image = {"docker-manifest-digest": digest}
    critical = {"identity": {"docker-reference": name}, "image": image, "type": "cosign container image signature"}
    return json.dumps({"critical": critical, "optional": None}, separators=(",", ":")).encode()


def sign(key: PrivateKey, payload: bytes) -> Signature:
    """The key's signature over a payload."""
    match key:
        case ec.EllipticCurvePrivateKey():
            return Signature(payload, key.sign(payload, ec.ECDSA(hashes.SHA256())))
        case rsa.RSAPrivateKey():
            return Signature(payload, key.sign(payload, padding.PKCS1v15(), hashes.SHA256()))
        case _:
            return Signature(payload, key.sign(payload))


def manifest_of(signatures: Sequence[Signature]) -> bytes:
    """The manifest that names the signatures."""
    layers = [
        {
            "mediaType": _PAYLOAD,
            "size": len(one.payload),
            "digest": _digest(one.payload),
            "annotations": {"dev.cosignproject.cosign/signature": base64.b64encode(one.signature).decode()},
        }
        for one in signatures
    ]
    config = {"mediaType": "application/vnd.oci.image.config.v1+json", "size": 2, "digest": _digest(b"{}")}
    return json.dumps({"schemaVersion": 2, "mediaType": _MANIFEST, "config": config, "layers": layers}).encode()


def push(host: str, repository: str, digest: str, signatures: Sequence[Signature]) -> None:
    """Puts signatures beside an image, instead of those that are there."""
    for blob in (b"{}", *(one.payload for one in signatures)):
        _, where = _ask("POST", f"http://{host}/v2/{repository}/blobs/uploads/", b"", {})
        join = "&" if "?" in where else "?"
        _ask("PUT", f"{where}{join}digest={_digest(blob)}", blob, {"Content-Type": "application/octet-stream"})
    url = f"http://{host}/v2/{repository}/manifests/{tag_of(digest)}"
    _ask("PUT", url, manifest_of(signatures), {"Content-Type": _MANIFEST})


def lines_of(signatures: Iterable[Signature]) -> str:
    """What the program reads."""
    parts = (tuple(base64.b64encode(part).decode() for part in (one.payload, one.signature)) for one in signatures)
    return "".join(f"{payload} {signature}\n" for payload, signature in parts)


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _ask(method: str, url: str, body: bytes, headers: dict[str, str]) -> tuple[int, str]:
    request = urllib.request.Request(url, data=body, headers=headers, method=method)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.status, answer.headers.get("Location", "")


if __name__ == "__main__":
    rows = [[base64.b64decode(part) for part in line.split()] for line in sys.stdin]
    push(*sys.argv[1:4], [Signature(*row) for row in rows])
