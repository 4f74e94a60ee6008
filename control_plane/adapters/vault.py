"""Sealing what must not lie about in clear: AES-256-GCM (NIST SP 800-38D) under a master key in a file of its own.

Each value has a data key of its own; the master key only wraps data keys, so that it can be replaced by wrapping them
anew. What a value is for is authenticated with it: a sealed value that is moved to another place does not open there.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fleet.errors import LocciError, failed_precondition
from fleet.files import write_atomic

_FORM: Final = b"\x01"
_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_WRAPPED_BYTES: Final = _NONCE_BYTES + _KEY_BYTES + 16


class FileVault:
    """Seals under the key in `path`, 64 hexadecimal digits; makes the file, readable by its owner only, when there is
    none."""

    def __init__(self, path: Path):
        if not path.exists():
            write_atomic(path, (os.urandom(_KEY_BYTES).hex() + "\n").encode())
        try:
            master = bytes.fromhex(path.read_text().strip())
            if len(master) != _KEY_BYTES:
                raise ValueError("it is not 32 bytes")
        except ValueError as error:
            message = f"{path}: this is no master key ({error}): put the right file there, or restore it from a backup"
            raise failed_precondition("MASTER_KEY_UNREADABLE", message) from error
        self._path = path
        self._master = AESGCM(master)

    def seal(self, content: bytes, context: str) -> bytes:
        """`content` for the store; it opens under the same `context` only."""
        about = context.encode()
        data_key = AESGCM.generate_key(256)
        nonce, wrap_nonce = os.urandom(_NONCE_BYTES), os.urandom(_NONCE_BYTES)
        wrapped = wrap_nonce + self._master.encrypt(wrap_nonce, data_key, about)
        return _FORM + wrapped + nonce + AESGCM(data_key).encrypt(nonce, content, about)

    def open(self, sealed: bytes, context: str) -> bytes:
        """What was sealed. Raises FAILED_PRECONDITION (SEALED_UNREADABLE) when it was changed, or sealed under another
        master key or context."""
        data_key, rest = self._unwrap(sealed, context)
        try:
            return AESGCM(data_key).decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], context.encode())
        except (InvalidTag, ValueError) as error:
            raise self._closed(context) from error

    def rewrap(self, sealed: bytes, context: str, to: FileVault) -> bytes:
        """The same sealed under the master key of `to`; the content itself is not touched."""
        data_key, rest = self._unwrap(sealed, context)
        nonce = os.urandom(_NONCE_BYTES)
        return _FORM + nonce + to._master.encrypt(nonce, data_key, context.encode()) + rest

    def _unwrap(self, sealed: bytes, context: str) -> tuple[bytes, bytes]:
        wrapped, rest = sealed[1 : 1 + _WRAPPED_BYTES], sealed[1 + _WRAPPED_BYTES :]
        try:
            if sealed[:1] != _FORM:
                raise InvalidTag
            return self._master.decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], context.encode()), rest
        except (InvalidTag, ValueError) as error:
            raise self._closed(context) from error

    def _closed(self, context: str) -> LocciError:
        message = f"{context}: it does not open with {self._path}: it was changed, or sealed under another master key"
        return failed_precondition("SEALED_UNREADABLE", message)
