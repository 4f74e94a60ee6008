"""Signatures of images: what counts as one, and what does not."""

from __future__ import annotations

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from fleet.signatures import PAYLOAD_BYTES_MAX, SIGNATURES_MAX, Signature, layers_of, load_key, signed_by, tag_of
from tests.fakes.signing import PrivateKey, manifest_of, payload_of, pem_of, sign

DIGEST = "sha256:" + "1" * 64
KEYS: list[PrivateKey] = [
    ec.generate_private_key(ec.SECP256R1()),
    ec.generate_private_key(ec.SECP384R1()),
    ed25519.Ed25519PrivateKey.generate(),
    rsa.generate_private_key(65537, 2048),
]


@pytest.mark.parametrize("key", KEYS, ids=lambda key: type(key).__name__)
def test_a_signature_counts_for_its_key_and_image_only(key: PrivateKey) -> None:
    signature = sign(key, payload_of(DIGEST))
    own = load_key(pem_of(key))
    assert signed_by(DIGEST, [signature], [own])
    others = [load_key(pem_of(other)) for other in KEYS if other is not key]
    assert not signed_by(DIGEST, [signature], others)
    assert signed_by(DIGEST, [signature], [*others, own]), "any of the keys will do"
    assert not signed_by("sha256:" + "2" * 64, [signature], [own]), "it is for another image"
    tampered = Signature(signature.payload.replace(b"hello", b"hullo"), signature.signature)
    assert not signed_by(DIGEST, [tampered], [own])
    assert not signed_by(DIGEST, [], [own])
    assert not signed_by(DIGEST, [signature], [])


def test_what_is_signed_must_be_an_image_of_cosign() -> None:
    key = KEYS[0]
    for payload in (
        b"",
        b"[]",
        b"{}",
        b'{"critical":[]}',
        payload_of(DIGEST).replace(b"cosign container image signature", b"atomic container signature"),
        json.dumps({"critical": {"type": "cosign container image signature", "image": []}}).encode(),
        b"[" * 100_000,
    ):
        assert not signed_by(DIGEST, [sign(key, payload)], [load_key(pem_of(key))])


def test_a_manifest_names_payloads_and_signatures() -> None:
    found = [sign(KEYS[0], payload_of(DIGEST, f"registry.test/{number}")) for number in range(SIGNATURES_MAX + 5)]
    layers = layers_of(manifest_of(found))
    assert [layer.signature for layer in layers] == [one.signature for one in found[:SIGNATURES_MAX]]
    assert tag_of(DIGEST) == f"sha256-{'1' * 64}.sig"


def test_malformed_layers_count_for_nothing() -> None:
    good = json.loads(manifest_of([sign(KEYS[0], payload_of(DIGEST))]))["layers"][0]
    bad = [
        good | {"mediaType": "application/octet-stream"},
        good | {"annotations": {}},
        good | {"annotations": {"dev.cosignproject.cosign/signature": "*"}},
        good | {"size": PAYLOAD_BYTES_MAX + 1},
        good | {"digest": None},
        good | {"digest": "../../other/blobs/sha256:" + "0" * 64},
        "layer",
    ]
    assert layers_of(json.dumps({"layers": bad}).encode()) == []
    assert layers_of(b'{"layers": {}}') == []
    assert len(layers_of(json.dumps({"layers": [*bad, good]}).encode())) == 1


@given(st.binary(max_size=200), st.binary(max_size=100))
def test_garbage_is_no_signature(payload: bytes, signature: bytes) -> None:
    assert not signed_by(DIGEST, [Signature(payload, signature)], [load_key(pem_of(key)) for key in KEYS])
    assert isinstance(layers_of(payload), list)


@pytest.mark.parametrize(
    "pem",
    [
        "",
        "key",
        "-----BEGIN PUBLIC KEY-----\n" + base64.b64encode(b"x" * 90).decode() + "\n-----END PUBLIC KEY-----\n",
        "x" * 5000,
        pem_of(rsa.generate_private_key(65537, 1024)),
        pem_of(ec.generate_private_key(ec.SECP192R1())),
        pem_of(dsa.generate_private_key(2048)),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_good_key_is_refused(pem: str) -> None:
    with pytest.raises(ValueError, match=r"is no|is longer|must be"):
        load_key(pem)
