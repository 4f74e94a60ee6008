"""Image digests from an OCI registry (OCI Distribution Specification 1.1, "Pulling manifests", "Errors")."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Collection
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from control_plane.core.image import DOCKER_HUB, Reference, parse_reference
from fleet.errors import Code, LocciError

_ACCEPT: Final = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
_TIMEOUT: Final = aiohttp.ClientTimeout(total=20, connect=5)
_MANIFEST_BYTES_MAX: Final = 4 << 20
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_PARAMETER = re.compile(r'(\w+)="([^"]*)"')


Login = Callable[[str], tuple[str, str] | None]


class RegistryClient:
    """An `ImageRegistry`. Hosts in `insecure` (`host:port`) are spoken to over plain HTTP."""

    def __init__(self, insecure: Collection[str] = (), login: Login = lambda _host: None):
        """`login` knows user name and password for a host, or None."""
        self._insecure = frozenset(insecure)
        self._login = login
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Ends its connections."""
        if self._session is not None:
            await self._session.close()

    async def pin(self, reference: str) -> str:
        """As `ImageRegistry.pin`; a reference that has a digest already is checked to exist."""
        parsed = parse_reference(reference)
        try:
            return parsed.pinned(await self._digest(parsed, reference))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            why = str(error) or type(error).__name__
            message = f"the registry {parsed.host} cannot be reached for {reference}: {why}"
            raise LocciError(Code.UNAVAILABLE, "REGISTRY_UNREACHABLE", message, field="manifest.image") from error

    async def _digest(self, parsed: Reference, reference: str) -> str:
        url = f"{self._base(parsed)}/v2/{parsed.repository}/manifests/{parsed.digest or parsed.tag}"
        headers = {"Accept": _ACCEPT}
        status, answer_headers, _ = await self._ask("HEAD", url, headers)
        if status == 401:
            challenge = answer_headers.get("WWW-Authenticate", "")
            headers["Authorization"] = await self._answer(challenge, parsed.host, reference)
            status, answer_headers, _ = await self._ask("HEAD", url, headers)
        body = b""
        announced = answer_headers.get("Docker-Content-Digest", "")
        if status == 405 or (status == 200 and not _DIGEST.fullmatch(announced)):
            status, answer_headers, body = await self._ask("GET", url, headers)
            announced = f"sha256:{hashlib.sha256(body).hexdigest()}"
        _check(status, parsed, reference)
        if parsed.digest and announced != parsed.digest:
            raise _refused(reference, f"it answered with {announced} instead")
        return announced

    def _base(self, parsed: Reference) -> str:
        host = "registry-1.docker.io" if parsed.host == DOCKER_HUB else parsed.host
        return f"{'http' if parsed.host in self._insecure else 'https'}://{host}"

    async def _ask(self, method: str, url: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=_TIMEOUT)
        async with self._session.request(method, url, headers=headers) as response:
            body = await response.content.read(_MANIFEST_BYTES_MAX) if method == "GET" else b""
            names = ("WWW-Authenticate", "Docker-Content-Digest")
            return response.status, {n: response.headers[n] for n in names if n in response.headers}, body

    async def _answer(self, challenge: str, host: str, reference: str) -> str:
        """What a challenge is answered with: the host's login, or a token for it or for anyone (RFC 7617, RFC 6750)."""
        login = self._login(host)
        if challenge.partition(" ")[0].lower() != "basic":
            return f"Bearer {await self._token(challenge, login, reference)}"
        if login is None:
            raise _refused(reference, "it wants a login")
        return _basic(login)

    async def _token(self, challenge: str, login: tuple[str, str] | None, reference: str) -> str:
        """A bearer token (distribution.github.io, Token Authentication Specification)."""
        scheme, _, rest = challenge.partition(" ")
        parameters = dict(_PARAMETER.findall(rest))
        realm = parameters.pop("realm", "")
        if scheme.lower() != "bearer" or not realm.startswith(("https://", "http://")):
            raise _refused(reference, "it wants a login")
        assert self._session is not None
        wanted = {name: value for name, value in parameters.items() if name in ("service", "scope")}
        # A token service is often another host; the login goes to it as the registry says, but never in clear.
        plain = realm.startswith("http://") and urlsplit(realm).netloc not in self._insecure
        if login is not None and plain:
            why = f"it wants the login sent in clear to {realm}, which is not among the insecure_registries"
            raise _refused(reference, why)
        headers = {"Authorization": _basic(login)} if login is not None else {}
        async with self._session.get(realm, params=wanted, headers=headers) as response:
            if response.status != 200:
                raise _refused(reference, f"its token service answered {response.status}")
            try:
                answer = await response.json(content_type=None)
            except ValueError:
                answer = {}
        token = (answer.get("token") or answer.get("access_token")) if isinstance(answer, dict) else None
        if not isinstance(token, str) or not token.isprintable():
            raise _refused(reference, "its token service gave no token")
        return token


def _basic(login: tuple[str, str]) -> str:
    return "Basic " + base64.b64encode(":".join(login).encode()).decode()


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
