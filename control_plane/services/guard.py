"""The gate before every service: who may call, and a record of who did. Both transports go through it, for it stands
around the implementations themselves."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import json
from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog
from google.protobuf.message import Message

from control_plane import decode
from control_plane.core.roles import reads_only, refusal
from control_plane.services.caller import Caller
from control_plane.services.registry import Service
from control_plane.state import Batch, State
from fleet import contract
from fleet.audit import record_hash
from fleet.clock import Clock
from fleet.errors import Code, LocciError, invalid
from locci.v1 import access_pb2

log = structlog.get_logger()

RECORDS_MAX: Final = 20_000
_REQUEST_MAX: Final = 4096
_FIRST_S: Final = 10.0
_LOOK_S: Final = 1.0
"""Longest time that a watch outlives the token that opened it."""
_HIDDEN: Final = frozenset(
    {"token", "secret", "password", "passphrase", "value", "csr_pem", "private_key_pem", "env", "content"}
)


@dataclass(slots=True)
class _Call:
    method: str
    caller: Caller
    request: Message
    recorded: bool = False


_CALL: ContextVar[_Call | None] = ContextVar("audited_call", default=None)


class Auditor:
    """Writes the record of a call into the transaction that makes its change, or into one of its own."""

    def __init__(self, state: State, clock: Clock):
        self._state = state
        self._clock = clock
        state.committing.append(self._attach)

    def _attach(self, batch: Batch) -> None:
        call = _CALL.get()
        if call is not None and not call.recorded:
            call.recorded = True
            self._add(batch, call, "OK", "")

    def lapsed(self, caller: Caller) -> bool:
        """Whether the token of an operator was taken back or has ended since the call began."""
        kind, _, identifier = caller.principal.partition("/")
        if kind != "operators":
            return False
        name = f"operatorTokens/{identifier}"
        row = self._state.operator_tokens.get(name)
        ended = row is not None and self._clock.wall() >= row.expire_time.seconds
        return ended or self._state.secrets.get(name) is None

    async def record_first(self, call: _Call) -> None:
        """A record of what is about to begin. Raises UNAVAILABLE when it cannot be written: then nothing begins."""
        call.recorded = True
        await self._state.transact(lambda batch: self._add(batch, call, "OK", ""))

    async def record(self, call: _Call, code: str, message: str) -> None:
        """A record by itself. That it cannot be written is logged: the call has ended already."""
        call.recorded = True
        try:
            await self._state.transact(lambda batch: self._add(batch, call, code, message))
        except LocciError as error:
            log.error("audit_record_lost", method=call.method, principal=call.caller.principal, reason=error.message)

    def _add(self, batch: Batch, call: _Call, code: str, message: str) -> None:
        table = self._state.audit_records
        last = table.last()
        bound = structlog.contextvars.get_contextvars()
        row = access_pb2.AuditRecord(
            name=f"auditRecords/{1 if last is None else int(last.name.rpartition('/')[2]) + 1}",
            principal=call.caller.principal,
            role=call.caller.role,
            method=call.method,
            resource=resource_of(call.request),
            code=code,
            message=message[:_REQUEST_MAX],
            request=shown(call.request),
            source=str(bound.get("client", "")),
            request_id=str(bound.get("request_id", "")),
            previous_hash="" if last is None else last.hash,
        )
        row.time.CopyFrom(decode.timestamp(self._clock.wall()))
        row.hash = record_hash(fields_of(row))
        batch.put(table, _key(row.name), row, 0)
        if len(table) >= RECORDS_MAX:
            batch.delete(table, table.first_name())


def _key(name: str) -> str:
    """A name that sorts by its number."""
    kind, _, number = name.partition("/")
    return f"{kind}/{int(number):020d}"


def fields_of(row: access_pb2.AuditRecord) -> dict[str, str]:
    """A record as `fleet.audit` takes it."""
    found: dict[str, str] = contract.write_json(row)
    return found


def shown(request: Message) -> str:
    """A request as JSON without what is secret, cut when it is long."""
    text = json.dumps(_without_secrets(contract.write_json(request)), ensure_ascii=False, sort_keys=True)
    return text if len(text) <= _REQUEST_MAX else text[:_REQUEST_MAX] + "…"


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: "***" if key in _HIDDEN and inner else _without_secrets(inner) for key, inner in value.items()}
    return [_without_secrets(inner) for inner in value] if isinstance(value, list) else value


def resource_of(request: Any) -> str:
    """The resource that a request names; empty when it names none."""
    fields = request.DESCRIPTOR.fields_by_name
    for field in ("name", "parent", "target", "app"):
        if field in fields and isinstance(getattr(request, field), str) and getattr(request, field):
            return str(getattr(request, field))
    if "manifest" in fields:
        return f"apps/{request.manifest.name}"
    for descriptor in request.DESCRIPTOR.fields:
        if descriptor.message_type is not None and not descriptor.is_repeated:
            inner = getattr(request, descriptor.name)
            if "name" in inner.DESCRIPTOR.fields_by_name and isinstance(inner.name, str) and inner.name:
                return str(inner.name)
    return ""


_END: Final = object()


async def _next(answers: AsyncIterator[Any]) -> Any:
    return await anext(answers, _END)


async def _first(requests: AsyncIterator[Any]) -> Any:
    try:
        async with asyncio.timeout(_FIRST_S):
            return await anext(requests)
    except (TimeoutError, StopAsyncIteration):
        raise invalid("start", "no first message came", "OUT_OF_TURN") from None


class Guarded:
    """A service's implementation behind the gate; its methods are found by name, as on the implementation itself."""

    def __init__(self, service: Service, auditor: Auditor):
        self._service = service
        self._auditor = auditor
        for method in service.descriptor.methods:
            name = "".join(f"_{c.lower()}" if c.isupper() else c for c in method.name).lstrip("_")
            inner = getattr(service.implementation, name)
            guard = self._watching if method.server_streaming else self._calling
            if method.client_streaming:
                guard = self._conversing
            setattr(self, name, guard(method.name, inner))

    def _check(self, method: str, request: Message, caller: Caller) -> None:
        service = self._service.descriptor.name
        why = refusal(caller.role, caller.scopes, service, method, resource_of(request))
        if why:
            message = f"{why}: use a token that may, or ask an administrator for one"
            raise LocciError(Code.PERMISSION_DENIED, "ROLE_TOO_LOW", message)

    def _calling(self, method: str, inner: Any) -> Any:
        async def call(request: Any, caller: Caller) -> Any:
            if reads_only(method):
                self._check(method, request, caller)
                return await inner(request, caller)
            # A dry run changes nothing and leaves no record; should it change something after all, that is recorded.
            dry = bool(getattr(request, "validate_only", False))
            pending = _Call(f"{self._service.descriptor.name}.{method}", caller, request)
            token = _CALL.set(pending)
            try:
                self._check(method, request, caller)
                answer = await inner(request, caller)
                if not (pending.recorded or dry):
                    await self._auditor.record(pending, "OK", "")
            except LocciError as error:
                if not dry:
                    await self._auditor.record(pending, error.code.name, error.message)
                raise
            except Exception:
                await self._auditor.record(
                    pending, Code.INTERNAL.name, "a fault of the control plane: its log says more"
                )
                raise
            finally:
                _CALL.reset(token)
            return answer

        return call

    def _watching(self, method: str, inner: Any) -> Any:
        async def call(request: Any, caller: Caller) -> AsyncIterator[Any]:
            if reads_only(method):
                self._check(method, request, caller)
            else:
                await self._begun(method, request, caller)
            async with contextlib.aclosing(inner(request, caller)) as answers:
                async for answer in self._while_valid(answers, caller):
                    yield answer

        return call

    def _conversing(self, method: str, inner: Any) -> Any:
        async def call(requests: AsyncIterator[Any], caller: Caller) -> AsyncIterator[Any]:
            first = await _first(requests)
            await self._begun(method, first, caller)
            async with contextlib.aclosing(inner(first, requests, caller)) as answers:
                async for answer in self._while_valid(answers, caller):
                    yield answer

        return call

    async def _begun(self, method: str, first: Message, caller: Caller) -> None:
        """Checks what is about to stream, and records it before anything of it comes."""
        pending = _Call(f"{self._service.descriptor.name}.{method}", caller, first)
        try:
            self._check(method, first, caller)
        except LocciError as error:
            await self._auditor.record(pending, error.code.name, error.message)
            raise
        await self._auditor.record_first(pending)

    async def _while_valid(self, answers: AsyncIterator[Any], caller: Caller) -> AsyncIterator[Any]:
        """The answers, until the caller's token is taken back or ends. Raises UNAUTHENTICATED then."""
        shared = contextvars.copy_context()
        following: asyncio.Task[Any] | None = None
        try:
            while True:
                if following is None:
                    following = asyncio.get_running_loop().create_task(_next(answers), context=shared)
                await asyncio.wait({following}, timeout=_LOOK_S)
                if self._auditor.lapsed(caller):
                    message = "the token was taken back or has ended: log in again with another"
                    raise LocciError(Code.UNAUTHENTICATED, "TOKEN_LAPSED", message)
                if following.done():
                    answer, following = following.result(), None
                    if answer is _END:
                        return
                    yield answer
        finally:
            if following is not None:
                following.cancel()
                await asyncio.wait({following})


def guarded(services: list[Service], state: State, clock: Clock) -> list[Service]:
    """The services with the gate before those that are for operators."""
    auditor = Auditor(state, clock)
    return [
        replace(service, implementation=Guarded(service, auditor)) if service.access == "operator" else service
        for service in services
    ]
