"""The UDP listener: a non-blocking socket read in batches from the event loop; nothing in between."""

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
from collections.abc import Callable
from typing import Final

Respond = Callable[[bytes, bytes, bool], bytes | None]
"""Query, packed address of the client, whether over TCP; the answer or None for silence."""

_ATTACH_REUSEPORT_CBPF: Final = 51
_RECEIVE_BUFFER_FORCE: Final = 33
_BATCH: Final = 64
_RECEIVE_BYTES: Final = 4096
_KERNEL_BUFFER_BYTES: Final = 4 << 20


def bind_udp(host: str, port: int, shared: bool = False) -> socket.socket:
    """A bound socket of the address's own family, which other processes may share. Raises OSError when the address is
    taken or not allowed."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            # Beyond what the system lets everybody have, where that is allowed.
            listener.setsockopt(socket.SOL_SOCKET, _RECEIVE_BUFFER_FORCE, _KERNEL_BUFFER_BYTES)
        except OSError:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _KERNEL_BUFFER_BYTES)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener


def share_by_network(bound: socket.socket, processes: int) -> bool:
    """Lets the kernel give all queries of one client network (/24, /56) to the same one of the sockets that share the
    address, so that its limit is counted in one place; False where the kernel cannot.

    A classic BPF program (Linux, `SO_ATTACH_REUSEPORT_CBPF`) computes the socket's number; when there are fewer sockets
    just then, the kernel takes another.
    """
    network_header = 0xFFF00000
    if bound.family == socket.AF_INET6:
        steps = [(0x20, network_header + 12), (0x74, 8), (0x07, 0), (0x20, network_header + 8), (0xAC, 0)]
    else:
        steps = [(0x20, network_header + 12), (0x74, 8)]
    steps += [(0x94, processes), (0x16, 0)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", code, 0, 0, k) for code, k in steps))
    try:
        bound.setsockopt(
            socket.SOL_SOCKET, _ATTACH_REUSEPORT_CBPF, struct.pack("@HP", len(steps), ctypes.addressof(program))
        )
    except OSError:
        return False
    return True


class UdpListener:
    """Answers what arrives at one socket for as long as it is open."""

    def __init__(self, listener: socket.socket, respond: Respond):
        self._socket = listener
        self._respond = respond
        self._family = listener.family
        self.dropped = 0

    @property
    def unsent(self) -> int:
        """Answers that the kernel did not take."""
        return self.dropped

    @property
    def shed(self) -> int:
        """Queries that were too many to be looked at."""
        return 0

    @property
    def port(self) -> int:
        """The port that it is bound to."""
        return int(self._socket.getsockname()[1])

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begins to answer."""
        loop.add_reader(self._socket.fileno(), self._readable)

    def close(self, loop: asyncio.AbstractEventLoop) -> None:
        """Ends."""
        loop.remove_reader(self._socket.fileno())
        self._socket.close()

    def _readable(self) -> None:
        """One batch; when there is more, the loop calls again after it has looked at the others."""
        receive, send, respond = self._socket.recvfrom, self._socket.sendto, self._respond
        family, pack = self._family, socket.inet_pton
        for _ in range(_BATCH):
            try:
                data, client = receive(_RECEIVE_BYTES)
            except BlockingIOError:
                return
            except OSError:
                # An ICMP error of an earlier answer; it says nothing about the next query.
                continue
            answer = respond(data, pack(family, client[0].partition("%")[0]), False)
            if answer is not None:
                try:
                    send(answer, client)
                except OSError:
                    self.dropped += 1
