"""The UDP listener for 64-bit Linux: batches of up to 64 queries, one `recvmmsg` and one `sendmmsg` for each.

On a wildcard address the destination of each query comes with it as a control message (`IP_PKTINFO`; RFC 3542,
section 6.2, for IPv6) and goes back with its answer, so that a host with several addresses answers from the one that
was asked.
"""

from __future__ import annotations

import ctypes
import mmap
import socket
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from routing.adapters.hot_answers import ANSWERED, LIMITED, HotAnswers, ListenerMemory
from routing.adapters.udp import Respond, UdpListener
from routing.core.recall import Slots

_BATCH: Final = 64
_BATCHES: Final = 4
"""So many at once, then the event loop looks at the others."""
_SLOT_BYTES: Final = 2048 + 128
"""Not a power of two: the beginnings of slots would share a few lines of the processor's cache."""
_NAME_SLOT: Final = 32
_CONTROL_SLOT: Final = 64
_V4_NETWORK_BYTES: Final = 3
_V6_NETWORK_BYTES: Final = 7
_MSG_DONTWAIT: Final = 0x40
_IP_PKTINFO: Final = 8
_IPV6_RECVPKTINFO: Final = 49

_MESSAGE: Final = struct.Struct("=QI4xQQQQi4xI4x")
"""`struct mmsghdr`: name and its length, iovec and their number, control and its length, flags; bytes received."""
_PART: Final = struct.Struct("=QQ")
"""`struct iovec`."""
_CONTROL_LENGTH_AT: Final = 5
_RECEIVED_AT: Final = 14
"""Where the two are in a message, in units of their own size."""

Call = Callable[[int, int, int, int], int]
"""Socket, address of the messages, their number, flags; how many were done, or -1."""


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


_CALLS: Final = _system_calls()


Recall = Callable[[Slots, int], Sequence[int]]
"""Answers what it can of so many slots; those that are left."""


@dataclass(frozen=True, slots=True)
class HotPath:
    """The compiled loop, and who answers what it leaves: queries that it has not learnt, or that are too many."""

    answers: HotAnswers
    respond: Callable[[bytes, bytes], bytes | None]
    respond_limited: Callable[[bytes, bytes], bytes | None]


def listener_for(
    bound: socket.socket, respond: Respond, hot: HotPath | None = None, recall: Recall | None = None
) -> UdpListener:
    """The fastest listener that this system has."""
    if _CALLS is None:
        return UdpListener(bound, respond)
    if hot is not None:
        return HotListener(bound, respond, *_CALLS, hot)
    return BatchListener(bound, respond, *_CALLS, recall)


