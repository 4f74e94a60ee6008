"""What the edge needs of the outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from agent.edge.core.entry import StoredResponse, Variants
from agent.edge.core.headers import Fields

Found = tuple[StoredResponse, Variants | None]
"""What is stored for a primary key and fits a request, with the marker when it is a variant."""


class SecondTier(Protocol):
    """A cache that edges of a region share. It may lose anything at any time; it never raises and never blocks long."""

    def ask(self, key: bytes, request: Fields, answered: Callable[[Found | None], None]) -> bool:
        """Looks for the primary key; False when that is no use now, otherwise `answered` is called soon."""
        ...

    async def get(self, key: bytes, request: Fields) -> Found | None:
        """As `ask`, for who can wait."""
        ...

    def put(self, key: bytes, entry: StoredResponse, variants: Variants | None, request: Fields) -> None:
        """Stores it some time soon, or not at all when there is too much to do."""
        ...

    def remove(self, key: bytes) -> None:
        """Forgets the primary key with all its variants some time soon."""
        ...

    async def close(self) -> None:
        """Ends it; what was not written is lost."""
        ...
