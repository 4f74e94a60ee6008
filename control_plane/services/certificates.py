"""Certificates for clients at the edge: uploaded, replaced, removed; their keys are never given out."""

from __future__ import annotations

from typing import Final

from google.protobuf import empty_pb2

from control_plane import certificates, decode
from control_plane.core.acme import zone_of
from control_plane.services import listing
from control_plane.services.caller import Caller
from control_plane.services.context import Context
from control_plane.services.edit import check_etag
from control_plane.state import Batch
from fleet.errors import already_exists, failed_precondition, invalid
from fleet.ids import check_hostname, check_id, last_part, parse
from locci.v1 import certificate_pb2

_ID_LENGTH_MAX: Final = 63
_NAMES_MAX: Final = 100
"""Of one order, as public authorities bound it."""


class CertificateService:
    """Implements `locci.v1.CertificateService`."""

    def __init__(self, context: Context):
        self._context = context
        self._state = context.state

    async def list_certificates(
        self, request: certificate_pb2.ListCertificatesRequest, caller: Caller
    ) -> certificate_pb2.ListCertificatesResponse:
        rows, token = listing.page(request, self._state.certificates.items())
        return certificate_pb2.ListCertificatesResponse(certificates=rows, next_page_token=token)

    async def get_certificate(
        self, request: certificate_pb2.GetCertificateRequest, caller: Caller
    ) -> certificate_pb2.Certificate:
        parse(request.name, "certificates/*")
        return self._state.certificates.need(request.name)

    async def create_certificate(
        self, request: certificate_pb2.CreateCertificateRequest, caller: Caller
    ) -> certificate_pb2.Certificate:
        async def act() -> certificate_pb2.Certificate:
            name = f"certificates/{check_id(request.certificate_id, 'certificate_id', _ID_LENGTH_MAX)}"
            row = certificate_pb2.Certificate(name=name, chain_pem=request.certificate.chain_pem)
            row.create_time.CopyFrom(decode.timestamp(self._context.clock.wall()))
            automatic = request.certificate.automatic
            key_pem = self._wish(row, request.certificate) if automatic else self._examine(row, request.certificate)

            def build(batch: Batch) -> None:
                if name in self._state.certificates:
                    raise already_exists(name)
                if not request.validate_only:
                    self._put(batch, row, key_pem)
                    how = "asked for" if automatic else "uploaded"
                    message = f"{caller.principal} {how} {name} for {', '.join(row.hostnames)}"
                    batch.event("CertificateCreated", message, name)

            await self._context.change(build)
            return row if request.validate_only else self._state.certificates.need(name)

        return await self._context.idempotency.once(caller.principal, request, act)  # type: ignore[no-any-return]

    async def update_certificate(
        self, request: certificate_pb2.UpdateCertificateRequest, caller: Caller
    ) -> certificate_pb2.Certificate:
        async def act() -> certificate_pb2.Certificate:
            given = request.certificate
            parse(given.name, "certificates/*", "certificate.name")
            row = self._state.certificates.copy(given.name)
            if row.automatic:
                message = f"{given.name} is ordered by the fleet itself: upload yours under another name"
                raise failed_precondition("AUTOMATIC", message)
            row.chain_pem = given.chain_pem
            key_pem = self._examine(row, given)

            def build(batch: Batch) -> None:
                self._state.certificates.need(given.name)
                check_etag(given.name, given.etag, self._state.certificates.revision(given.name))
                if not request.validate_only:
                    self._put(batch, row, key_pem)
                    message = f"{caller.principal} replaced {given.name}; it ends {row.expire_time.ToJsonString()}"
                    batch.event("CertificateUpdated", message, given.name)

            await self._context.change(build)
            return row if request.validate_only else self._state.certificates.need(given.name)

        return await self._context.idempotency.once(caller.principal, request, act)  # type: ignore[no-any-return]

    async def renew_certificate(
        self, request: certificate_pb2.RenewCertificateRequest, caller: Caller
    ) -> certificate_pb2.Certificate:
        parse(request.name, "certificates/*")

        def build(batch: Batch) -> None:
            row = self._state.certificates.copy(request.name)
            if not row.automatic:
                message = f"{request.name} was uploaded: `locci certificates replace` puts another in its place"
                raise failed_precondition("NOT_AUTOMATIC", message)
            row.order_time.CopyFrom(decode.timestamp(self._context.clock.wall()))
            batch.put(self._state.certificates, row.name, row)
            batch.event("CertificateRenewalAsked", f"{caller.principal} has {row.name} ordered anew", row.name)

        await self._context.change(build)
        return self._state.certificates.need(request.name)

    async def delete_certificate(
        self, request: certificate_pb2.DeleteCertificateRequest, caller: Caller
    ) -> empty_pb2.Empty:
        parse(request.name, "certificates/*")

        def build(batch: Batch) -> None:
            self._state.certificates.need(request.name)
            batch.delete(self._state.certificates, request.name)
            batch.delete(self._state.certificate_keys, request.name)
            batch.event("CertificateDeleted", f"{caller.principal} removed {request.name}", request.name)

        await self._context.change(build)
        return empty_pb2.Empty()

    def _wish(self, row: certificate_pb2.Certificate, given: certificate_pb2.Certificate) -> bytes:
        """A certificate to be ordered: what is known of it by now, and no key."""
        if given.chain_pem or given.private_key_pem:
            raise invalid("certificate.chain_pem", "certificate.chain_pem: an automatic certificate is given none")
        if not 1 <= len(given.hostnames) <= _NAMES_MAX:
            raise invalid("certificate.hostnames", f"certificate.hostnames: name 1 to {_NAMES_MAX} host names")
        origins = [last_part(name) for name in self._state.zones]
        for index, hostname in enumerate(given.hostnames):
            path = f"certificate.hostnames[{index}]"
            plain = check_hostname(hostname.removeprefix("*."), path)
            if zone_of(plain, origins) is None:
                message = f"{path}: {hostname} is in no zone that this fleet answers for; create its zone first"
                raise failed_precondition("NO_ZONE", message)
            row.hostnames.append(f"*.{plain}" if hostname.startswith("*.") else plain)
        row.automatic = row.wanted = True
        row.order_time.CopyFrom(row.create_time)
        return b""

    def _examine(self, row: certificate_pb2.Certificate, given: certificate_pb2.Certificate) -> bytes:
        found = certificates.examine(row.chain_pem, given.private_key_pem, self._context.clock.wall())
        certificates.describe(row, found)
        return found.key_pem

    def _put(self, batch: Batch, row: certificate_pb2.Certificate, key_pem: bytes) -> None:
        batch.put(self._state.certificates, row.name, row)
        if not key_pem:
            return
        sealed = certificates.seal_key(self._context.vault, row.name, key_pem)
        batch.put(self._state.certificate_keys, row.name, sealed)
