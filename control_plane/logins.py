"""Registries: logins, with passwords sealed in the store and opened for the hosts that pull from there, and mirrors."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator
from typing import Final

from google.protobuf.wrappers_pb2 import BytesValue

from control_plane.core.image import parse_reference
from control_plane.ports import Vault
from control_plane.state import State
from fleet.errors import LocciError, invalid
from fleet.ids import last_part
from locci.v1 import registry_pb2, resource_pb2

_LENGTH_MAX: Final = 4096
_MIRRORS_MAX: Final = 8
_USERNAME = re.compile(r"[^:\x00-\x1f\x7f]{1,255}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def examine(row: registry_pb2.Registry, password: str, regions: Container[str]) -> None:
    """Raises INVALID_ARGUMENT for what can be neither a login (RFC 7617, section 2) nor mirrors. `regions` are those
    that exist."""
    _examine_host("registry.host", row.host)
    _examine_mirrors(row, regions)
    if row.mirrors and not row.username and not password:
        return
    if not _USERNAME.fullmatch(row.username):
        raise invalid("registry.username", "registry.username: 1-255 characters, no colon and no control characters")
    if not 0 < len(password) <= _LENGTH_MAX or _CONTROL.search(password):
        raise invalid("registry.password", f"registry.password: 1-{_LENGTH_MAX} characters, no control characters")


def _examine_host(field: str, host: str) -> None:
    try:
        named = parse_reference(f"{host}/image").host
    except LocciError:
        named = ""
    if named != host:
        raise invalid(field, f"{field}: {host!r} is no host of images, as in registry.example.net:5000")


def _examine_mirrors(row: registry_pb2.Registry, regions: Container[str]) -> None:
    if len(row.mirrors) > _MIRRORS_MAX:
        raise invalid("registry.mirrors", f"registry.mirrors: at most {_MIRRORS_MAX}, not {len(row.mirrors)}")
    seen = {row.host}
    for index, mirror in enumerate(row.mirrors):
        at = f"registry.mirrors[{index}]"
        _examine_host(f"{at}.host", mirror.host)
        if mirror.host in seen:
            raise invalid(f"{at}.host", f"{at}.host: {mirror.host} is the registry itself, or given twice")
        seen.add(mirror.host)
        for region in mirror.regions:
            if region not in regions:
                raise invalid(f"{at}.regions", f"{at}.regions: there is no {region}; see `locci regions ls`")


def seal(vault: Vault, name: str, password: str) -> BytesValue:
    """What the store keeps of a password."""
    return BytesValue(value=vault.seal(password.encode(), f"{name}/password"))


def login(state: State, vault: Vault, host: str) -> tuple[str, str] | None:
    """User name and password for a host; None when there is no login for it."""
    for row in state.registries.values():
        if row.host == host and row.username:
            sealed = state.registry_passwords.need(row.name).value
            return row.username, vault.open(sealed, f"{row.name}/password").decode()
    return None


def mirrors(state: State, region: str, images: Iterable[str]) -> Iterator[resource_pb2.Resource]:
    """The mirrors that the nodes of a region ask for images by digest."""
    hosts = {image.partition("/")[0] for image in images}
    for row in state.registries.values():
        found = _mirrors_for(row, region)
        if found and row.host in hosts:
            body = resource_pb2.RegistryMirrors(host=row.host, mirrors=found)
            yield resource_pb2.Resource(name=f"mirrors/{last_part(row.name)}", registry_mirrors=body)


def resources(state: State, vault: Vault, region: str, images: Iterable[str]) -> Iterator[resource_pb2.Resource]:
    """The logins that a node of a region needs for images by digest, at registries and their mirrors."""
    hosts = {image.partition("/")[0] for image in images}
    hosts |= {mirror for row in state.registries.values() if row.host in hosts for mirror in _mirrors_for(row, region)}
    for row in state.registries.values():
        if row.host in hosts and row.username:
            sealed = state.registry_passwords.need(row.name).value
            password = vault.open(sealed, f"{row.name}/password").decode()
            body = resource_pb2.RegistryLogin(host=row.host, username=row.username, password=password)
            yield resource_pb2.Resource(name=row.name, registry_login=body)


def _mirrors_for(row: registry_pb2.Registry, region: str) -> list[str]:
    return [mirror.host for mirror in row.mirrors if not mirror.regions or region in mirror.regions]
