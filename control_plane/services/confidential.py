"""Secrets: values go in and never come out of here."""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import empty_pb2

from control_plane import decode, secret_values
from control_plane.core.container_options import SECRET_ID_LENGTH_MAX
from control_plane.services import listing
from control_plane.services.caller import Caller
from control_plane.services.context import Context
from control_plane.state import Batch
from fleet.errors import already_exists, failed_precondition, invalid
from fleet.ids import check_id, last_part, parse
from locci.v1 import secret_pb2

_VALUE_BYTES_MAX: Final = 64 * 1024
_VERSIONS_MAX: Final = 100


class SecretService:
    """Implements `locci.v1.SecretService`."""

    def __init__(self, context: Context):
        self._context = context
        self._state = context.state

    async def list_secrets(
        self, request: secret_pb2.ListSecretsRequest, caller: Caller
    ) -> secret_pb2.ListSecretsResponse:
        rows, token = listing.page(request, self._state.confidential.items())
        return secret_pb2.ListSecretsResponse(secrets=rows, next_page_token=token)

    async def get_secret(self, request: secret_pb2.GetSecretRequest, caller: Caller) -> secret_pb2.Secret:
        parse(request.name, "secrets/*")
        return self._state.confidential.need(request.name)

    async def create_secret(self, request: secret_pb2.CreateSecretRequest, caller: Caller) -> secret_pb2.Secret:
        name = f"secrets/{check_id(request.secret_id, 'secret_id', SECRET_ID_LENGTH_MAX)}"
        _check_value(request.value)

        async def act() -> secret_pb2.Secret:
            row = secret_pb2.Secret(name=name, create_time=decode.timestamp(self._context.clock.wall()))

            def build(batch: Batch) -> None:
                if name in self._state.confidential:
                    raise already_exists(name)
                self._add(batch, row, request.value, caller)
                batch.event("SecretCreated", f"{caller.principal} created {name}", name)

            await self._context.change(build)
            return self._state.confidential.need(name)

        return await self._context.idempotency.once(caller.principal, _nameless(request), act)  # type: ignore[no-any-return]

    async def add_secret_version(
        self, request: secret_pb2.AddSecretVersionRequest, caller: Caller
    ) -> secret_pb2.Secret:
        parse(request.name, "secrets/*")
        _check_value(request.value)

        async def act() -> secret_pb2.Secret:
            def build(batch: Batch) -> None:
                row = self._state.confidential.copy(request.name)
                if sum(not version.destroyed for version in row.versions) >= _VERSIONS_MAX:
                    message = f"{request.name} has {_VERSIONS_MAX} versions: destroy some that nothing needs"
                    raise failed_precondition("TOO_MANY_VERSIONS", message)
                number = self._add(batch, row, request.value, caller)
                message = f"{caller.principal} added version {number} of {request.name}"
                batch.event("SecretVersionAdded", message, request.name)

            await self._context.change(build)
            return self._state.confidential.need(request.name)

        return await self._context.idempotency.once(caller.principal, _nameless(request), act)  # type: ignore[no-any-return]

    async def destroy_secret_version(
        self, request: secret_pb2.DestroySecretVersionRequest, caller: Caller
    ) -> secret_pb2.Secret:
        secret = parse(request.name, "secrets/*")[0]

        def build(batch: Batch) -> None:
            row = self._state.confidential.copy(request.name)
            found = next((version for version in row.versions if version.number == request.number), None)
            if found is None:
                raise invalid("number", f"number: {request.name} has no version {request.number}")
            self._refuse_used(secret, request.number)
            if not found.destroyed:
                found.destroyed = True
                batch.put(self._state.confidential, row.name, row)
                batch.delete(self._state.secret_values, f"{row.name}/{request.number}")
                message = f"{caller.principal} destroyed version {request.number} of {request.name}"
                batch.event("SecretVersionDestroyed", message, request.name)

        await self._context.change(build)
        return self._state.confidential.need(request.name)

    async def delete_secret(self, request: secret_pb2.DeleteSecretRequest, caller: Caller) -> empty_pb2.Empty:
        secret = parse(request.name, "secrets/*")[0]

        def build(batch: Batch) -> None:
            row = self._state.confidential.need(request.name)
            self._refuse_used(secret)
            batch.delete(self._state.confidential, request.name)
            for version in row.versions:
                if not version.destroyed:
                    batch.delete(self._state.secret_values, f"{request.name}/{version.number}")
            batch.event("SecretDeleted", f"{caller.principal} deleted {request.name}", request.name)

        await self._context.change(build)
        return empty_pb2.Empty()

    def _add(self, batch: Batch, row: secret_pb2.Secret, value: bytes, caller: Caller) -> int:
        number = max((version.number for version in row.versions), default=0) + 1
        now = decode.timestamp(self._context.clock.wall())
        row.versions.add(number=number, create_time=now, creator=caller.principal)
        batch.put(self._state.confidential, row.name, row)
        sealed = secret_values.seal(self._context.vault, last_part(row.name), number, value)
        batch.put(self._state.secret_values, f"{row.name}/{number}", sealed)
        return number

    def _refuse_used(self, secret: str, version: int = 0) -> None:
        users = list(secret_values.users(self._state, secret, version))
        if users:
            message = f"secrets/{secret} is needed by {', '.join(users[:5])}: deploy them without it first"
            raise failed_precondition("SECRET_IN_USE", message)


def _check_value(value: bytes) -> None:
    if not 1 <= len(value) <= _VALUE_BYTES_MAX:
        raise invalid("value", f"value: {len(value)} bytes are not from 1 to {_VALUE_BYTES_MAX}")


def _nameless(request: Any) -> Any:
    """The request as it is remembered: without its value, of which not even a hash is to be kept."""
    remembered = type(request)()
    remembered.CopyFrom(request)
    remembered.ClearField("value")
    return remembered
