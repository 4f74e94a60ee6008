"""Ports for servers that a test starts, and starts again, on the same port."""

from __future__ import annotations

import contextlib
import os
import random
import socket

# Below the range from which the kernel takes the ports of outgoing connections (ip(7), ip_local_port_range): one that
# was free a moment ago stays free until the server has it. Tests that run beside each other have a part of it each.
_FIRST, _PART, _PARTS = 20_000, 2_400, 5
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _PARTS
_next = random.SystemRandom().randrange(_PART)


def free_port() -> int:
    """A port of loopback that nobody listens on, over TCP or UDP. None is given twice before all were."""
    global _next
    while True:
        _next = (_next + 1) % _PART
        port = _FIRST + _WORKER * _PART + _next
        with contextlib.suppress(OSError), socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind(("127.0.0.1", port))
            udp.bind(("127.0.0.1", port))
            return port
