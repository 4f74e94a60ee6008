"""Holds packets of this host back for a while in user space, where the kernel has no netem: the netfilter queue.

The kernel puts packets into a queue (iptables' target NFQUEUE) and sends each when it is told to. A queue to which
nobody listens lets all of them pass (`--queue-bypass`), one that is full lets further ones pass: what an agent that
ends leaves behind does no harm. Messages are those of linux/netfilter/nfnetlink_queue.h.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from collections import deque
from typing import Final

from fleet.errors import Code, LocciError

QUEUE: Final = 4372
"""Number of the queue; another program that uses it is a reason not to begin."""
_NETLINK_NETFILTER: Final = 12
_SOL_NETLINK: Final = 270
_NO_ENOBUFS: Final = 5
_SUBSYSTEM: Final = 3 << 8
_PACKET, _CONFIG, _VERDICT_BATCH = _SUBSYSTEM | 0, _SUBSYSTEM | 2, _SUBSYSTEM | 3
_ERROR: Final = 2
_REQUEST, _ACK = 1, 4
_BIND: Final = 1
_COPY_META: Final = 1
_CFG_CMD, _CFG_PARAMS, _CFG_MAXLEN, _CFG_MASK, _CFG_FLAGS = 1, 2, 3, 4, 5
_FAIL_OPEN_AND_GSO: Final = 1 | 4
_PACKET_HEADER, _VERDICT_HEADER = 1, 2
_ACCEPT: Final = 1
_PACKETS_MAX: Final = 65_535
_RECEIVE_BYTES: Final = 8 * 2**20
_AT_ONCE: Final = 256
_ANSWER_S: Final = 2.0
_LOOK_S: Final = 0.2
_END_S: Final = 5.0
_HEADER: Final = struct.Struct("=IHHIIBBH")
_ATTRIBUTE: Final = struct.Struct("=HH")


class PacketDelay:
    """One queue. Begins and ends are quick; a thread of its own lets packets go when their time has come."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._over = threading.Event()

    def begin(self, delay_s: float) -> None:
        """What the queue gets from now on goes on so much later. Raises UNAVAILABLE when the kernel has no such queue,
        does not allow it, or another program listens to it."""
        self.end()
        link = _connect()
        self._over = threading.Event()
        self._thread = threading.Thread(target=_pass_on, args=(link, delay_s, self._over), daemon=True)
        self._thread.start()

    def end(self) -> None:
        """What is held back goes on at once; that there is no queue is fine."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(_END_S)
            self._thread = None


def _connect() -> socket.socket:
    try:
        link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
    except OSError as error:
        raise _unavailable(str(error)) from error
    try:
        link.settimeout(_ANSWER_S)
        link.setsockopt(_SOL_NETLINK, _NO_ENOBUFS, 1)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
        _ask(link, _attribute(_CFG_CMD, struct.pack(">BBH", _BIND, 0, 0)))
        _ask(
            link,
            _attribute(_CFG_PARAMS, struct.pack(">IB", 0, _COPY_META))
            + _attribute(_CFG_MAXLEN, struct.pack(">I", _PACKETS_MAX))
            + _attribute(_CFG_MASK, struct.pack(">I", _FAIL_OPEN_AND_GSO))
            + _attribute(_CFG_FLAGS, struct.pack(">I", _FAIL_OPEN_AND_GSO)),
        )
    except OSError as error:
        link.close()
        raise _unavailable(str(error)) from error
    return link


def _unavailable(reason: str) -> LocciError:
    message = f"packets cannot be delayed: the kernel has no netem, and its packet queue cannot be used ({reason})"
    return LocciError(Code.UNAVAILABLE, "NO_PACKET_DELAY", message)


def _ask(link: socket.socket, attributes: bytes) -> None:
    """Raises OSError with what the kernel answers."""
    link.send(_message(_CONFIG, _REQUEST | _ACK, attributes))
    while True:
        answer = link.recv(4096)
        if _HEADER.unpack_from(answer.ljust(_HEADER.size, b"\0"))[1] == _ERROR:
            (number,) = struct.unpack_from("=i", answer, 16)
            if number:
                raise OSError(-number, f"error {-number} of the kernel's packet queue")
            return


def _message(kind: int, flags: int, attributes: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(attributes), kind, flags, 0, 0, 0, 0, socket.htons(QUEUE)) + attributes


def _attribute(kind: int, value: bytes) -> bytes:
    return (_ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value).ljust(-(-(4 + len(value)) // 4) * 4, b"\0")


def packet_id(message: bytes) -> int | None:
    """The kernel's number of the packet that a message is about; None for another message."""
    if len(message) < _HEADER.size or _HEADER.unpack_from(message)[1] != _PACKET:
        return None
    at = _HEADER.size
    while at + _ATTRIBUTE.size <= len(message):
        size, kind = _ATTRIBUTE.unpack_from(message, at)
        if size < _ATTRIBUTE.size:
            return None
        if kind == _PACKET_HEADER:
            return int.from_bytes(message[at + 4 : at + 8], "big")
        at += -(-size // 4) * 4
    return None


def _pass_on(link: socket.socket, delay_s: float, over: threading.Event) -> None:
    """Lets packets go in their order; those of one moment together."""
    held: deque[tuple[float, int]] = deque()
    with link, contextlib.suppress(OSError):
        link.setblocking(False)
        while not over.is_set():
            wait_s = min(_LOOK_S, max(0.0, held[0][0] - time.monotonic())) if held else _LOOK_S
            if select.select([link], [], [], wait_s)[0]:
                _take(link, held, delay_s)
            now, last = time.monotonic(), None
            while held and held[0][0] <= now:
                last = held.popleft()[1]
            if last is not None:
                _let_go(link, last)
        if held:
            _let_go(link, held[-1][1])


def _take(link: socket.socket, held: deque[tuple[float, int]], delay_s: float) -> None:
    due = time.monotonic() + delay_s
    for _ in range(_AT_ONCE):
        try:
            number = packet_id(link.recv(4096))
        except BlockingIOError:
            return
        if number is not None:
            held.append((due, number))


def _let_go(link: socket.socket, through: int) -> None:
    link.send(_message(_VERDICT_BATCH, _REQUEST, _attribute(_VERDICT_HEADER, struct.pack(">II", _ACCEPT, through))))
