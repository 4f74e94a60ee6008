"""The first contact of a host: a join token authenticates both ways.

The token carries the fingerprint of the control plane's CA. The CA is fetched over a connection that is not
yet trusted, compared with the fingerprint, and only then trusted; the token is sent after that.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from google.protobuf import json_format

from fleet import identity
from fleet.errors import Code, LocciError, invalid
from fleet.identity import SERVER_NAME, IdentityDirectory, IdentityFacts
from locci.v1 import enrolment_pb2, node_pb2

_TOKEN = re.compile(r"locci1\.(?P<id>[a-z0-9]{8,32})\.(?P<secret>[A-Za-z0-9_-]{20,100})\.(?P<fingerprint>[0-9a-f]{64})")
_TIMEOUT = aiohttp.ClientTimeout(total=20, connect=5)


@dataclass(frozen=True, slots=True)
class ParsedToken:
    """The parts of a join token."""

    id: str
    secret: str
    fingerprint: str


def parse_token(token: str) -> ParsedToken:
    """The parts of `locci1.{id}.{secret}.{fingerprint}`, or INVALID_ARGUMENT; the secret is never repeated."""
    match = _TOKEN.fullmatch(token.strip())
    if match is None:
        raise invalid(
            "token",
            "this is not a join token: it should read locci1.ID.SECRET.FINGERPRINT; "
            "make one with `locci tokens create --region REGION`",
            "MALFORMED_TOKEN",
        )
    return ParsedToken(match["id"], match["secret"], match["fingerprint"])


def trust_context(ca_pem: str) -> ssl.SSLContext:
    """A client context that trusts `ca_pem` and nothing else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=ca_pem)
    return context


async def fetch_ca(session: aiohttp.ClientSession, server: str, fingerprint: str) -> str:
    """The PEM certificate of the CA with this fingerprint.

    Raises UNAUTHENTICATED when the server has no such CA: someone is in between, or the token is of another fleet.
    """
    answer = await _call(session.get(f"{server}/v1/ca", ssl=False), server)
    for certificate in x509.load_pem_x509_certificates(answer.get("certificates_pem", "").encode() or b"-"):
        if identity.fingerprint(certificate) == fingerprint:
            return certificate.public_bytes(serialization.Encoding.PEM).decode()
    raise LocciError(
        Code.UNAUTHENTICATED,
        "CA_MISMATCH",
        f"{server} does not hold the CA that the token names: the token is of another fleet, or someone is in between",
    )


async def join(
    *,
    server: str,
    token: str,
    node_id: str,
    addresses: Sequence[str],
    directory: IdentityDirectory,
    facts: node_pb2.NodeFacts,
    labels: Mapping[str, str] | None = None,
) -> IdentityFacts:
    """Joins the fleet of `server` (an https URL) and saves the identity in `directory`.

    Raises FAILED_PRECONDITION when the host has joined already, UNAUTHENTICATED when the token or the server is
    wrong, ALREADY_EXISTS when the node id is taken, UNAVAILABLE when the server cannot be reached. Nothing is
    saved unless all went well.
    """
    parsed = parse_token(token)
    if directory.exists():
        held = directory.facts()
        raise LocciError(
            Code.FAILED_PRECONDITION,
            "ALREADY_JOINED",
            f"this host is node {held.node} in region {held.region} already; to join anew remove {directory.path}",
        )
    server = server.rstrip("/")
    if not server.startswith("https://"):
        raise invalid("server", f"server: {server!r} must be an https:// URL, as in https://control.example.net:7443")
    key = identity.new_key()
    request = enrolment_pb2.EnrolRequest(
        token=token.strip(),
        csr_pem=identity.signing_request(key, node_id),
        node_id=node_id,
        addresses=addresses,
        facts=facts,
        labels=labels or {},
    )
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
        ca_pem = await fetch_ca(session, server, parsed.fingerprint)
        body = json_format.MessageToDict(request, preserving_proto_field_name=True)
        call = session.post(
            f"{server}/v1/nodes:enrol", json=body, ssl=trust_context(ca_pem), server_hostname=SERVER_NAME
        )
        answer = enrolment_pb2.EnrolResponse()
        json_format.ParseDict(await _call(call, server), answer, ignore_unknown_fields=True)
    region = answer.node.region.rsplit("/", 1)[-1]
    node = answer.node.name.rsplit("/", 1)[-1]
    result = IdentityFacts(node, region, answer.trust_domain, tuple(answer.node_endpoints), server)
    directory.save(result, key, answer.certificate_pem, answer.ca_pem)
    return result


async def recover(directory: IdentityDirectory) -> None:
    """Replaces an identity whose certificate has ended, as after days without a control plane.

    Its key proves who asks, so nobody has to come by. Raises PERMISSION_DENIED when the node was revoked or removed
    meanwhile, UNAUTHENTICATED when the certificate is not the newest, UNAVAILABLE when the server cannot be reached.
    """
    facts, key = directory.facts(), identity.new_key()
    csr_pem = identity.signing_request(key, facts.node)
    request = enrolment_pb2.RecoverRequest(
        certificate_pem=directory.key_and_chain()[1].decode(),
        csr_pem=csr_pem,
        signature=directory.recovery_signature(csr_pem),
    )
    body = json_format.MessageToDict(request, preserving_proto_field_name=True)
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
        tls = trust_context(directory.ca_pem.read_text())
        call = session.post(f"{facts.server}/v1/nodes:recover", json=body, ssl=tls, server_hostname=SERVER_NAME)
        answer = enrolment_pb2.RenewResponse()
        json_format.ParseDict(await _call(call, facts.server), answer, ignore_unknown_fields=True)
    directory.renew(key, answer.certificate_pem, answer.ca_pem)


async def _call(pending: Any, server: str) -> dict[str, Any]:
    """The JSON answer, or the error that its problem document describes."""
    try:
        async with pending as response:
            answer: dict[str, Any] = await response.json(content_type=None)
            status = response.status
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        reason = str(error) or type(error).__name__
        raise LocciError(Code.UNAVAILABLE, "SERVER_UNREACHABLE", f"{server} cannot be reached: {reason}") from error
    except ValueError as error:
        raise LocciError(Code.UNAVAILABLE, "NOT_A_SERVER", f"{server} does not answer as a locci server") from error
    if status >= 400:
        code = next((c for c in Code if c.name == answer.get("code")), Code.INTERNAL)
        raise LocciError(code, answer.get("reason", "UNKNOWN"), answer.get("detail", f"status {status}"))
    return answer
