"""Digests and signatures of images from OCI registries (OCI Distribution Specification 1.1, "Pulling manifests")."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Sequence
from typing import Final

import aiohttp

from control_plane.core.image import Reference, parse_reference
from fleet.errors import Code, LocciError
from fleet.oci import Login, RefusedError, Registries
from fleet.signatures import Signature

_ACCEPT: Final = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class RegistryClient:
    """An `ImageRegistry`. Hosts in `insecure` (`host:port`) are spoken to over plain HTTP."""

    def __init__(self, insecure: Collection[str] = (), login: Login = lambda _host: None):
        """`login` knows user name and password for a host, or None."""
        self._registries = Registries(frozenset(insecure).__contains__, login)

    async def close(self) -> None:
        """Ends its connections."""
        await self._registries.close()

    async def pin(self, reference: str) -> str:
        """As `ImageRegistry.pin`; a reference that has a digest already is checked to exist."""
        parsed = parse_reference(reference)
        try:
            return parsed.pinned(await self._digest(parsed, reference))
        except RefusedError as error:
            raise _refused(reference, str(error)) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unreachable(reference, parsed.host, error) from error

    async def signatures(self, image: str) -> Sequence[Signature]:
        """As `ImageRegistry.signatures`."""
        try:
            return await self._registries.signatures(image)
        except RefusedError as error:
            raise _refused(image, str(error)) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unreachable(image, image.partition("/")[0], error) from error

    async def _digest(self, parsed: Reference, reference: str) -> str:
        place = parsed.host, parsed.repository, f"manifests/{parsed.digest or parsed.tag}", _ACCEPT
        answer = await self._registries.ask("HEAD", *place)
        announced = answer.headers.get("Docker-Content-Digest", "")
        if answer.status == 405 or (answer.status == 200 and not _DIGEST.fullmatch(announced)):
            answer = await self._registries.ask("GET", *place)
            announced = f"sha256:{hashlib.sha256(answer.body).hexdigest()}"
        _check(answer.status, parsed, reference)
        if parsed.digest and announced != parsed.digest:
            raise _refused(reference, f"it answered with {announced} instead")
        return announced


def _check(status: int, parsed: Reference, reference: str) -> None:
    match status:
        case 200:
            return
        case 404:
            message = f"{reference}: the registry {parsed.host} has no such image; push it, or correct the name"
            raise LocciError(Code.NOT_FOUND, "IMAGE_NOT_FOUND", message, field="manifest.image")
        case 401 | 403:
            raise _refused(reference, f"it answered {status}")
        case _:
            message = f"{reference}: the registry {parsed.host} answered {status}; try again"
            raise LocciError(Code.UNAVAILABLE, "REGISTRY_UNREACHABLE", message, field="manifest.image")


def _refused(reference: str, why: str) -> LocciError:
    advice = "keep a login with `locci registries create`, or make the image readable without one"
    message = f"{reference}: the registry refuses to give it out: {why}; {advice}"
    return LocciError(Code.PERMISSION_DENIED, "REGISTRY_REFUSED", message, field="manifest.image")


def _unreachable(reference: str, host: str, error: Exception) -> LocciError:
    message = f"the registry {host} cannot be reached for {reference}: {str(error) or type(error).__name__}"
    return LocciError(Code.UNAVAILABLE, "REGISTRY_UNREACHABLE", message, field="manifest.image")
