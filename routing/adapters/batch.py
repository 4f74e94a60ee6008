"""The memory of a batch of datagrams, as `recvmmsg` and `sendmmsg` of 64-bit Linux want it. All is laid out once.

An answer goes into the slot of its query, whose name and control message then are its destination and source.
"""

from __future__ import annotations

import ctypes
import mmap
import socket
import struct
from dataclasses import dataclass
from typing import Final

from routing.core.recall import Slots

BATCH: Final = 64
SLOT_BYTES: Final = 2048 + 128
"""Not a power of two: the beginnings of slots would share a few lines of the processor's cache."""
NAME_SLOT: Final = 32
CONTROL_SLOT: Final = 64
PART_BYTES: Final = 16
_V4_NETWORK_BYTES: Final = 3
_V6_NETWORK_BYTES: Final = 7
_IP_PKTINFO: Final = 8
_IPV6_RECVPKTINFO: Final = 49

_MESSAGE: Final = struct.Struct("=QI4xQQQQi4xI4x")
"""`struct mmsghdr`: name and its length, iovec and their number, control and its length, flags; bytes received."""
MESSAGE_BYTES: Final = _MESSAGE.size
_PART: Final = struct.Struct("=QQ")
"""`struct iovec`."""
_CONTROL_LENGTH_AT: Final = 5
_RECEIVED_AT: Final = 14
"""Where the two are in a message, in units of their own size."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What differs between sockets: how long names are and where the client's address is within; how long control
    messages are (0: none are wanted) and where the interface is within."""

    name_bytes: int
    source_at: int
    source_bytes: int
    control_bytes: int
    interface_at: int

    @classmethod
    def of(cls, bound: socket.socket) -> Layout:
        """That of a bound socket; one on a wildcard address is told to say which address was asked."""
        ipv4 = bound.family == socket.AF_INET
        control = 0
        if bound.getsockname()[0] in ("0.0.0.0", "::"):
            control = 32 if ipv4 else 40
            if ipv4:
                bound.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
            else:
                bound.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
        return cls(16, 4, 4, control, 16) if ipv4 else cls(28, 8, 16, control, 32)


def address_of(memory: bytearray | mmap.mmap) -> int:
    """Where memory lies that is kept alive elsewhere."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


class Batch:
    """Room for queries and their answers."""

    def __init__(self, layout: Layout):
        self._layout = layout
        # Maps give out and take slices as bytes, at half the cost of a view of a bytearray.
        self.names = mmap.mmap(-1, BATCH * NAME_SLOT)
        self.controls = bytearray(BATCH * CONTROL_SLOT)
        self.queries, self.answers = mmap.mmap(-1, BATCH * SLOT_BYTES), mmap.mmap(-1, BATCH * SLOT_BYTES)
        self._in, in_parts = self._laid_out(self.queries)
        self._out, self.out_parts = self._laid_out(self.answers)
        self._fresh = bytes(self._in)
        self._kept = in_parts
        self.in_address, self.out_address = address_of(self._in), address_of(self._out)
        self.received = memoryview(self._in).cast("I")
        self._in_sizes, self._out_sizes = memoryview(self._in).cast("Q"), memoryview(self._out).cast("Q")
        self.part_sizes = memoryview(self.out_parts).cast("Q")
        source, ipv4 = layout.source_at, layout.source_bytes == 4
        self.slots = [
            (
                s * SLOT_BYTES,
                s * 16 + _RECEIVED_AT,
                s * NAME_SLOT + source,
                s * NAME_SLOT + source + layout.source_bytes,
            )
            for s in range(BATCH)
        ]
        """Where query and answer begin, where the size of the query is, where the client's address begins and ends."""
        network_bytes = _V4_NETWORK_BYTES if ipv4 else _V6_NETWORK_BYTES
        places = [
            (s, at, size, start, start + network_bytes, 2 * s + 1) for s, (at, size, start, _) in enumerate(self.slots)
        ]
        self.view = Slots(self.queries, self.received, self.names, self.answers, self.part_sizes, places)

    def _laid_out(self, content: mmap.mmap) -> tuple[bytearray, bytearray]:
        """Messages over the slots of `content`, and their parts."""
        messages, parts = bytearray(BATCH * _MESSAGE.size), bytearray(BATCH * _PART.size)
        name, control, data, part = (address_of(m) for m in (self.names, self.controls, content, parts))
        layout = self._layout
        for slot in range(BATCH):
            _PART.pack_into(parts, slot * _PART.size, data + slot * SLOT_BYTES, SLOT_BYTES)
            _MESSAGE.pack_into(
                messages,
                slot * _MESSAGE.size,
                name + slot * NAME_SLOT,
                layout.name_bytes,
                part + slot * _PART.size,
                1,
                control + slot * CONTROL_SLOT if layout.control_bytes else 0,
                layout.control_bytes,
                0,
                0,
            )
        return messages, parts

    def renew(self) -> None:
        """Makes it ready to receive."""
        self._in[:] = self._fresh

    def query(self, slot: int) -> tuple[bytes, bytes]:
        """What was received in a slot, and the packed address that it came from."""
        at, size_at, source, source_end = self.slots[slot]
        return self.queries[at : at + self.received[size_at]], self.names[source:source_end]

    def answer(self, slot: int, answer: bytes) -> None:
        """Lays an answer into a slot."""
        at = slot * SLOT_BYTES
        self.answers[at : at + len(answer)] = answer
        self.part_sizes[2 * slot + 1] = len(answer)

    def return_to_sender(self, start: int, end: int) -> None:
        """Answers leave from the address that was asked, on whatever way the routing table says (interface 0); without
        a control message the kernel chooses."""
        if not self._layout.control_bytes:
            return
        for slot in range(start, end):
            at = slot * CONTROL_SLOT + self._layout.interface_at
            self.controls[at : at + 4] = b"\0\0\0\0"
            self._out_sizes[slot * 8 + _CONTROL_LENGTH_AT] = self._in_sizes[slot * 8 + _CONTROL_LENGTH_AT]
