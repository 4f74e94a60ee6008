"""Operators' tokens, and the audit."""

from __future__ import annotations

import re
import secrets
from typing import Final

from google.protobuf import empty_pb2
from google.protobuf.wrappers_pb2 import StringValue

from control_plane import decode
from control_plane.core.access import OperatorToken, secret_hash
from control_plane.services import listing
from control_plane.services.caller import Caller
from control_plane.services.context import Context
from control_plane.services.guard import fields_of
from control_plane.state import Batch
from fleet.audit import verify_chain
from fleet.errors import LocciError, failed_precondition, invalid
from fleet.ids import parse
from locci.v1 import access_pb2

ROLE_PREFIX: Final = "OPERATOR_ROLE_"
_TTL_S: Final = 90 * 86_400.0
_TTL_S_MAX: Final = 3_650 * 86_400.0
_SCOPE: Final = re.compile(r"apps/[a-z0-9*?-]{1,60}")
_SCOPES_MAX: Final = 50
_NAME_MAX: Final = 100


class OperatorTokenService:
    """Implements `locci.v1.OperatorTokenService`."""

    def __init__(self, context: Context):
        self._context = context
        self._state = context.state

    async def create_operator_token(
        self, request: access_pb2.CreateOperatorTokenRequest, caller: Caller
    ) -> access_pb2.OperatorToken:
        async def act() -> access_pb2.OperatorToken:
            fresh = OperatorToken(secrets.token_hex(6), secrets.token_urlsafe(32))
            row = self._row(fresh.id, request.operator_token, caller)

            def build(batch: Batch) -> None:
                batch.put(self._state.operator_tokens, row.name, row, 0)
                batch.put(self._state.secrets, row.name, StringValue(value=secret_hash(fresh.secret)), 0)
                role = access_pb2.OperatorRole.Name(row.role).removeprefix(ROLE_PREFIX).lower()
                message = (
                    f"{caller.principal} made a token with the role {role} for {row.display_name or 'nobody named'}"
                )
                batch.event("OperatorTokenCreated", message, row.name)

            await self._context.change(build)
            shown = access_pb2.OperatorToken()
            shown.CopyFrom(self._state.operator_tokens.need(row.name))
            shown.token = fresh.text()
            return shown

        given = f"{caller.principal}/{request.request_id}"
        if request.request_id and given in self._seen:
            message = "a token was made for this request_id already; its secret is shown once: make another"
            raise failed_precondition("TOKEN_SHOWN", message)
        if not request.request_id:
            return await act()
        self._seen.add(given)
        try:
            return await act()
        except LocciError:
            # Nothing was made: the request may be mended and sent again.
            self._seen.discard(given)
            raise

    @property
    def _seen(self) -> set[str]:
        return self._context.token_requests

    def _row(self, identifier: str, given: access_pb2.OperatorToken, caller: Caller) -> access_pb2.OperatorToken:
        path = "operator_token"
        if not given.role or given.role not in access_pb2.OperatorRole.values():
            raise invalid(f"{path}.role", f"{path}.role: say what it may do: viewer, deployer, operator or admin")
        ttl_s = decode.span_s(given.ttl) or _TTL_S
        if not 1 <= ttl_s <= _TTL_S_MAX:
            raise invalid(f"{path}.ttl", f"{path}.ttl: {ttl_s:g} s must be from 1 s to 10 years")
        if len(given.display_name) > _NAME_MAX:
            raise invalid(f"{path}.display_name", f"{path}.display_name: longer than {_NAME_MAX} characters")
        wrong = next((scope for scope in given.scopes if not _SCOPE.fullmatch(scope)), None)
        if wrong is not None or len(given.scopes) > _SCOPES_MAX:
            message = f"{path}.scopes: {wrong!r}: give at most {_SCOPES_MAX} patterns such as apps/shop-*"
            raise invalid(f"{path}.scopes", message)
        now = self._context.clock.wall()
        row = access_pb2.OperatorToken(
            name=f"operatorTokens/{identifier}",
            display_name=given.display_name,
            role=given.role,
            scopes=given.scopes,
            creator=caller.principal,
        )
        row.create_time.CopyFrom(decode.timestamp(now))
        row.expire_time.CopyFrom(decode.timestamp(now + ttl_s))
        return row

    async def list_operator_tokens(
        self, request: access_pb2.ListOperatorTokensRequest, caller: Caller
    ) -> access_pb2.ListOperatorTokensResponse:
        rows = [(name, self._shown(row)) for name, row in self._state.operator_tokens.items()]
        found, token = listing.page(request, rows)
        return access_pb2.ListOperatorTokensResponse(operator_tokens=found, next_page_token=token)

    def _shown(self, row: access_pb2.OperatorToken) -> access_pb2.OperatorToken:
        used = self._context.last_use.get(row.name)
        if used is None:
            return row
        result = access_pb2.OperatorToken()
        result.CopyFrom(row)
        result.last_use_time.CopyFrom(decode.timestamp(used))
        return result

    async def delete_operator_token(
        self, request: access_pb2.DeleteOperatorTokenRequest, caller: Caller
    ) -> empty_pb2.Empty:
        parse(request.name, "operatorTokens/*")

        def build(batch: Batch) -> None:
            # The first token of a control plane has a secret but no row: it can be taken back all the same.
            self._state.secrets.need(request.name)
            batch.delete(self._state.secrets, request.name)
            batch.delete(self._state.operator_tokens, request.name)
            batch.event("OperatorTokenDeleted", f"{caller.principal} took back {request.name}", request.name)

        await self._context.change(build)
        return empty_pb2.Empty()


class AuditService:
    """Implements `locci.v1.AuditService`."""

    def __init__(self, context: Context):
        self._state = context.state

    async def list_audit_records(
        self, request: access_pb2.ListAuditRecordsRequest, caller: Caller
    ) -> access_pb2.ListAuditRecordsResponse:
        found, token = listing.page(request, self._state.audit_records.items())
        return access_pb2.ListAuditRecordsResponse(audit_records=found, next_page_token=token)

    async def verify_audit(
        self, request: access_pb2.VerifyAuditRequest, caller: Caller
    ) -> access_pb2.VerifyAuditResponse:
        records = self._state.audit_records.values()
        problem = verify_chain(map(fields_of, records))
        head = records[-1].hash if records else ""
        return access_pb2.VerifyAuditResponse(whole=not problem, problem=problem, records=len(records), head=head)
