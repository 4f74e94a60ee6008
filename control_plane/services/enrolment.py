"""Enrolment: a host's first contact, and the renewal of its certificate.

A token is used up in the same transaction that creates its node: a refused enrolment leaves it as it was, and of two
at the same time one wins.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from cryptography import x509

from control_plane import decode
from control_plane.core.access import matches, secret_hash
from control_plane.ports import Issued
from control_plane.services.caller import Caller
from control_plane.services.context import Context
from control_plane.services.node_identity import authorise, identity_in
from control_plane.state import Batch
from fleet.enrol import parse_token
from fleet.errors import Code, LocciError, already_exists, invalid
from fleet.identity import fingerprint, is_recovery
from fleet.ids import NODE_ID_LENGTH_MAX, check_id, last_part
from locci.v1 import agent_pb2, enrolment_pb2, node_pb2

_NO_HASH = secret_hash("")


class EnrolmentService:
    """Implements `locci.v1.EnrolmentService`."""

    def __init__(self, context: Context):
        self._context = context
        self._state = context.state

    async def get_certificate_authority(
        self, request: enrolment_pb2.GetCertificateAuthorityRequest, caller: Caller
    ) -> enrolment_pb2.CertificateAuthority:
        authority = self._context.authority
        return enrolment_pb2.CertificateAuthority(
            certificates_pem=authority.ca_pem,
            fingerprints=authority.fingerprints,
            trust_domain=authority.trust_domain,
        )

    async def enrol(self, request: enrolment_pb2.EnrolRequest, caller: Caller) -> enrolment_pb2.EnrolResponse:
        now = self._context.clock.wall()
        # The token comes first: who has none learns nothing of what exists.
        token = self._check_token(request.token, now)
        node_id = check_id(request.node_id, "node_id", NODE_ID_LENGTH_MAX)
        addresses = check_addresses(request.addresses, "addresses")
        region = last_part(token.region)
        issued = self._context.authority.issue(request.csr_pem, region=region, node=node_id)

        def build(batch: Batch) -> bool:
            used = self._check_token(request.token, now)
            self._check_name(used, node_id)
            row = self._node(used, request, node_id, addresses, issued, now)
            replaces = row.name in self._state.nodes
            batch.put(self._state.nodes, row.name, row)
            used.use_time.CopyFrom(decode.timestamp(now))
            used.used_by = row.name
            batch.put(self._state.join_tokens, used.name, used)
            what = "joined again, in the place of the node of that name" if replaces else "joined"
            batch.event("NodeJoined", f"node {node_id} {what} in {row.region}", row.name, row.region, used.name)
            return replaces

        if await self._context.change(build):
            self._context.hub.end(node_id, agent_pb2.GOODBYE_REASON_REVOKED, "another host has taken this node's place")
            self._context.observed.forget(node_id)
        return enrolment_pb2.EnrolResponse(
            node=self._state.nodes.need(f"nodes/{node_id}"),
            certificate_pem=issued.certificate_pem,
            ca_pem=self._context.authority.ca_pem,
            node_endpoints=self._context.node_endpoints,
            trust_domain=self._context.authority.trust_domain,
        )

    def _check_token(self, text: str, now: float) -> enrolment_pb2.JoinToken:
        """A copy of the stored token that `text` stands for, or UNAUTHENTICATED with the reason."""
        parsed = parse_token(text)
        name = f"joinTokens/{parsed.id}"
        known = self._state.secrets.get(name)
        # A token that does not exist takes as long as one with a wrong secret.
        if not matches(parsed.secret, known.value if known else _NO_HASH) or name not in self._state.join_tokens:
            message = "the join token is not known here: it is mistyped, was removed, or is of another fleet"
            raise LocciError(Code.UNAUTHENTICATED, "TOKEN_UNKNOWN", message, field="token")
        row = self._state.join_tokens.copy(name)
        if row.used_by:
            when = row.use_time.ToDatetime().isoformat(timespec="seconds")
            message = f"the join token was used by {row.used_by} at {when}Z; a token is good for one host: make another"
            raise LocciError(Code.UNAUTHENTICATED, "TOKEN_USED", message, field="token")
        if decode.seconds_of(row.expire_time) <= now:
            when = row.expire_time.ToDatetime().isoformat(timespec="seconds")
            message = f"the join token expired at {when}Z; make another with `locci tokens create`"
            raise LocciError(Code.UNAUTHENTICATED, "TOKEN_EXPIRED", message, field="token")
        return row

    def _check_name(self, token: enrolment_pb2.JoinToken, node_id: str) -> None:
        if token.node_id and token.node_id != node_id:
            message = f"node_id: the token is for a node named {token.node_id}, not {node_id}; join with that name"
            raise invalid("node_id", message, "TOKEN_BOUND")
        if f"nodes/{node_id}" in self._state.nodes and token.node_id != node_id:
            message = (
                f"node {node_id} exists already: choose another name with --name, remove it with "
                f"`locci nodes rm {node_id}`, or replace it with a token bound to it (`locci tokens create --node`)"
            )
            raise already_exists(f"nodes/{node_id}", message)

    def _node(
        self,
        token: enrolment_pb2.JoinToken,
        request: enrolment_pb2.EnrolRequest,
        node_id: str,
        addresses: list[str],
        issued: Issued,
        now: float,
    ) -> node_pb2.Node:
        before = self._state.nodes.get(f"nodes/{node_id}")
        row = node_pb2.Node(
            name=f"nodes/{node_id}",
            region=token.region,
            roles=token.roles,
            cordoned=before.cordoned if before else False,
            condition=node_pb2.NODE_CONDITION_JOINING,
            condition_reason="it has joined and has not connected yet",
            condition_time=decode.timestamp(now),
            addresses=addresses,
            labels=request.labels,
            facts=request.facts,
            create_time=decode.timestamp(now),
            certificate_expire_time=decode.timestamp(issued.expire_at),
            certificate_issuer=self._context.authority.issuer,
            trusted_authorities=self._context.authority.fingerprints,
        )
        for session in before.sessions if before else ():
            row.sessions.add(role=session.role, epoch=session.epoch)
        return row

    async def renew(self, request: enrolment_pb2.RenewRequest, caller: Caller) -> enrolment_pb2.RenewResponse:
        if caller.role != "node":
            message = "certificates are renewed on the nodes' port only, with the node's own certificate"
            raise LocciError(Code.PERMISSION_DENIED, "NOT_A_NODE", message)
        return await self._renewed(last_part(caller.principal), request.csr_pem, "renewed its certificate", "")

    async def recover(self, request: enrolment_pb2.RecoverRequest, caller: Caller) -> enrolment_pb2.RenewResponse:
        unknown = LocciError(
            Code.UNAUTHENTICATED,
            "CERTIFICATE_UNKNOWN",
            "certificate_pem: this is no certificate of this fleet, or its key did not sign the request; enrol again",
        )
        try:
            certificate = x509.load_pem_x509_certificate(request.certificate_pem.encode())
        except ValueError as error:
            raise unknown from error
        ours = self._context.authority.has_issued(certificate)
        if not ours or not is_recovery(certificate, request.csr_pem, request.signature):
            raise unknown
        node = authorise(self._state, identity_in(certificate))
        ended = fingerprint(certificate)
        newest_end = decode.seconds_of(node.certificate_expire_time)
        if ended != node.recovered_from and not _is_newest(certificate, newest_end):
            # An older key, as of a stolen disk or backup, proves nothing any more.
            message = f"certificate_pem: node {last_part(node.name)} has renewed its certificate since; enrol it again"
            raise LocciError(Code.UNAUTHENTICATED, "CERTIFICATE_OLD", message)
        what = "came back with a certificate that had ended"
        return await self._renewed(last_part(node.name), request.csr_pem, what, ended)

    async def _renewed(self, node_id: str, csr_pem: str, what: str, ended: str) -> enrolment_pb2.RenewResponse:
        """`ended` is kept: whoever did not get the answer asks again with the same certificate."""
        region = last_part(self._state.nodes.need(f"nodes/{node_id}").region)
        authority = self._context.authority
        issued = authority.issue(csr_pem, region=region, node=node_id)
        issuer, trusted, ca_pem = authority.issuer, authority.fingerprints, authority.ca_pem

        def build(batch: Batch) -> None:
            row = self._state.nodes.copy(f"nodes/{node_id}")
            row.certificate_expire_time.CopyFrom(decode.timestamp(issued.expire_at))
            row.certificate_issuer = issuer
            row.trusted_authorities[:] = trusted
            row.recovered_from = ended
            batch.put(self._state.nodes, row.name, row)
            batch.event("CertificateRenewed", f"node {node_id} {what}", row.name)

        await self._context.change(build)
        return enrolment_pb2.RenewResponse(certificate_pem=issued.certificate_pem, ca_pem=ca_pem)


def _is_newest(certificate: x509.Certificate, newest_end: float) -> bool:
    """Whether it is the last one that a node was given, or the one before: the answer to its last renewal may have
    been lost. Certificates are renewed at half of their life, so the one before that ends a whole life earlier."""
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return certificate.not_valid_after_utc.timestamp() + 0.75 * life.total_seconds() >= newest_end


def check_addresses(addresses: Iterable[str], path: str) -> list[str]:
    """The addresses in their canonical form, or INVALID_ARGUMENT that names the one at fault."""
    result: list[str] = []
    for index, address in enumerate(addresses):
        try:
            result.append(str(ipaddress.ip_address(address)))
        except ValueError as error:
            at = f"{path}[{index}]"
            raise invalid(at, f"{at}: {address!r} is no IPv4 or IPv6 address") from error
    return list(dict.fromkeys(result))
