"""TLS of a client on top of a plain transport (RFC 8446, RFC 5246): OpenSSL does all of it, in memory.

asyncio's own layer asks for more after each record and gets an exception for it, and reads into a quarter of a megabyte
each time. Here a record is read once, what is written leaves at once, and nothing of it is kept here.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Iterable
from typing import Any, Final, cast

READ_BYTES: Final = 16 * 1024
"""What a record holds at most (RFC 8446 section 5.1)."""


class TlsConnection(asyncio.Transport, asyncio.Protocol):
    """The server's side of one connection: protocol of the transport below, transport of the protocol above.

    That is made when the handshake is over. Whoever waits for `shaken` gives up after a while and ends it.
    """

    __slots__ = (
        "_below",
        "_closing",
        "_down",
        "_incoming",
        "_loop",
        "_make",
        "_out",
        "_outgoing",
        "_paused",
        "_pending",
        "_protocol",
        "_read",
        "_received",
        "_ssl",
        "_up",
        "_write",
        "shaken",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, context: ssl.SSLContext, make: Callable[[], asyncio.BaseProtocol]
    ):
        super().__init__()
        self._loop = loop
        self._make = make
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        # What this wraps has the same methods, and needs no frame of Python for each.
        inner: Any = getattr(self._ssl, "_sslobj", self._ssl)
        self._read, self._write, self._pending = inner.read, inner.write, inner.pending
        self._up, self._out = self._incoming.write, self._outgoing.read
        self._down: Callable[[bytes], None]
        self._below: asyncio.Transport | None = None
        self._protocol: asyncio.Protocol | None = None
        self._received: Callable[[bytes], None]
        self._paused = False
        self._closing = False
        self.shaken: asyncio.Future[None] = loop.create_future()

    # ---- the protocol of the transport below

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._below = cast(asyncio.Transport, transport)
        self._down = self._below.write

    def data_received(self, data: bytes) -> None:
        self._up(data)
        if self._protocol is None:
            self._shake()
        elif not self._paused:
            self._deliver()

    def _shake(self) -> None:
        if self._closing:
            return
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except (ssl.SSLError, ssl.CertificateError) as error:
            self._fail(error)
            return
        self._flush()
        if not self.shaken.done():
            self.shaken.set_result(None)
        self.set_protocol(self._make())
        assert self._protocol is not None
        self._protocol.connection_made(self)
        if not self._paused and self._incoming.pending:
            self._deliver()

    def _deliver(self) -> None:
        """Gives out what has come, as long as it is wanted."""
        try:
            while not self._closing:
                data = self._read(READ_BYTES)
                if not data:
                    self._ended()
                    return
                self._received(data)
                if self._paused or not (self._incoming.pending or self._pending()):
                    break
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._ended()
            return
        except ssl.SSLError:
            self._leave()
            return
        if self._outgoing.pending:
            self._flush()

    def _ended(self) -> None:
        """The client sends no more (RFC 8446 section 6.1)."""
        if self._protocol is not None and not self._closing:
            self._protocol.eof_received()
            self.close()

    def _leave(self) -> None:
        """Ends the connection without a goodbye, once the alert has left that says why."""
        self._flush()
        self._closing = True
        self.below.close()

    def _fail(self, error: Exception) -> None:
        if not self.shaken.done():
            self.shaken.set_exception(error)
        self._leave()

    def give_up(self) -> None:
        """There was no handshake in time."""
        if not self._closing:
            self.abort()

    def _flush(self) -> None:
        data = self._out()
        if data and self._below is not None and not self._below.is_closing():
            self._below.write(data)

    def eof_received(self) -> bool:
        if self._protocol is None:
            self._fail(ConnectionResetError("the client has gone before the handshake was over"))
        else:
            self._ended()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        if not self.shaken.done():
            self.shaken.set_exception(exc or ConnectionResetError("the client has gone"))
        protocol, self._protocol = self._protocol, None  # each holds the other
        self._received, self._make = _nowhere, asyncio.Protocol
        if protocol is not None:
            protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        if self._protocol is not None:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        if self._protocol is not None:
            self._protocol.resume_writing()

    # ---- the transport of the protocol above

    @property
    def below(self) -> asyncio.Transport:
        """The plain transport."""
        assert self._below is not None
        return self._below

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing:
            return
        sent = self._write(data)
        while sent < len(data):
            sent += self._write(data[sent:])
        self._down(self._out())

    def writelines(self, parts: Iterable[bytes | bytearray | memoryview]) -> None:
        if self._closing:
            return
        for part in parts:
            sent = self._write(part)
            while sent < len(part):
                sent += self._write(part[sent:])
        self._down(self._out())

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "ssl_object":
            return self._ssl
        if name == "peercert":
            return self._ssl.getpeercert()
        return self.below.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = cast(asyncio.Protocol, protocol)
        self._received = self._protocol.data_received

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert self._protocol is not None
        return self._protocol

    def pause_reading(self) -> None:
        if not self._paused:
            self._paused = True
            if not self.below.is_closing():
                self.below.pause_reading()

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            if not self.below.is_closing():
                self.below.resume_reading()
                self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        if not self._paused and not self._closing and self._protocol is not None:
            self._deliver()

    def is_reading(self) -> bool:
        return not self._paused

    def get_write_buffer_size(self) -> int:
        return self.below.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.below.set_write_buffer_limits(high, low)

    def can_write_eof(self) -> bool:
        return False

    def is_closing(self) -> bool:
        return self._closing or self.below.is_closing()

    def close(self) -> None:
        """Says goodbye (RFC 8446 section 6.1, RFC 9112 section 9.8), and goes once what was written has left."""
        if self._closing:
            return
        self._closing = True
        with contextlib.suppress(ssl.SSLError, ValueError):
            self._ssl.unwrap()
        self._flush()
        self.below.close()

    def abort(self) -> None:
        self._closing = True
        if self._below is not None:
            self._below.abort()


def _nowhere(_: bytes) -> None:
    """Where bytes go of a connection that is lost."""
