"""What waits in the kernel: what a client has sent, and how fast it takes what it is sent.

The kernel takes some megabytes, and lets this process see room in large steps only: by the one alone a slow client
looks stuck, by the other it looks served.
"""

from __future__ import annotations

import asyncio
import fcntl
import struct
import termios

from agent.edge.settings import EdgeSettings


def unconfirmed_bytes(transport: asyncio.Transport) -> int:
    """What was written and the client's system has not confirmed so far (tcp(7), SIOCOUTQ)."""
    size = transport.get_write_buffer_size()
    sock = transport.get_extra_info("socket")
    if sock is not None:
        try:
            size += struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0" * 4))[0]
        except OSError:
            return size
    return size


def unread_bytes(transport: asyncio.Transport) -> int:
    """What has come from the client and was not read so far (ioctl_tty(2), FIONREAD); 0 when it has gone."""
    sock = transport.get_extra_info("socket")
    size = 0
    if sock is not None:
        try:
            (size,) = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.FIONREAD, b"\0" * 4))
        except (OSError, ValueError):
            return 0
    return size


class Unread:
    """Watches a connection from the moment on that no more can be written."""

    __slots__ = ("_base", "_moved_at", "_since", "_size")

    def __init__(self) -> None:
        self._size = self._base = 0
        self._moved_at = self._since = 0.0

    def begin(self, transport: asyncio.Transport, now: float) -> None:
        """No more can be written."""
        self._size = self._base = unconfirmed_bytes(transport)
        self._moved_at = self._since = now

    def too_slow(self, transport: asyncio.Transport, now: float, settings: EdgeSettings) -> bool:
        """Whether the client takes nothing, or less than it must. Called now and then meanwhile."""
        size = unconfirmed_bytes(transport)
        if size != self._size:
            self._size, self._moved_at = size, now
        if now - self._moved_at > settings.idle_timeout_s:
            return True
        if now - self._since < settings.body_rate_window_s:
            return False
        # When it has grown, something was written after all: that window says nothing.
        slow = size <= self._base and (self._base - size) / (now - self._since) < settings.answer_rate_min
        self._base, self._since = size, now
        return slow
