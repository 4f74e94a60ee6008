"""The UDP listener for 64-bit Linux: batches of up to 64 queries, one `recvmmsg` and one `sendmmsg` for each.

On a wildcard address the destination of each query comes with it as a control message (`IP_PKTINFO`; RFC 3542,
section 6.2, for IPv6) and goes back with its answer, so that a host with several addresses answers from the one that
was asked.
"""

from __future__ import annotations

import ctypes
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from routing.adapters.batch import BATCH, MESSAGE_BYTES, Batch, Layout
from routing.adapters.udp import Respond, UdpListener
from routing.core.recall import Slots

_BATCHES: Final = 4
"""So many at once, then the event loop looks at the others."""
_MSG_DONTWAIT: Final = 0x40

Call = Callable[[int, int, int, int], int]
"""Socket, address of the messages, their number, flags; how many were done, or -1."""

Recall = Callable[[Slots, int], Sequence[int]]
"""Answers what it can of so many slots; those that are left."""


def _system_calls() -> tuple[Call, Call] | None:
    """`recvmmsg` and `sendmmsg` of the C library, or None where they are missing or laid out otherwise."""
    if ctypes.sizeof(ctypes.c_void_p) != 8 or ctypes.sizeof(ctypes.c_size_t) != 8:
        return None
    try:
        library = ctypes.CDLL(None)
        receive, send = library.recvmmsg, library.sendmmsg
    except (OSError, AttributeError):
        return None
    send.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)
    receive.argtypes = (*send.argtypes, ctypes.c_void_p)

    def receive_now(descriptor: int, messages: int, count: int, flags: int) -> int:
        found: int = receive(descriptor, messages, count, flags, None)
        return found

    return receive_now, send


CALLS: Final = _system_calls()


class BatchListener(UdpListener):
    """Answers what arrives at one socket, batch by batch."""

    def __init__(self, bound: socket.socket, respond: Respond, receive: Call, send: Call, recall: Recall | None = None):
        super().__init__(bound, respond)
        self._recall = recall
        self._receive, self._send = receive, send
        self._descriptor = bound.fileno()
        self._layout = Layout.of(bound)
        self._batch = Batch(self._layout)

    def _readable(self) -> None:
        batch = self._batch
        for _ in range(_BATCHES):
            batch.renew()
            count = self._receive(self._descriptor, batch.in_address, BATCH, _MSG_DONTWAIT)
            if count <= 0:
                return
            left = range(count) if self._recall is None else self._recall(batch.view, count)
            self._answer_left(batch, count, left)
            if count < BATCH:
                return

    def _answer_left(self, batch: Batch, count: int, left: Iterable[int]) -> None:
        """Answers the slots that are left of a batch, and sends all of it."""
        start = 0
        for slot in left:
            answer = self._answer(batch, slot)
            if answer is None:
                self._send_slots(batch, start, slot)
                start = slot + 1
            else:
                batch.answer(slot, answer)
        self._send_slots(batch, start, count)

    def _answer(self, batch: Batch, slot: int) -> bytes | None:
        query, source = batch.query(slot)
        return self._respond(query, source, False)

    def _send_slots(self, batch: Batch, start: int, end: int) -> None:
        batch.return_to_sender(start, end)
        while start < end:
            address = batch.out_address + start * MESSAGE_BYTES
            sent = self._send(self._descriptor, address, end - start, _MSG_DONTWAIT)
            if sent <= 0:
                # The kernel does not take the first of them; the resolver will ask again.
                self.dropped += 1
                sent = 1
            start += sent
