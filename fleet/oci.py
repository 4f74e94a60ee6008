"""Reading from registries of images (OCI Distribution Specification 1.1, "Pulling manifests"), with their logins."""

from __future__ import annotations

import base64
import hashlib
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from fleet.signatures import PAYLOAD_BYTES_MAX, Signature, layers_of, tag_of

_DOCKER_HUB: Final = "docker.io"
MANIFEST_BYTES_MAX: Final = 4 << 20
_DOCKER_HUB_SERVER: Final = "registry-1.docker.io"
_TIMEOUT: Final = aiohttp.ClientTimeout(total=20, connect=5)
_PARAMETER = re.compile(r'(\w+)="([^"]*)"')
_HEADERS: Final = ("WWW-Authenticate", "Docker-Content-Digest")
_SIGNATURES_ACCEPT: Final = (
    "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
)

Login = Callable[[str], tuple[str, str] | None]


class RefusedError(Exception):
    """A registry does not give something out; the message says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a registry answered; `body` is empty for HEAD."""

    status: int
    headers: dict[str, str]
    body: bytes


class Registries:
    """Asks registries. Raises RefusedError, aiohttp.ClientError, TimeoutError or OSError; each question has a time
    limit."""

    def __init__(
        self,
        insecure: Callable[[str], bool],
        login: Login,
        trust: Callable[[str], ssl.SSLContext | None] = lambda host: None,
    ):
        """Hosts (`host:port`) that are `insecure` are spoken to over plain HTTP. `login` knows user name and password
        for a host, or None; `trust` whom to trust as a host, or None for those that the system trusts."""
        self._insecure = insecure
        self._login = login
        self._trust = trust
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Ends its connections."""
        if self._session is not None:
            await self._session.close()

    async def ask(self, method: str, host: str, repository: str, what: str, accept: str) -> Answer:
        """Whatever it answers once it knows who asks; `what` as in `manifests/latest`."""
        server = _DOCKER_HUB_SERVER if host == _DOCKER_HUB else host
        url = f"{'http' if self._insecure(host) else 'https'}://{server}/v2/{repository}/{what}"
        headers = {"Accept": accept}
        answer = await self._ask(method, host, url, headers)
        if answer.status == 401:
            challenge = answer.headers.get("WWW-Authenticate", "")
            headers["Authorization"] = await self._authorization(challenge, self._login(host))
            answer = await self._ask(method, host, url, headers)
        return answer

    async def signatures(self, image: str) -> list[Signature]:
        """The signatures beside an image by digest; none where there are none."""
        name, _, digest = image.partition("@")
        host, _, repository = name.partition("/")
        answer = await self.ask("GET", host, repository, f"manifests/{tag_of(digest)}", _SIGNATURES_ACCEPT)
        if answer.status == 404:
            return []
        _check(answer)
        found = []
        for layer in layers_of(answer.body):
            blob = await self.ask("GET", host, repository, f"blobs/{layer.digest}", "*/*")
            if blob.status == 404 or len(blob.body) > PAYLOAD_BYTES_MAX:
                continue
            _check(blob)
            if layer.digest == f"sha256:{hashlib.sha256(blob.body).hexdigest()}":
                found.append(Signature(blob.body, layer.signature))
        return found

    async def _ask(self, method: str, host: str, url: str, headers: dict[str, str]) -> Answer:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=_TIMEOUT)
        trusted = self._trust(host) or True
        async with self._session.request(method, url, headers=headers, ssl=trusted) as response:
            body = await _read(response) if method == "GET" else b""
            found = {name: response.headers[name] for name in _HEADERS if name in response.headers}
            return Answer(response.status, found, body)

    async def _authorization(self, challenge: str, login: tuple[str, str] | None) -> str:
        """What a challenge is answered with: the host's login, or a token for it or for anyone (RFC 7617, RFC 6750)."""
        if challenge.partition(" ")[0].lower() != "basic":
            return f"Bearer {await self._token(challenge, login)}"
        if login is None:
            raise RefusedError("it wants a login")
        return _basic(login)

    async def _token(self, challenge: str, login: tuple[str, str] | None) -> str:
        """A bearer token (distribution.github.io, Token Authentication Specification)."""
        scheme, _, rest = challenge.partition(" ")
        parameters = dict(_PARAMETER.findall(rest))
        realm = parameters.pop("realm", "")
        if scheme.lower() != "bearer" or not realm.startswith(("https://", "http://")):
            raise RefusedError("it wants a login")
        assert self._session is not None
        wanted = {name: value for name, value in parameters.items() if name in ("service", "scope")}
        # A token service is often another host; the login goes to it as the registry says, but never in clear.
        service = urlsplit(realm).netloc
        if login is not None and realm.startswith("http://") and not self._insecure(service):
            why = f"it wants the login sent in clear to {realm}, which is not among the insecure_registries"
            raise RefusedError(why)
        headers = {"Authorization": _basic(login)} if login is not None else {}
        trusted = self._trust(service) or True
        async with self._session.get(realm, params=wanted, headers=headers, ssl=trusted) as response:
            if response.status != 200:
                raise RefusedError(f"its token service answered {response.status}")
            try:
                answer = await response.json(content_type=None)
            except ValueError:
                answer = {}
        token = (answer.get("token") or answer.get("access_token")) if isinstance(answer, dict) else None
        if not isinstance(token, str) or not token.isprintable():
            raise RefusedError("its token service gave no token")
        return token


def _check(answer: Answer) -> None:
    if answer.status in (401, 403):
        raise RefusedError(f"it answered {answer.status}")
    if answer.status != 200:
        raise ConnectionError(f"it answered {answer.status}")


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = b""
    while chunk := await response.content.read(MANIFEST_BYTES_MAX + 1 - len(body)):
        body += chunk
    if len(body) > MANIFEST_BYTES_MAX:
        raise RefusedError(f"what it gives is longer than {MANIFEST_BYTES_MAX} bytes")
    return body


def _basic(login: tuple[str, str]) -> str:
    return "Basic " + base64.b64encode(":".join(login).encode()).decode()
