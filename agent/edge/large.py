"""Large stored bodies on their way to clients: a piece at a time, and counted, since they stay in memory meanwhile."""

from __future__ import annotations

import asyncio
from typing import Final

from agent.edge.loans import Loans
from agent.edge.responder import Request

PIECE_BYTES: Final = 256 * 1024
"""No more is handed to a connection at a time: TLS makes a copy of what it gets, and keeps it until it is taken."""


class Large:
    """One client's way through a large body."""

    __slots__ = ("_at", "_body", "_loan", "_loans", "close", "request", "size", "status")

    def __init__(self, loans: Loans, body: bytes | memoryview, request: Request, status: int, *, close: bool):
        """With `close` the connection ends behind it."""
        self._loans = loans
        self._loan = loans.take(body)
        self._body = body
        self._at = 0
        self.request = request
        self.status = status
        self.size = len(body)
        self.close = close

    def feed(self, transport: asyncio.Transport) -> bool:
        """Hands over another piece; whether that was the last."""
        at, self._at = self._at, self._at + PIECE_BYTES
        transport.write(memoryview(self._body)[at : self._at])
        return self._at >= self.size

    def over(self) -> None:
        """All was handed over, or the client has gone."""
        self._loans.back(self._loan, self._body)
