"""Requests that carry a `request_id` act once, also when their repeat comes after a crash.

What a request changes and the mark that it was done are one transaction. Its answer follows in a second one: a repeat
that comes after a crash between the two is told to look at the resource.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

import structlog
from google.protobuf import any_pb2, symbol_database
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import BytesValue

from control_plane.state import Batch, State
from fleet.clock import Clock
from fleet.errors import Code, LocciError

log = structlog.get_logger()

KEPT_S: Final = 86_400
KEPT_MAX: Final = 2_000
_HASH_BYTES: Final = 32
_TIME_BYTES: Final = 8


@dataclass(slots=True)
class _Pending:
    name: str
    digest: bytes
    marked: bool = False


_PENDING: ContextVar[_Pending | None] = ContextVar("request_with_id", default=None)


class Idempotency:
    """Answers to requests that carry an id, for the repeats of them; bounded by number and age."""

    def __init__(self, state: State, clock: Clock):
        self._state = state
        self._clock = clock
        self._under_way: dict[str, tuple[bytes, asyncio.Future[Message]]] = {}
        state.committing.append(self._mark)

    async def once(self, principal: str, request: Any, act: Callable[[], Awaitable[Any]]) -> Any:
        """The result of `await act()`, or that of the same request before. Without a request id it just acts.

        Raises INVALID_ARGUMENT when the id was used for another request, ABORTED when it was done and its answer lost.
        """
        if not request.request_id or getattr(request, "validate_only", False):
            return await act()
        text = "\n".join((principal, request.DESCRIPTOR.full_name, request.request_id))
        name = f"requests/{hashlib.sha256(text.encode()).hexdigest()}"
        digest = hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
        if name in self._under_way:
            before, future = self._under_way[name]
            _check(request, before, digest)
            return await asyncio.shield(future)
        known = self._state.requests.get(name)
        if known is not None and self._age_s(known.value) < KEPT_S:
            _check(request, known.value[:_HASH_BYTES], digest)
            return _answer(request, known.value)
        return await self._act(_Pending(name, digest), act)

    async def _act(self, pending: _Pending, act: Callable[[], Awaitable[Any]]) -> Any:
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._under_way[pending.name] = (pending.digest, future)
        token = _PENDING.set(pending)
        try:
            answer = await act()
        except BaseException as error:
            # A request that failed has done nothing: its repeat may try again.
            future.set_exception(error if isinstance(error, Exception) else LocciError(Code.ABORTED, "ENDED", "ended"))
            future.exception()
            raise
        finally:
            _PENDING.reset(token)
            del self._under_way[pending.name]
        future.set_result(answer)
        await self._keep(pending, answer)
        return answer

    async def _keep(self, pending: _Pending, answer: Message) -> None:
        packed = any_pb2.Any()
        packed.Pack(answer)
        try:
            await self._state.transact(lambda batch: self._put(batch, pending, packed.SerializeToString()))
        except LocciError as error:
            log.warning("answer_not_kept", reason=error.message)

    def _mark(self, batch: Batch) -> None:
        pending = _PENDING.get()
        if pending is not None and not pending.marked:
            pending.marked = True
            self._forget(batch)
            self._put(batch, pending, b"")

    def _put(self, batch: Batch, pending: _Pending, answer: bytes) -> None:
        now = int(self._clock.wall()).to_bytes(_TIME_BYTES, "big")
        batch.put(self._state.requests, pending.name, BytesValue(value=pending.digest + now + answer))

    def _forget(self, batch: Batch) -> None:
        table = self._state.requests
        if len(table) < KEPT_MAX:
            return
        ages = sorted(((self._age_s(row.value), name) for name, row in table.items()), reverse=True)
        for age_s, name in ages[: KEPT_MAX // 10]:
            batch.delete(table, name)
            log.debug("request_forgotten", age_s=age_s)

    def _age_s(self, value: bytes) -> float:
        made = int.from_bytes(value[_HASH_BYTES : _HASH_BYTES + _TIME_BYTES], "big")
        return self._clock.wall() - made


def _check(request: Any, before: bytes, digest: bytes) -> None:
    if before != digest:
        message = f"request_id: {request.request_id!r} was used for another request; choose a new one"
        raise LocciError(Code.INVALID_ARGUMENT, "REQUEST_ID_REUSED", message, field="request_id")


def _answer(request: Any, value: bytes) -> Message:
    packed = any_pb2.Any.FromString(value[_HASH_BYTES + _TIME_BYTES :])
    if not packed.type_url:
        message = f"request_id: {request.request_id!r} was done; its answer was lost in a crash: read the resource"
        raise LocciError(Code.ABORTED, "DONE_BEFORE", message, field="request_id")
    kind = symbol_database.Default().GetSymbol(packed.type_url.rpartition("/")[2])
    answer: Message = kind.FromString(packed.value)
    return answer
