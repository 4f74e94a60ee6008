"""Join tokens: handed out here, used up by enrolment."""

from __future__ import annotations

import secrets
from typing import Any, Final

from google.protobuf import empty_pb2
from google.protobuf.wrappers_pb2 import StringValue

from control_plane import decode
from control_plane.core.access import secret_hash
from control_plane.services import listing
from control_plane.services.caller import Caller
from control_plane.services.context import Context
from control_plane.state import Batch
from fleet.errors import Code, LocciError, invalid
from fleet.ids import NODE_ID_LENGTH_MAX, check_id, last_part, parse
from locci.v1 import enrolment_pb2, node_pb2

TTL_S_DEFAULT: Final = 3600.0
TTL_S_MAX: Final = 30 * 86_400.0
TOKENS_MAX: Final = 10_000

_ROLES: Final = (node_pb2.NODE_ROLE_EDGE, node_pb2.NODE_ROLE_DNS)


class JoinTokenService:
    """Implements `locci.v1.JoinTokenService`."""

    def __init__(self, context: Context):
        self._context = context
        self._state = context.state
        self._request_ids: dict[tuple[str, str], None] = {}

    async def create_join_token(
        self, request: enrolment_pb2.CreateJoinTokenRequest, caller: Caller
    ) -> enrolment_pb2.JoinToken:
        self._refuse_repeat(request, caller)
        token_id = secrets.token_hex(6)
        secret = secrets.token_urlsafe(32)
        row = self._token(request.join_token, token_id)

        def build(batch: Batch) -> None:
            self._state.regions.need(row.region)
            self._prune(batch)
            batch.put(self._state.join_tokens, row.name, row, 0)
            batch.put(self._state.secrets, row.name, StringValue(value=secret_hash(secret)), 0)
            batch.event("JoinTokenCreated", f"{caller.principal} created {row.name}", row.name, row.region)

        await self._context.change(build)
        result = enrolment_pb2.JoinToken()
        result.CopyFrom(row)
        result.token = f"locci1.{token_id}.{secret}.{self._context.authority.fingerprints[0]}"
        return result

    def _refuse_repeat(self, request: enrolment_pb2.CreateJoinTokenRequest, caller: Caller) -> None:
        if not request.request_id:
            return
        key = (caller.principal, request.request_id)
        if key in self._request_ids:
            message = "request_id: this token was created already and its secret was shown then; create another one"
            raise LocciError(Code.ALREADY_EXISTS, "TOKEN_SHOWN", message, field="request_id")
        self._request_ids[key] = None
        while len(self._request_ids) > TOKENS_MAX:
            self._request_ids.pop(next(iter(self._request_ids)))

    def _token(self, given: enrolment_pb2.JoinToken, token_id: str) -> enrolment_pb2.JoinToken:
        parse(given.region, "regions/*", "join_token.region")
        for index, role in enumerate(given.roles):
            if role not in _ROLES:
                path = f"join_token.roles[{index}]"
                raise invalid(path, f"{path}: {role} is no role; use NODE_ROLE_EDGE or NODE_ROLE_DNS")
        if given.node_id:
            check_id(given.node_id, "join_token.node_id", NODE_ID_LENGTH_MAX)
        ttl_s = decode.span_s(given.ttl) or TTL_S_DEFAULT
        if not 0 < ttl_s <= TTL_S_MAX:
            raise invalid("join_token.ttl", f"join_token.ttl: {ttl_s:g}s must be more than 0 and at most 30 days")
        now = self._context.clock.wall()
        return enrolment_pb2.JoinToken(
            name=f"joinTokens/{token_id}",
            region=given.region,
            roles=sorted(set(given.roles)) or [node_pb2.NODE_ROLE_EDGE],
            node_id=given.node_id,
            create_time=decode.timestamp(now),
            expire_time=decode.timestamp(now + ttl_s),
        )

    def _prune(self, batch: Batch) -> None:
        """Tokens that ended more than 30 days ago are no longer of interest."""
        horizon = self._context.clock.wall() - TTL_S_MAX
        for name, row in self._state.join_tokens.items():
            if decode.seconds_of(row.expire_time) < horizon:
                batch.delete(self._state.join_tokens, name)
                batch.delete(self._state.secrets, name)

    async def list_join_tokens(self, request: enrolment_pb2.ListJoinTokensRequest, caller: Caller) -> Any:
        rows = sorted(
            ((f"{decode.seconds_of(row.create_time):020.6f}/{name}", row) for name, row in self._tokens()),
            key=lambda pair: pair[0],
            reverse=True,
        )
        chosen, token = listing.page(request, rows, descending=True)
        return enrolment_pb2.ListJoinTokensResponse(join_tokens=chosen, next_page_token=token)

    def _tokens(self) -> list[tuple[str, enrolment_pb2.JoinToken]]:
        return self._state.join_tokens.items()

    async def delete_join_token(self, request: enrolment_pb2.DeleteJoinTokenRequest, caller: Caller) -> empty_pb2.Empty:
        parse(request.name, "joinTokens/*")

        def build(batch: Batch) -> None:
            self._state.join_tokens.need(request.name)
            batch.delete(self._state.join_tokens, request.name)
            batch.delete(self._state.secrets, request.name)
            message = f"{caller.principal} removed join token {last_part(request.name)}"
            batch.event("JoinTokenDeleted", message, request.name)

        await self._context.change(build)
        return empty_pb2.Empty()
