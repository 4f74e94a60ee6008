"""Keys for TLS session tickets (RFC 5077; RFC 8446, section 4.6.1) that all workers of a host share, across restarts.

A client that comes back, to whichever worker, then resumes its session and saves both sides the costly part of a
handshake. The keys lie beside the certificates' keys on disk and are thrown away for new ones every few hours: one that
leaks betrays no older traffic. Python's `ssl` has no means to set them, the library below it has; where that cannot be
reached, each worker has keys of its own.
"""

from __future__ import annotations

import _ssl
import ctypes
import functools
import os
import ssl
import struct
import sys
from pathlib import Path
from typing import Final

import structlog

from fleet.clock import Clock
from fleet.files import write_atomic

FILE: Final = "ticket-keys"
KEPT_S: Final = 6 * 3600.0
"""Tickets are good for two hours (OpenSSL's default); who has one from before a change makes a full handshake."""
_SET: Final = 59
_KEY_BYTES: Final = 80
"""Name, and keys for the digest and the cipher: what OpenSSL 1.1.1 and newer take."""
_CLOCK_SLACK_S: Final = 60.0
# The first member of `_ssl`'s context is OpenSSL's in all of these.
_PYTHONS: Final = ((3, 11), (3, 12), (3, 13), (3, 14))
log = structlog.get_logger()


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The OpenSSL that `ssl` itself uses; None when it cannot be reached."""
    if sys.implementation.name != "cpython" or sys.version_info[:2] not in _PYTHONS:
        return None
    try:
        library = ctypes.CDLL(_ssl.__file__)
        library.SSL_CTX_ctrl.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_void_p)
        library.SSL_CTX_ctrl.restype = ctypes.c_long
        library.SSL_CTX_get_options.argtypes = (ctypes.c_void_p,)
        library.SSL_CTX_get_options.restype = ctypes.c_uint64
    except (OSError, AttributeError):
        return None
    return library


def use(context: ssl.SSLContext, keys: bytes) -> bool:
    """Makes a listener's context give and take tickets by these keys; False when it cannot be done here."""
    library = _library()
    if library is None:
        return False
    pointer = ctypes.c_void_p.from_address(id(context) + object.__basicsize__).value
    options = context.options & 0xFFFF_FFFF_FFFF_FFFF
    if not pointer or library.SSL_CTX_get_options(pointer) != options:
        return False
    # Without keys it answers how long they are.
    if library.SSL_CTX_ctrl(pointer, _SET, 0, None) != len(keys):
        return False
    return bool(library.SSL_CTX_ctrl(pointer, _SET, len(keys), keys) == 1)


class Tickets:
    """The keys in a file of the edge's own. Any worker makes new ones; the others take them within seconds."""

    def __init__(self, folder: Path, clock: Clock):
        self._path = folder / FILE
        self._clock = clock
        self._keys = b""
        self._troubled = False
        self.shared = False
        """Whether the context uses them."""

    def refresh(self, context: ssl.SSLContext) -> None:
        """Takes new keys when there are some, makes them when it is time. To be called every few seconds."""
        try:
            keys = self._read() or self._make()
        except OSError as error:
            if not self._troubled:
                log.warning("session tickets have no new keys", reason=str(error))
            self._troubled = True
            return
        self._troubled = False
        if keys and keys != self._keys:
            self._keys = keys
            self.shared = use(context, keys)

    def _read(self) -> bytes | None:
        """None when there are none that are whole and new enough."""
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return None
        if len(content) != 8 + _KEY_BYTES:
            return None
        age = self._clock.wall() - struct.unpack_from(">d", content)[0]
        return content[8:] if -_CLOCK_SLACK_S <= age <= KEPT_S else None

    def _make(self) -> bytes:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(self._path, struct.pack(">d", self._clock.wall()) + os.urandom(_KEY_BYTES))
        return self._read() or b""  # another worker may have been later
