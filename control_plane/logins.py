"""Logins at registries: passwords sealed in the store, opened for the hosts that pull from there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from google.protobuf.wrappers_pb2 import BytesValue

from control_plane.core.image import parse_reference
from control_plane.ports import Vault
from control_plane.state import State
from fleet.errors import LocciError, invalid
from locci.v1 import registry_pb2, resource_pb2

_LENGTH_MAX: Final = 4096
_USERNAME = re.compile(r"[^:\x00-\x1f\x7f]{1,255}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def examine(row: registry_pb2.Registry, password: str) -> None:
    """Raises INVALID_ARGUMENT for what cannot be a login (RFC 7617, section 2)."""
    try:
        named = parse_reference(f"{row.host}/image").host
    except LocciError:
        named = ""
    if named != row.host:
        message = f"registry.host: {row.host!r} is no host of images, as in registry.example.net:5000"
        raise invalid("registry.host", message)
    if not _USERNAME.fullmatch(row.username):
        raise invalid("registry.username", "registry.username: 1-255 characters, no colon and no control characters")
    if not 0 < len(password) <= _LENGTH_MAX or _CONTROL.search(password):
        raise invalid("registry.password", f"registry.password: 1-{_LENGTH_MAX} characters, no control characters")


def seal(vault: Vault, name: str, password: str) -> BytesValue:
    """What the store keeps of a password."""
    return BytesValue(value=vault.seal(password.encode(), f"{name}/password"))


def login(state: State, vault: Vault, host: str) -> tuple[str, str] | None:
    """User name and password for a host; None when there is no login for it."""
    for row in state.registries.values():
        if row.host == host:
            sealed = state.registry_passwords.need(row.name).value
            return row.username, vault.open(sealed, f"{row.name}/password").decode()
    return None


def resources(state: State, vault: Vault, images: Iterable[str]) -> Iterator[resource_pb2.Resource]:
    """The logins that a node needs for images by digest."""
    hosts = {image.partition("/")[0] for image in images}
    for row in state.registries.values():
        if row.host in hosts:
            sealed = state.registry_passwords.need(row.name).value
            password = vault.open(sealed, f"{row.name}/password").decode()
            body = resource_pb2.RegistryLogin(host=row.host, username=row.username, password=password)
            yield resource_pb2.Resource(name=row.name, registry_login=body)
