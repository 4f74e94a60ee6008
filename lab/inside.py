"""Sockets inside a host's network namespace, for looking at a host from this process."""

from __future__ import annotations

import socket
import threading

from fleet.errors import Code, LocciError
from lab.forwarder import enter_network_namespace


def socket_inside(namespace: str, family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
    """A new socket that belongs to the namespace, wherever it is used afterwards.

    A namespace is a property of a thread, so a thread of its own goes there, opens the socket and ends.
    Raises UNAVAILABLE when the namespace cannot be entered.
    """
    made: list[socket.socket] = []
    failed: list[OSError] = []

    def work() -> None:
        try:
            enter_network_namespace(namespace)
            made.append(socket.socket(family, kind))
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failed:
        raise LocciError(Code.UNAVAILABLE, "NO_NAMESPACE", f"network namespace {namespace}: {failed[0]}")
    return made[0]


def exchange(namespace: str, address: str, port: int, request: bytes, *, limit: int = 65536) -> bytes:
    """What a TCP server at an address answers to `request` until it closes, at most `limit` bytes.

    Raises OSError when it cannot be reached or does not answer within a second.
    """
    with socket_inside(namespace, socket.AF_INET, socket.SOCK_STREAM) as link:
        link.settimeout(1.0)
        link.connect((address, port))
        link.sendall(request)
        return _drain(link, limit)


def exchange_unix(path: str, request: bytes, *, limit: int = 65536) -> bytes:
    """As `exchange`, over a unix socket."""
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(1.0)
        link.connect(path)
        link.sendall(request)
        return _drain(link, limit)


def _drain(link: socket.socket, limit: int) -> bytes:
    answer = b""
    while len(answer) < limit and (chunk := link.recv(limit - len(answer))):
        answer += chunk
    return answer
