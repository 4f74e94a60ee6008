"""Whether images are signed by whom they must be: by what was found beside them in registries, and kept on this host.

What was found once is kept in a directory, so that a container is made without a registry in reach as well.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, Final

import aiohttp

from agent.adapters.engine_errors import EngineError
from agent.core.mirrors import host_of
from fleet.files import write_atomic
from fleet.oci import Login, RefusedError, Registries
from fleet.signatures import Signature, load_key, signed_by

_CERTIFICATES: Final = Path("/etc/docker/certs.d")


@dataclass(frozen=True, slots=True)
class Demand:
    """Somebody wants one of these keys, in PEM, to have signed an image."""

    who: str
    keys: tuple[str, ...]


class Signatures:
    """Speaks to registries as Docker Engine does: over plain HTTP to those that it takes for insecure, trusting as a
    registry whom it trusts (`/etc/docker/certs.d`)."""

    def __init__(
        self,
        kept: Path,
        settings: Callable[[], Awaitable[Mapping[str, Any]]],
        login: Login,
        sources: Callable[[str], Sequence[str]],
    ):
        """`kept` is the directory for what was found; `settings` are those of the engine for registries, and may raise
        EngineError; `login` knows user name and password for a host, `sources` the names by which an image can be
        had."""
        self._kept = kept
        self._ask_settings = settings
        self._sources = sources
        self._settings: Mapping[str, Any] = {}
        self._registries = Registries(self._is_insecure, login, _trusted)

    async def close(self) -> None:
        """Ends its connections."""
        await self._registries.close()

    async def check(self, image: str, demands: Collection[Demand]) -> None:
        """Returns when each demand is met. Raises EngineError with a reason when one is not."""
        open_demands = self._unmet(image, self._load(image), demands)
        if not open_demands:
            return
        self._settings = await self._ask_settings()
        said: list[str] = []
        for source in self._sources(image):
            try:
                found = await self._registries.signatures(source)
            except (RefusedError, aiohttp.ClientError, TimeoutError, OSError) as error:
                said.append(f"{host_of(source)}: {str(error) or type(error).__name__}")
                continue
            if not self._unmet(image, found, demands):
                await asyncio.to_thread(self._keep, image, found)
                return
            what = f"{len(found)} signature(s), none by them" if found else "no signature"
            said.append(f"{host_of(source)}: {what}")
        who = " and ".join(demand.who for demand in open_demands)
        raise EngineError(f"image {image} is not known to be signed by the keys of {who} ({'; '.join(said)})")

    def forget(self, images: Collection[str]) -> None:
        """Keeps only what is known of these images. Raises OSError."""
        names = {self._file(image).name for image in images}
        for file in self._kept.glob("*.json"):
            if file.name not in names:
                file.unlink(missing_ok=True)

    def _unmet(self, image: str, signatures: Sequence[Signature], demands: Collection[Demand]) -> list[Demand]:
        digest = image.partition("@")[2]
        return [d for d in demands if not signed_by(digest, signatures, [load_key(pem) for pem in d.keys])]

    def _file(self, image: str) -> Path:
        return self._kept / f"{image.partition('@')[2].partition(':')[2]}.json"

    def _load(self, image: str) -> list[Signature]:
        """What is damaged counts for nothing."""
        try:
            rows = json.loads(self._file(image).read_text())
            return [Signature(base64.b64decode(payload), base64.b64decode(signature)) for payload, signature in rows]
        except (OSError, ValueError, TypeError):
            return []

    def _keep(self, image: str, found: Sequence[Signature]) -> None:
        """As well as it can: without it the registry is asked again."""
        rows = [[base64.b64encode(part).decode() for part in (s.payload, s.signature)] for s in found]
        try:
            self._kept.mkdir(exist_ok=True, mode=0o700)
            write_atomic(self._file(image), json.dumps(rows).encode())
        except OSError:
            return

    def _is_insecure(self, host: str) -> bool:
        known = (self._settings.get("IndexConfigs") or {}).get(host)
        if known is not None:
            return not known["Secure"]
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        if name == "localhost":
            return True
        try:
            address = ip_address(name.strip("[]"))
        except ValueError:
            return False
        return any(address in ip_network(text) for text in self._settings.get("InsecureRegistryCIDRs") or ())


def _trusted(host: str) -> ssl.SSLContext | None:
    folder = _CERTIFICATES / host
    if not folder.is_dir():
        return None
    context = ssl.create_default_context()
    for file in sorted(folder.glob("*.crt")):
        context.load_verify_locations(file)
    return context
