"""The UDP listener with the compiled loop: a thread of its own receives, answers what it has learnt, and keeps the rest
for Python, which is rung for when there is some."""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from routing.adapters.batch import BATCH, CONTROL_SLOT, NAME_SLOT, PART_BYTES, SLOT_BYTES, Batch, address_of
from routing.adapters.hot_answers import ANSWERED, LIMITED, BatchMemory, HotAnswers, LoopMemory
from routing.adapters.udp import Respond, UdpListener
from routing.adapters.udp_batch import CALLS, BatchListener, Call, Recall

_WAITING: Final = 64
"""Batches that may wait for Python."""
_TAKEN_MAX: Final = 4
"""So many at once, then the event loop looks at the others."""
_LOOK_MS: Final = 200
"""So often the thread looks whether it is to end when nothing comes. It is not woken by `shutdown`: the socket may be
shared with a successor, for which it would end as well."""


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
    if CALLS is None:
        return UdpListener(bound, respond)
    if hot is not None:
        return HotListener(bound, respond, *CALLS, hot)
    return BatchListener(bound, respond, *CALLS, recall)


class HotListener(BatchListener):
    """Answers from two threads: the compiled loop what was learnt, the event loop all else."""

    def __init__(self, bound: socket.socket, respond: Respond, receive: Call, send: Call, hot: HotPath):
        super().__init__(bound, respond, receive, send)
        self._hot = hot
        self._taken_whats = bytearray(BATCH)
        self._waiting = [Batch(self._layout) for _ in range(_WAITING)]
        self._whats = [bytearray(BATCH) for _ in range(_WAITING + 1)]
        self._batches = (BatchMemory * (_WAITING + 1))(
            *(
                self._memory_of(batch, whats)
                for batch, whats in zip((*self._waiting, self._batch), self._whats, strict=True)
            )
        )
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        layout, base = self._layout, ctypes.addressof(self._batches)
        self._loop = LoopMemory(
            table=hot.answers.table,
            receiving=base + _WAITING * ctypes.sizeof(BatchMemory),
            waiting=base,
            descriptor=self._descriptor,
            bell=self._bell,
            batches=_WAITING,
            batch=BATCH,
            slot_bytes=SLOT_BYTES,
            name_bytes=layout.name_bytes,
            name_step=NAME_SLOT,
            source_at=layout.source_at,
            source_bytes=layout.source_bytes,
            control_bytes=layout.control_bytes,
            control_step=CONTROL_SLOT,
            interface_at=layout.interface_at,
            out_step=PART_BYTES // 8,
        )
        self._address = ctypes.addressof(self._loop)
        self._thread = threading.Thread(target=hot.answers.run, args=(self._address,), name="dns-udp", daemon=True)

    @staticmethod
    def _memory_of(batch: Batch, whats: bytearray) -> BatchMemory:
        return BatchMemory(
            received=batch.in_address,
            sent=batch.out_address,
            queries=address_of(batch.queries),
            answers=address_of(batch.answers),
            names=address_of(batch.names),
            controls=address_of(batch.controls),
            whats=address_of(whats),
            out_sizes=address_of(batch.out_parts) + 8,
        )

    @property
    def unsent(self) -> int:
        """Answers that the kernel did not take."""
        return self.dropped + int(self._loop.dropped)

    @property
    def shed(self) -> int:
        """Queries that found no room to wait for Python."""
        return int(self._loop.shed)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begins to answer."""
        self._socket.setblocking(True)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 1000 * _LOOK_MS))
        loop.add_reader(self._bell, self._rung)
        self._thread.start()

    def close(self, loop: asyncio.AbstractEventLoop) -> None:
        """Ends, after an answer to all that has come so far."""
        self._hot.answers.stop(self._address)
        self._thread.join()
        loop.remove_reader(self._bell)
        while self._answer_waiting():
            pass
        for _ in range(_WAITING // _TAKEN_MAX):
            self._readable()
        os.close(self._bell)
        self._socket.close()

    def _rung(self) -> None:
        # Read before the batches: what rings from now on rings again.
        os.eventfd_read(self._bell)
        for _ in range(_TAKEN_MAX):
            if not self._answer_waiting():
                break
        else:
            os.eventfd_write(self._bell, 1)

    def _answer_waiting(self) -> bool:
        """Answers the batch that waits longest; whether there was one."""
        answers = self._hot.answers
        number = answers.take(self._address)
        if number < 0:
            return False
        whats, count = self._whats[number], self._batches[number].count
        self._taken_whats = whats
        self._answer_left(self._waiting[number], count, [slot for slot in range(count) if whats[slot] != ANSWERED])
        answers.done(self._address)
        return True

    def _answer(self, batch: Batch, slot: int) -> bytes | None:
        query, source = batch.query(slot)
        if batch is self._batch:
            # Received here, after the end of the thread.
            return self._respond(query, source, False)
        limited = self._taken_whats[slot] == LIMITED
        return (self._hot.respond_limited if limited else self._hot.respond)(query, source)
