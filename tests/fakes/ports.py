"""Ports for servers that a test starts, and starts again, on the same port."""

from __future__ import annotations

import contextlib
import random
import socket

# Below the range from which the kernel takes the ports of outgoing connections (ip(7), ip_local_port_range): one that
# was free a moment ago stays free until the server has it.
_FIRST, _LAST = 20_000, 32_000


def free_port() -> int:
    """A port of loopback that nobody listens on, over TCP or UDP."""
    while True:
        port = random.randint(_FIRST, _LAST)
        with contextlib.suppress(OSError), socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind(("127.0.0.1", port))
            udp.bind(("127.0.0.1", port))
            return port
