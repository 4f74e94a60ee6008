"""A door into the lab: listens on the machine's loopback, connects from inside a host's network namespace.

The listening sockets are opened before the process moves into the namespace, so they stay outside.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import functools
import os
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from lab.machine import namespace_path

_CLONE_NEWNET: Final = 0x40000000
_CONNECT_TIMEOUT_S: Final = 5.0
_CONNECTIONS_MAX: Final = 256
_CHUNK_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Forward:
    """A port of the machine's loopback, and the address and port inside that it leads to."""

    listen_port: int
    address: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Forward:
        """From `LISTEN_PORT=ADDRESS:PORT`; ValueError when it is not of that form."""
        listen, _, target = text.partition("=")
        address, _, port = target.rpartition(":")
        return cls(int(listen), address, int(port))

    def __str__(self) -> str:
        return f"{self.listen_port}={self.address}:{self.port}"


def enter_network_namespace(name: str) -> None:
    """Moves the calling thread into a network namespace (setns(2)); OSError when that fails."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(namespace_path(name), os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(namespace_path(name)))
    finally:
        os.close(descriptor)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while chunk := await reader.read(_CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


async def _pass(forward: Forward, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection, both ways, until both sides are done."""
    try:
        onward = asyncio.open_connection(forward.address, forward.port)
        inner_reader, inner_writer = await asyncio.wait_for(onward, _CONNECT_TIMEOUT_S)
    except (OSError, TimeoutError):
        writer.close()
        return
    await asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer))
    for each in (writer, inner_writer):
        each.close()


async def serve(listeners: Sequence[tuple[socket.socket, Forward]]) -> None:
    """Passes connections on until it is cancelled; more than the limit at once wait in the kernel's queue."""
    slots = asyncio.Semaphore(_CONNECTIONS_MAX)

    async def accept(forward: Forward, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with slots:
            await _pass(forward, reader, writer)

    servers = [
        await asyncio.start_server(functools.partial(accept, forward), sock=listener) for listener, forward in listeners
    ]
    await asyncio.gather(*(server.serve_forever() for server in servers))


def main() -> int:
    """`python -m lab.forwarder --namespace NAME --forward PORT=ADDRESS:PORT …`; started by the supervisor."""
    parser = argparse.ArgumentParser(prog="lab.forwarder", description=__doc__)
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--forward", type=Forward.parse, action="append", required=True)
    arguments = parser.parse_args()
    listeners = [(socket.create_server(("127.0.0.1", f.listen_port), reuse_port=False), f) for f in arguments.forward]
    enter_network_namespace(arguments.namespace)
    asyncio.run(serve(listeners))
    return 0


if __name__ == "__main__":
    sys.exit(main())
