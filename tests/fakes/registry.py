"""An image registry in memory."""

from __future__ import annotations

import hashlib

from control_plane.core.image import parse_reference
from fleet.errors import Code, LocciError
from fleet.signatures import Signature


class FakeRegistry:
    """Every tag exists but those of repositories named `missing`; `push` moves a tag."""

    def __init__(self) -> None:
        self._content: dict[str, str] = {}
        self.signed: dict[str, list[Signature]] = {}
        """Signatures by image."""
        self.asked = 0

    def push(self, reference: str, content: str) -> None:
        """Makes `reference` point at another digest."""
        self._content[reference] = content

    async def pin(self, reference: str) -> str:
        self.asked += 1
        parsed = parse_reference(reference)
        if parsed.repository.endswith("missing"):
            raise LocciError(Code.NOT_FOUND, "IMAGE_NOT_FOUND", f"{reference}: there is no such image")
        content = self._content.get(reference, reference)
        return parsed.pinned(parsed.digest or f"sha256:{hashlib.sha256(content.encode()).hexdigest()}")

    async def signatures(self, image: str) -> list[Signature]:
        return self.signed.get(image, [])

    async def close(self) -> None:
        """Nothing is open."""
