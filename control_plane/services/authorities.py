"""The fleet's certificate authorities: one takes the place of another while everything goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from control_plane.adapters.ca import Signer
from control_plane.origin import ACTIVE, PREPARED, RETIRING, put_authority
from control_plane.services import listing
from control_plane.services.caller import Caller
from control_plane.services.context import Context
from control_plane.state import Batch
from fleet.errors import failed_precondition
from fleet.ids import last_part, parse
from locci.v1 import authority_pb2, node_pb2

_NAMED_MAX: Final = 5


class AuthorityService:
    """Implements `locci.v1.AuthorityService`. `changed` makes the process trust and sign by what the store says."""

    def __init__(self, context: Context, changed: Callable[[], None]):
        self._context = context
        self._state = context.state
        self._changed = changed

    async def list_authorities(
        self, request: authority_pb2.ListAuthoritiesRequest, caller: Caller
    ) -> authority_pb2.ListAuthoritiesResponse:
        rows = [(name, self._seen(row)) for name, row in self._state.authorities.items()]
        page, token = listing.page(request, rows)
        return authority_pb2.ListAuthoritiesResponse(authorities=page, next_page_token=token)

    async def prepare_authority(
        self, request: authority_pb2.PrepareAuthorityRequest, caller: Caller
    ) -> authority_pb2.Authority:
        now = self._context.clock.wall()
        signer = Signer.create(self._context.authority.trust_domain, now)

        def build(batch: Batch) -> str:
            if len(self._state.authorities) > 1:
                message = "one authority takes the place of another already: activate it, then retire the one before"
                raise failed_precondition("ROTATION_UNDER_WAY", message)
            if request.validate_only:
                return self._state.authorities.first_name()
            name = put_authority(batch, self._state, self._context.vault, signer, PREPARED, now)
            batch.event("AuthorityPrepared", f"{caller.principal} made {name}, which the fleet learns to trust", name)
            return name

        return await self._change(build, request.validate_only)

    async def activate_authority(
        self, request: authority_pb2.ActivateAuthorityRequest, caller: Caller
    ) -> authority_pb2.Authority:
        parse(request.name, "authorities/*")

        def build(batch: Batch) -> str:
            row = self._state.authorities.copy(request.name)
            if row.state != PREPARED:
                raise failed_precondition("NOT_PREPARED", f"{row.name} is not prepared: `locci ca prepare` makes one")
            behind = [n for n in self._nodes() if row.fingerprint not in n.trusted_authorities]
            if behind and not request.force:
                message = f"{_some(behind)} do not trust {row.name} yet: wait until each was connected, or force it"
                raise failed_precondition("NODES_BEHIND", message)
            if not request.validate_only:
                row.state = ACTIVE
                batch.put(self._state.authorities, row.name, row)
                for name, other in self._state.authorities.items():
                    if other.state == ACTIVE:
                        before = self._state.authorities.copy(name)
                        before.state = RETIRING
                        batch.put(self._state.authorities, name, before)
                message = f"{caller.principal} lets {row.name} sign the certificates of nodes"
                batch.event("AuthorityActivated", message, row.name)
            return row.name

        return await self._change(build, request.validate_only)

    async def retire_authority(
        self, request: authority_pb2.RetireAuthorityRequest, caller: Caller
    ) -> authority_pb2.Authority:
        parse(request.name, "authorities/*")
        before = self._seen(self._state.authorities.need(request.name))

        def build(batch: Batch) -> str:
            row = self._state.authorities.need(request.name)
            if row.state == ACTIVE:
                message = f"{row.name} signs the certificates of nodes: prepare and activate another one first"
                raise failed_precondition("AUTHORITY_ACTIVE", message)
            active = next(r for r in self._state.authorities.values() if r.state == ACTIVE)
            signed = [n for n in self._nodes() if row.state == RETIRING and n.certificate_issuer != active.fingerprint]
            if signed and not request.force:
                message = (
                    f"{_some(signed)} have a certificate of {row.name}: wait until each was connected, or force it"
                )
                raise failed_precondition("NODES_BEHIND", message)
            if not request.validate_only:
                batch.delete(self._state.authorities, row.name)
                batch.delete(self._state.authority_keys, row.name)
                batch.event("AuthorityRetired", f"{caller.principal} had the fleet forget {row.name}", row.name)
            return row.name

        await self._change(build, request.validate_only)
        return before

    async def _change(self, build: Callable[[Batch], str], validate_only: bool) -> authority_pb2.Authority:
        name = await self._context.change(build)
        if not validate_only:
            self._changed()
        row = self._state.authorities.get(name)
        return self._seen(row) if row is not None else authority_pb2.Authority(name=name)

    def _nodes(self) -> list[node_pb2.Node]:
        return [n for n in self._state.nodes.values() if n.condition != node_pb2.NODE_CONDITION_REVOKED]

    def _seen(self, row: authority_pb2.Authority) -> authority_pb2.Authority:
        """With how far the nodes are."""
        result = authority_pb2.Authority()
        result.CopyFrom(row)
        nodes = self._nodes()
        alone = len(self._state.authorities) == 1
        result.nodes = len(nodes)
        result.nodes_trusting = sum(1 for n in nodes if row.fingerprint in n.trusted_authorities or alone)
        result.nodes_signed = sum(1 for n in nodes if n.certificate_issuer == row.fingerprint or alone)
        return result


def _some(nodes: list[node_pb2.Node]) -> str:
    names = ", ".join(last_part(node.name) for node in nodes[:_NAMED_MAX])
    more = f" and {len(nodes) - _NAMED_MAX} more" if len(nodes) > _NAMED_MAX else ""
    return f"{len(nodes)} of the nodes ({names}{more})"
