"""Frames and what they are made of (RFC 9113, sections 4, 6 and 7)."""

from __future__ import annotations

import enum
import struct
from typing import Final, NamedTuple

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD: Final = struct.Struct(">IBI")
"""Length and type in four octets, flags, stream."""
HEAD_BYTES: Final = 9
FRAME_BYTES_MAX: Final = 16384
"""Of a frame's payload: what everybody must take, and all that is taken and sent here."""
FRAME_BYTES_LIMIT: Final = 2**24 - 1
WINDOW_MAX: Final = 2**31 - 1
WINDOW_DEFAULT: Final = 65535
NUMBER_MASK: Final = 2**31 - 1


class Kind(enum.IntEnum):
    """Section 6."""

    DATA = 0x0
    HEADERS = 0x1
    PRIORITY = 0x2
    RST_STREAM = 0x3
    SETTINGS = 0x4
    PUSH_PROMISE = 0x5
    PING = 0x6
    GOAWAY = 0x7
    WINDOW_UPDATE = 0x8
    CONTINUATION = 0x9
    PRIORITY_UPDATE = 0x10
    """RFC 9218 section 7.1."""


class Flag(enum.IntFlag):
    """Some mean different things for different frames."""

    END_STREAM = 0x1
    ACK = 0x1
    END_HEADERS = 0x4
    PADDED = 0x8
    PRIORITY = 0x20


class Setting(enum.IntEnum):
    """Section 6.5.2."""

    HEADER_TABLE_SIZE = 0x1
    ENABLE_PUSH = 0x2
    MAX_CONCURRENT_STREAMS = 0x3
    INITIAL_WINDOW_SIZE = 0x4
    MAX_FRAME_SIZE = 0x5
    MAX_HEADER_LIST_SIZE = 0x6
    NO_RFC7540_PRIORITIES = 0x9
    """RFC 9218 section 2.1."""


class ErrorCode(enum.IntEnum):
    """Section 7."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


class ConnectionFault(Exception):  # noqa: N818 - it is the client's, and is told to it
    """The connection ends with this code (section 5.4.1)."""

    def __init__(self, code: ErrorCode, reason: str):
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Settings(NamedTuple):
    """What a client says of itself; None for what it has not said."""

    header_table_size: int | None
    initial_window_size: int | None


def frame(kind: Kind, flags: int, number: int, payload: bytes = b"") -> bytes:
    """A frame on a stream, 0 for the connection (section 4.1)."""
    return HEAD.pack(len(payload) << 8 | kind, flags, number) + payload


def settings(values: dict[Setting, int]) -> bytes:
    """Section 6.5.1."""
    return frame(Kind.SETTINGS, 0, 0, b"".join(struct.pack(">HI", name, value) for name, value in values.items()))


def goaway(last: int, code: ErrorCode, reason: str = "") -> bytes:
    """Section 6.8; the reason is for people."""
    return frame(Kind.GOAWAY, 0, 0, struct.pack(">II", last, code) + reason.encode())


def rst_stream(number: int, code: int) -> bytes:
    """Section 6.4."""
    return frame(Kind.RST_STREAM, 0, number, struct.pack(">I", code))


def window_update(number: int, size: int) -> bytes:
    """Section 6.9."""
    return frame(Kind.WINDOW_UPDATE, 0, number, struct.pack(">I", size))


def unpadded(flags: int, payload: bytes) -> bytes:
    """The payload of DATA or HEADERS without its padding (section 6.1). Raises ConnectionFault."""
    if not flags & Flag.PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "there is more padding than payload")
    return payload[1 : len(payload) - payload[0]]


def read_settings(payload: bytes) -> Settings:
    """The last value of each setting that matters here (section 6.5.3). Raises ConnectionFault."""
    if len(payload) % 6:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of a length that is no multiple of 6")
    found: dict[int, int] = {}
    for name, value in struct.iter_unpack(">HI", payload):
        if name == Setting.ENABLE_PUSH and value > 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH is neither 0 nor 1")
        if name == Setting.INITIAL_WINDOW_SIZE and value > WINDOW_MAX:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE is too large")
        if name == Setting.MAX_FRAME_SIZE and not FRAME_BYTES_MAX <= value <= FRAME_BYTES_LIMIT:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "MAX_FRAME_SIZE is out of its range")
        if name == Setting.NO_RFC7540_PRIORITIES and value > 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "NO_RFC7540_PRIORITIES is neither 0 nor 1")
        found[name] = value
    return Settings(found.get(Setting.HEADER_TABLE_SIZE), found.get(Setting.INITIAL_WINDOW_SIZE))