def _address(memory: bytearray | mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


class BatchListener(UdpListener):
    """Answers what arrives at one socket, batch by batch. All memory is laid out once.

    An answer goes into the slot of its query, whose name and control message then are its destination and source.
    """

    def __init__(self, bound: socket.socket, respond: Respond, receive: Call, send: Call, recall: Recall | None = None):
        super().__init__(bound, respond)
        self._recall = recall
        self._receive, self._send = receive, send
        self._descriptor = bound.fileno()
        ipv4 = bound.family == socket.AF_INET
        self._name_bytes, source, source_end = (16, 4, 8) if ipv4 else (28, 8, 24)
        self._control_bytes = 0
        if bound.getsockname()[0] in ("0.0.0.0", "::"):
            self._control_bytes = 32 if ipv4 else 40
            if ipv4:
                bound.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
            else:
                bound.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
        # The interface in `in_pktinfo` and `in6_pktinfo`: 0 leaves the way of the answer to the routing table.
        self._interface_at = 16 if ipv4 else 32
        # Maps give out and take slices as bytes, at half the cost of a view of a bytearray.
        self._names = mmap.mmap(-1, _BATCH * _NAME_SLOT)
        self._controls = bytearray(_BATCH * _CONTROL_SLOT)
        self._queries, self._answers = mmap.mmap(-1, _BATCH * _SLOT_BYTES), mmap.mmap(-1, _BATCH * _SLOT_BYTES)
        self._in, self._in_parts = self._laid_out(self._queries)
        self._out, self._out_parts = self._laid_out(self._answers)
        self._in_address, self._out_address = _address(self._in), _address(self._out)
        self._fresh = bytes(self._in)
        self._received = memoryview(self._in).cast("I")
        self._in_sizes, self._out_sizes = memoryview(self._in).cast("Q"), memoryview(self._out).cast("Q")
        self._part_sizes = memoryview(self._out_parts).cast("Q")
        network_end = source + (_V4_NETWORK_BYTES if ipv4 else _V6_NETWORK_BYTES)
        self._slots = [
            (s * _SLOT_BYTES, s * 16 + _RECEIVED_AT, s * _NAME_SLOT + source, s * _NAME_SLOT + source_end)
            for s in range(_BATCH)
        ]
        self._memory = Slots(
            self._queries,
            self._received,
            self._names,
            self._answers,
            self._part_sizes,
            [
                (at, size_at, start, start - source + network_end, 2 * slot + 1)
                for slot, (at, size_at, start, _) in enumerate(self._slots)
            ],
        )

    def _laid_out(self, content: mmap.mmap) -> tuple[bytearray, bytearray]:
        """Messages over the slots of `content`, and their parts."""
        messages, parts = bytearray(_BATCH * _MESSAGE.size), bytearray(_BATCH * _PART.size)
        name, control, data, part = (_address(m) for m in (self._names, self._controls, content, parts))
        for slot in range(_BATCH):
            _PART.pack_into(parts, slot * _PART.size, data + slot * _SLOT_BYTES, _SLOT_BYTES)
            _MESSAGE.pack_into(
                messages,
                slot * _MESSAGE.size,
                name + slot * _NAME_SLOT,
                self._name_bytes,
                part + slot * _PART.size,
                1,
                control + slot * _CONTROL_SLOT if self._control_bytes else 0,
                self._control_bytes,
                0,
                0,
            )
        return messages, parts

    def _readable(self) -> None:
        for _ in range(_BATCHES):
            self._in[:] = self._fresh
            count = self._receive(self._descriptor, self._in_address, _BATCH, _MSG_DONTWAIT)
            if count <= 0:
                return
            self._answer_batch(count)
            if count < _BATCH:
                return

    def _answer_batch(self, count: int) -> None:
        left = range(count) if self._recall is None else self._recall(self._memory, count)
        self._answer_left(count, left)

    def _answer_left(self, count: int, left: Iterable[int]) -> None:
        """Answers the slots that are left of a batch, and sends all of it."""
        start = 0
        for slot in left:
            at, size_at, source, source_end = self._slots[slot]
            query = self._queries[at : at + self._received[size_at]]
            answer = self._answer(slot, query, self._names[source:source_end])
            if answer is None:
                self._send_slots(start, slot)
                start = slot + 1
            else:
                self._answers[at : at + len(answer)] = answer
                self._part_sizes[2 * slot + 1] = len(answer)
        self._send_slots(start, count)

    def _answer(self, slot: int, query: bytes, source: bytes) -> bytes | None:
        return self._respond(query, source, False)

    def _return_to_sender(self, start: int, end: int) -> None:
        """Answers leave from the address that was asked; without a control message the kernel chooses."""
        for slot in range(start, end):
            at = slot * _CONTROL_SLOT + self._interface_at
            self._controls[at : at + 4] = b"\0\0\0\0"
            self._out_sizes[slot * 8 + _CONTROL_LENGTH_AT] = self._in_sizes[slot * 8 + _CONTROL_LENGTH_AT]

    def _send_slots(self, start: int, end: int) -> None:
        if self._control_bytes:
            self._return_to_sender(start, end)
        while start < end:
            sent = self._send(self._descriptor, self._out_address + start * _MESSAGE.size, end - start, _MSG_DONTWAIT)
            if sent <= 0:
                # The kernel does not take the first of them; the resolver will ask again.
                self.dropped += 1
                sent = 1
            start += sent


class HotListener(BatchListener):
    """The same, with the compiled loop first: it receives and sends by itself what it can answer whole."""

    def __init__(self, bound: socket.socket, respond: Respond, receive: Call, send: Call, hot: HotPath):
        super().__init__(bound, respond, receive, send)
        self._hot = hot
        self._whats = bytearray(_BATCH)
        _, _, source, source_end = self._slots[0]
        self._layout = ListenerMemory(
            received=self._in_address,
            sent=self._out_address,
            queries=_address(self._queries),
            sources=_address(self._names) + source,
            answers=_address(self._answers),
            controls=_address(self._controls),
            whats=_address(self._whats),
            out_sizes=_address(self._out_parts) + 8,
            descriptor=self._descriptor,
            batch=_BATCH,
            slot_bytes=_SLOT_BYTES,
            name_bytes=self._name_bytes,
            source_step=_NAME_SLOT,
            source_bytes=source_end - source,
            control_bytes=self._control_bytes,
            control_step=_CONTROL_SLOT,
            interface_at=self._interface_at,
            out_step=_PART.size // 8,
        )
        self._layout_address = ctypes.addressof(self._layout)

    def _readable(self) -> None:
        answers = self._hot.answers
        for _ in range(_BATCHES):
            count = answers.serve(answers.table, self._layout_address, _BATCHES)
            if not count:
                break
            whats = self._whats
            self._answer_left(count, [slot for slot in range(count) if whats[slot] != ANSWERED])
            if count < _BATCH:
                break
        if self._layout.dropped:
            self.dropped += self._layout.dropped
            self._layout.dropped = 0

    def _answer(self, slot: int, query: bytes, source: bytes) -> bytes | None:
        """An answer to what the compiled loop has left."""
        hot = self._hot
        return (hot.respond_limited if self._whats[slot] == LIMITED else hot.respond)(query, source)
