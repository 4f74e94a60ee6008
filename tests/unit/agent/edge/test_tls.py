"""TLS on top of a plain transport, beside a client of OpenSSL's, without sockets."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.edge.client_tls import ClientTls
from agent.edge.tls import TlsConnection

SERVER = ClientTls(1_750_000_000.0)


class Wire:
    """The transport below."""

    def __init__(self) -> None:
        self.out = b""
        self.closing = self.aborted = self.paused = False

    def write(self, data: bytes) -> None:
        self.out += data

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


class Above(asyncio.Protocol):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.data = b""
        self.ended = False
        self.lost: list[Exception | None] = []
        self.stops_after = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.data += data
        if 0 <= self.stops_after <= len(self.data):
            self.transport.pause_reading()

    def eof_received(self) -> None:
        self.ended = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)


class Pair:
    """A server's connection, and a client with bytes between them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3):
        context = ssl._create_unverified_context()
        context.maximum_version = version
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = context.wrap_bio(self.incoming, self.outgoing, server_hostname="hello.test")
        self.loop = loop
        self.above, self.wire = Above(), Wire()
        self.tls = TlsConnection(loop, SERVER.context, lambda: self.above)
        self.tls.connection_made(cast(asyncio.Transport, self.wire))

    def pump(self, size: int = 2**20) -> None:
        """Carries what waits both ways, in pieces."""
        out = self.outgoing.read()
        for at in range(0, len(out), size):
            self.tls.data_received(out[at : at + size])
        self.incoming.write(self.wire.out)
        self.wire.out = b""

    def shake(self, size: int = 2**20) -> None:
        for _ in range(6):
            try:
                self.client.do_handshake()
            except ssl.SSLWantReadError:
                self.pump(size)
            else:
                self.pump(size)
                return
        raise AssertionError("no handshake")

    def got(self) -> bytes:
        """What the client reads."""
        self.pump()
        found = b""
        try:
            while data := self.client.read(65536):
                found += data
        except ssl.SSLWantReadError:
            pass
        return found


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


versions = st.sampled_from([ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])


@settings(max_examples=40, deadline=None)
@given(
    versions,
    st.integers(1, 3000),
    st.lists(st.binary(max_size=100) | st.integers(1, 60_000).map(lambda size: b"x" * size), max_size=4),
)
def test_both_get_what_the_other_has_said(
    loop: asyncio.AbstractEventLoop, version: ssl.TLSVersion, size: int, said: list[bytes]
) -> None:
    pair = Pair(loop, version)
    pair.shake(size)
    assert pair.tls.shaken.done()
    for data in said:
        if data:
            pair.client.write(data)
    pair.pump(size)
    assert pair.above.data == b"".join(said)
    pair.tls.writelines([memoryview(data) for data in said])
    for data in said:
        pair.tls.write(data)
    assert pair.got() == 2 * b"".join(said)


def test_requests_behind_the_handshake_are_not_lost(loop: asyncio.AbstractEventLoop) -> None:
    pair = Pair(loop)
    with pytest.raises(ssl.SSLWantReadError):
        pair.client.do_handshake()
    pair.pump()
    pair.client.do_handshake()
    pair.client.write(b"at once")
    pair.pump()
    assert pair.above.data == b"at once"


def test_who_is_full_gets_the_rest_later(loop: asyncio.AbstractEventLoop) -> None:
    pair = Pair(loop)
    pair.shake()
    pair.above.stops_after = 1
    for data in (b"one", b"two", b"three"):
        pair.client.write(data)
    pair.pump()
    assert pair.above.data == b"one"
    assert pair.wire.paused
    assert not pair.tls.is_reading()
    pair.above.stops_after = -1
    pair.tls.resume_reading()
    loop.run_until_complete(asyncio.sleep(0))
    assert pair.above.data == b"onetwothree"
    assert not pair.wire.paused


def test_the_end_is_said(loop: asyncio.AbstractEventLoop) -> None:
    pair = Pair(loop)
    pair.shake()
    pair.tls.write(b"last")
    pair.tls.close()
    pair.tls.write(b"too late")
    assert pair.got() == b"last"
    assert pair.client.read(1) == b"", "close_notify"
    assert pair.wire.closing
    assert not pair.wire.aborted
    pair.tls.connection_lost(None)
    assert pair.above.lost == [None]


def test_the_client_says_the_end(loop: asyncio.AbstractEventLoop) -> None:
    pair = Pair(loop)
    pair.shake()
    pair.client.write(b"last")
    with pytest.raises(ssl.SSLWantReadError):
        pair.client.unwrap()
    pair.pump()
    assert pair.above.data == b"last"
    assert pair.above.ended
    assert pair.tls.is_closing()


def test_an_end_without_goodbye(loop: asyncio.AbstractEventLoop) -> None:
    pair = Pair(loop)
    pair.shake()
    assert pair.tls.eof_received() is False
    assert pair.above.ended
    assert pair.wire.closing


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05aaaaa", b"\x15\x03\x03\x00\x02\x02\x28"]
)
def test_what_is_no_handshake(loop: asyncio.AbstractEventLoop, garbage: bytes) -> None:
    pair = Pair(loop)
    pair.tls.data_received(garbage)
    assert isinstance(pair.tls.shaken.exception(), ssl.SSLError)
    assert pair.wire.closing
    pair.tls.data_received(garbage)
    pair.tls.connection_lost(None)
    assert pair.above.lost == [], "nobody was told of it"


def test_a_forged_record_ends_it_with_an_alert(loop: asyncio.AbstractEventLoop) -> None:
    pair = Pair(loop)
    pair.shake()
    pair.tls.data_received(b"\x17\x03\x03\x00\x20" + bytes(32))
    assert pair.above.data == b""
    assert pair.wire.closing
    with pytest.raises(ssl.SSLError, match=r"(?i)bad record|decrypt"):
        pair.got()


def test_who_goes_in_the_handshake(loop: asyncio.AbstractEventLoop) -> None:
    pair = Pair(loop)
    pair.tls.data_received(b"\x16")
    pair.tls.eof_received()
    assert isinstance(pair.tls.shaken.exception(), ConnectionResetError)
    other = Pair(loop)
    other.tls.connection_lost(None)
    assert isinstance(other.tls.shaken.exception(), ConnectionResetError)


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_borne(loop: asyncio.AbstractEventLoop, data: bytes) -> None:
    for shaken in (False, True):
        pair = Pair(loop)
        if shaken:
            pair.shake()
        pair.tls.data_received(data)
        pair.tls.eof_received()
        pair.tls.connection_lost(None)
        if not shaken:
            assert pair.tls.shaken.exception() is not None
        assert pair.above.data == b""


def test_what_it_knows(loop: asyncio.AbstractEventLoop) -> None:
    pair = Pair(loop)
    pair.shake()
    tls: Any = pair.tls.get_extra_info("ssl_object")
    assert tls.version() == "TLSv1.3"
    assert pair.tls.get_extra_info("peercert") is None
    assert pair.tls.get_protocol() is pair.above
    assert not pair.tls.can_write_eof()
