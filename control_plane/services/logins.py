"""Registries, their logins and mirrors: kept, replaced, forgotten; passwords are never given out."""

from __future__ import annotations

from typing import Final

from google.protobuf import empty_pb2

from control_plane import decode, logins
from control_plane.services import listing
from control_plane.services.caller import Caller
from control_plane.services.context import Context
from control_plane.services.edit import check_etag
from control_plane.state import Batch
from fleet.errors import already_exists, invalid
from fleet.ids import check_id, parse
from locci.v1 import registry_pb2

_ID_LENGTH_MAX: Final = 63


class RegistryService:
    """Implements `locci.v1.RegistryService`."""

    def __init__(self, context: Context):
        self._context = context
        self._state = context.state

    async def list_registries(
        self, request: registry_pb2.ListRegistriesRequest, caller: Caller
    ) -> registry_pb2.ListRegistriesResponse:
        rows, token = listing.page(request, self._state.registries.items())
        return registry_pb2.ListRegistriesResponse(registries=rows, next_page_token=token)

    async def get_registry(self, request: registry_pb2.GetRegistryRequest, caller: Caller) -> registry_pb2.Registry:
        parse(request.name, "registries/*")
        return self._state.registries.need(request.name)

    async def create_registry(
        self, request: registry_pb2.CreateRegistryRequest, caller: Caller
    ) -> registry_pb2.Registry:
        async def act() -> registry_pb2.Registry:
            name = f"registries/{check_id(request.registry_id, 'registry_id', _ID_LENGTH_MAX)}"
            given = request.registry
            row = registry_pb2.Registry(name=name, host=given.host, username=given.username, mirrors=given.mirrors)
            row.create_time.CopyFrom(decode.timestamp(self._context.clock.wall()))
            logins.examine(row, given.password, set(self._state.regions))

            def build(batch: Batch) -> None:
                if name in self._state.registries:
                    raise already_exists(name)
                same = next((other.name for other in self._state.registries.values() if other.host == row.host), "")
                if same:
                    raise already_exists(name, f"{same} is for {row.host} already: replace that one")
                if not request.validate_only:
                    self._put(batch, row, given.password)
                    batch.event("RegistryCreated", f"{caller.principal} keeps {_what(row)}", name)

            await self._context.change(build)
            return row if request.validate_only else self._state.registries.need(name)

        return await self._context.idempotency.once(caller.principal, request, act)  # type: ignore[no-any-return]

    async def update_registry(
        self, request: registry_pb2.UpdateRegistryRequest, caller: Caller
    ) -> registry_pb2.Registry:
        async def act() -> registry_pb2.Registry:
            given = request.registry
            parse(given.name, "registries/*", "registry.name")
            row = self._state.registries.copy(given.name)
            if given.host not in ("", row.host):
                message = f"registry.host: {row.name} is for {row.host}: make another for another host"
                raise invalid("registry.host", message)
            row.username = given.username
            del row.mirrors[:]
            row.mirrors.extend(given.mirrors)
            password = given.password or self._password(row)
            logins.examine(row, password, set(self._state.regions))

            def build(batch: Batch) -> None:
                self._state.registries.need(given.name)
                check_etag(given.name, given.etag, self._state.registries.revision(given.name))
                if not request.validate_only:
                    self._put(batch, row, password)
                    batch.event("RegistryUpdated", f"{caller.principal} keeps {_what(row)} now", row.name)

            await self._context.change(build)
            return row if request.validate_only else self._state.registries.need(given.name)

        return await self._context.idempotency.once(caller.principal, request, act)  # type: ignore[no-any-return]

    async def delete_registry(self, request: registry_pb2.DeleteRegistryRequest, caller: Caller) -> empty_pb2.Empty:
        parse(request.name, "registries/*")

        def build(batch: Batch) -> None:
            row = self._state.registries.need(request.name)
            batch.delete(self._state.registries, request.name)
            batch.delete(self._state.registry_passwords, request.name)
            batch.event("RegistryDeleted", f"{caller.principal} forgot {_what(row)}", request.name)

        await self._context.change(build)
        return empty_pb2.Empty()

    def _password(self, row: registry_pb2.Registry) -> str:
        """The one that is kept, for a login that goes on."""
        found = logins.login(self._state, self._context.vault, row.host) if row.username else None
        return found[1] if found is not None else ""

    def _put(self, batch: Batch, row: registry_pb2.Registry, password: str) -> None:
        batch.put(self._state.registries, row.name, row)
        if row.username:
            batch.put(self._state.registry_passwords, row.name, logins.seal(self._context.vault, row.name, password))
        else:
            batch.delete(self._state.registry_passwords, row.name)


def _what(row: registry_pb2.Registry) -> str:
    login = f"a login at {row.host} for {row.username}" if row.username else ""
    mirrors = f"mirrors of {row.host}: {', '.join(mirror.host for mirror in row.mirrors)}" if row.mirrors else ""
    return " and ".join(filter(None, (login, mirrors)))
