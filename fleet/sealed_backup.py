"""The file of a backup: everything that a control plane is, at one revision, sealed.

The form: a line of JSON that says how the key is made; then pieces of a tar archive, each sealed with AES-256-GCM
(NIST SP 800-38D) and preceded by its length. The key comes from a passphrase by scrypt (RFC 7914). Header, position and
whether it is the last are authenticated with each piece: a file that was cut, reordered or changed does not open.
"""

from __future__ import annotations

import base64
import io
import json
import os
import sqlite3
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from fleet.errors import failed_precondition, invalid

DATABASE: Final = "locci.db"
FILES: Final = ("master.key", "admin.token", "ca/ca.key", "ca/ca.pem")
"""Those of the CA are of version 0.1.0; since then it is in the store."""
PASSPHRASE_BYTES_MIN: Final = 8
_MAGIC: Final = b"locci-backup-1\n"
_PIECE_BYTES: Final = 1 << 20
_SEALED_MAX: Final = _PIECE_BYTES + 16
_SCRYPT: Final = {"n": 1 << 15, "r": 8, "p": 1}


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in a backup."""

    created_at: float
    revision: int
    objects: dict[str, int]
    """How many there are, by kind."""
    files: tuple[str, ...]


def verify(source: Path, passphrase: bytes) -> Contents:
    """Opens a backup, checks its database, and says what is in it. Raises when anything is wrong with it."""
    created_at, files = opened(source, passphrase)
    database = connect(files[DATABASE])
    try:
        (said,) = database.execute("PRAGMA integrity_check").fetchone()
        if said != "ok":
            raise failed_precondition("BACKUP_DAMAGED", f"{source}: its database is damaged: {said}")
        objects = dict(database.execute("SELECT kind, count(*) FROM objects GROUP BY kind ORDER BY kind").fetchall())
        revision = meta(database, "revision")
    finally:
        database.close()
    return Contents(created_at, revision, objects, tuple(files))


def read_passphrase(path: Path) -> bytes:
    """The first line of a file. Raises INVALID_ARGUMENT when it is too short."""
    try:
        found = path.read_bytes().split(b"\n")[0].strip()
    except OSError as error:
        raise invalid("passphrase", f"{path}: cannot be read: {error.strerror}") from error
    if len(found) < PASSPHRASE_BYTES_MIN:
        raise invalid("passphrase", f"{path}: a passphrase needs {PASSPHRASE_BYTES_MIN} characters")
    return found


def connect(content: bytes) -> sqlite3.Connection:
    """The database of a backup, in memory."""
    database = sqlite3.connect(":memory:")
    database.deserialize(content)
    return database


def meta(database: sqlite3.Connection, key: str) -> int:
    """A number that the database holds of itself; 0 when it does not."""
    row = database.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return int(row[0]) if row else 0


def sealed(files: Mapping[str, bytes], passphrase: bytes, now: float) -> bytes:
    """The content of a backup that holds `files` and was made at `now`, seconds since 1970."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o600
            tar.addfile(member, io.BytesIO(content))
    return _seal(archive.getvalue(), passphrase, now)


def opened(source: Path, passphrase: bytes) -> tuple[float, dict[str, bytes]]:
    """When it was made, and the files by name. Raises when it does not open."""
    try:
        data = source.read_bytes()
    except OSError as error:
        raise invalid("file", f"{source}: cannot be read: {error.strerror}") from error
    if not data.startswith(_MAGIC):
        raise invalid("file", f"{source}: this is no backup of a control plane")
    line, newline, rest = data[len(_MAGIC) :].partition(b"\n")
    try:
        header = json.loads(line)
        key = _key(passphrase, header)
        content = b"".join(_pieces(key, line + newline, rest))
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            files = {m.name: tar.extractfile(m).read() for m in tar.getmembers()}  # type: ignore[union-attr]
        created_at = float(header["created_at"])
    except (InvalidTag, ValueError, KeyError, TypeError, tarfile.TarError) as error:
        message = f"{source}: it does not open: the passphrase is wrong, or the file was changed or cut"
        raise failed_precondition("BACKUP_UNREADABLE", message) from error
    if DATABASE not in files or not set(files) <= {DATABASE, *FILES}:
        raise failed_precondition("BACKUP_UNREADABLE", f"{source}: it does not hold what a backup holds")
    return created_at, files


def _seal(content: bytes, passphrase: bytes, now: float) -> bytes:
    salt = base64.b64encode(os.urandom(16)).decode()
    header = {"created_at": now, "kdf": {**_SCRYPT, "salt": salt}}
    line = json.dumps(header).encode() + b"\n"
    key, sealed = _key(passphrase, header), [_MAGIC, line]
    pieces = range(0, len(content), _PIECE_BYTES)
    for number, at in enumerate(pieces):
        nonce, about = _position(number, line, last=number == len(pieces) - 1)
        piece = key.encrypt(nonce, content[at : at + _PIECE_BYTES], about)
        sealed += [len(piece).to_bytes(4, "big"), piece]
    return b"".join(sealed)


def _key(passphrase: bytes, header: dict[str, Any]) -> AESGCM:
    kdf = header["kdf"]
    if (kdf["n"], kdf["r"], kdf["p"]) != tuple(_SCRYPT.values()):
        raise ValueError("unknown cost of the key")
    return AESGCM(Scrypt(base64.b64decode(kdf["salt"]), 32, kdf["n"], kdf["r"], kdf["p"]).derive(passphrase))


def _position(number: int, line: bytes, *, last: bool) -> tuple[bytes, bytes]:
    """Nonce and authenticated data of a piece: each key is used for one file only."""
    return number.to_bytes(12, "big"), line + bytes((last,))


def _pieces(key: AESGCM, line: bytes, rest: bytes) -> Iterator[bytes]:
    number, at = 0, 0
    while at < len(rest):
        size = int.from_bytes(rest[at : at + 4], "big")
        piece, at = rest[at + 4 : at + 4 + size], at + 4 + size
        if not 0 < size <= _SEALED_MAX:
            raise ValueError("a piece of no such size")
        nonce, about = _position(number, line, last=at >= len(rest))
        yield key.decrypt(nonce, piece, about)
        number += 1
