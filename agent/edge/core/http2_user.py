"""Who answers what comes over a connection of HTTP/2."""

from __future__ import annotations

from typing import Final, Protocol

from agent.edge.core.hpack_decoding import Block


class User(Protocol):
    """Who answers. All are called while octets are received."""

    def quick(self, number: int, block: Block) -> bool:
        """A request without a body came: True when it was answered at once, by `answer`."""
        ...

    def request(self, number: int, block: Block, ended: bool) -> None:
        """A request came that `quick` has not answered; its body follows unless `ended`."""
        ...

    def body(self, number: int, data: bytes, cost: int) -> None:
        """Some of a request's body came; once it has been read the client gets back `cost`, by `credit`."""
        ...

    def whole(self, number: int) -> None:
        """A request's body has come to its end."""
        ...

    def trailing(self, number: int, fields: list[tuple[bytes, bytes]]) -> None:
        """The trailers of a request came, whose end follows at once (section 8.1)."""
        ...

    def broken(self, number: int) -> None:
        """A stream was reset, by either side: nothing more is taken or wanted."""
        ...

    def prioritised(self, number: int, value: bytes) -> None:
        """The client has said how urgent a stream is, that it may have yet to open (RFC 9218 section 7)."""
        ...

    def leaves(self) -> None:
        """The client makes no new requests; it still wants what it has asked for (section 6.8)."""
        ...


class _Nobody:
    """Answers nothing."""

    def quick(self, number: int, block: Block) -> bool:
        """Nothing is answered."""
        return False

    def request(self, number: int, block: Block, ended: bool) -> None:
        """Nobody is told."""

    def body(self, number: int, data: bytes, cost: int) -> None:
        """Nobody is told."""

    def whole(self, number: int) -> None:
        """Nobody is told."""

    def trailing(self, number: int, fields: list[tuple[bytes, bytes]]) -> None:
        """Nobody is told."""

    def broken(self, number: int) -> None:
        """Nobody is told."""

    def prioritised(self, number: int, value: bytes) -> None:
        """Nobody is told."""

    def leaves(self) -> None:
        """Nobody is told."""


NOBODY: Final = _Nobody()
"""Stands in for a user that has gone."""
