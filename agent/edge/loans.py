"""What is known of memory that connections hold on to."""

from __future__ import annotations


class Loans:
    """Bodies that connections still send, whether or not the cache has forgotten them meanwhile."""

    __slots__ = ("_counts", "bytes")

    def __init__(self) -> None:
        self.bytes = 0
        """What they take, each counted once."""
        self._counts: dict[int, int] = {}

    def take(self, body: bytes | memoryview) -> int:
        """Someone sends the body, or a part of it; returns what it is given back by."""
        whole = body.obj if isinstance(body, memoryview) else body
        loan = id(whole)
        count = self._counts[loan] = self._counts.get(loan, 0) + 1
        if count == 1:
            self.bytes += memoryview(whole).nbytes
        return loan

    def back(self, loan: int, body: bytes | memoryview) -> None:
        """It was sent, or nobody wants it any more."""
        self._counts[loan] -= 1
        if not self._counts[loan]:
            del self._counts[loan]
            self.bytes -= memoryview(body.obj if isinstance(body, memoryview) else body).nbytes
