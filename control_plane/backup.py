"""Backups: everything that a control plane is, at one revision, in one sealed file.

The form: a line of JSON that says how the key is made; then pieces of a tar archive, each sealed with AES-256-GCM
(NIST SP 800-38D) and preceded by its length. The key comes from a passphrase by scrypt (RFC 7914). Header, position and
whether it is the last are authenticated with each piece: a file that was cut, reordered or changed does not open.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import sqlite3
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from control_plane.adapters.postgres_copy import exported, imported
from control_plane.ports import SCHEMA_VERSION
from control_plane.settings import ServerSettings
from fleet.errors import Code, LocciError, failed_precondition, invalid
from fleet.files import write_atomic
from locci.v1 import node_pb2

DATABASE: Final = "locci.db"
_MAGIC: Final = b"locci-backup-1\n"
_PIECE_BYTES: Final = 1 << 20
_SEALED_MAX: Final = _PIECE_BYTES + 16
_SCRYPT: Final = {"n": 1 << 15, "r": 8, "p": 1}
_FILES: Final = ("master.key", "admin.token", "ca/ca.key", "ca/ca.pem")
"""Those of the CA are of version 0.1.0; since then it is in the store."""
_PASSPHRASE_MIN: Final = 8
RAISE: Final = 1 << 20
"""How far a restore raises revisions and epochs: above whatever nodes have seen since the backup."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in a backup."""

    created_at: float
    revision: int
    objects: dict[str, int]
    """How many there are, by kind."""
    files: tuple[str, ...]


def create(settings: ServerSettings, target: Path, passphrase: bytes, now: float) -> Contents:
    """Writes a backup of a control plane, which may be running. Raises when `target` is there already."""
    if target.exists():
        raise failed_precondition("FILE_EXISTS", f"{target} is there already: choose another name, or remove it")
    data_dir = settings.data_dir
    missing = [
        name
        for name in (*(() if settings.database_url else (DATABASE,)), "master.key")
        if not (data_dir / name).exists()
    ]
    if missing:
        raise failed_precondition("NOTHING_TO_BACK_UP", f"{data_dir} holds no control plane: there is no {missing[0]}")
    content = asyncio.run(exported(settings.database_url)) if settings.database_url else _copy(data_dir / DATABASE)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        _add(tar, DATABASE, content)
        for name in _FILES:
            path = data_dir / name
            if path.exists():
                _add(tar, name, path.read_bytes())
    try:
        write_atomic(target, _seal(archive.getvalue(), passphrase, now))
    except OSError as error:
        raise _unwritable(target, error) from error
    return verify(target, passphrase)


def verify(source: Path, passphrase: bytes) -> Contents:
    """Opens a backup, checks its database, and says what is in it. Raises when anything is wrong with it."""
    created_at, files = _open(source, passphrase)
    database = _connect(files[DATABASE])
    try:
        (said,) = database.execute("PRAGMA integrity_check").fetchone()
        if said != "ok":
            raise failed_precondition("BACKUP_DAMAGED", f"{source}: its database is damaged: {said}")
        objects = dict(database.execute("SELECT kind, count(*) FROM objects GROUP BY kind ORDER BY kind").fetchall())
        revision = _meta(database, "revision")
    finally:
        database.close()
    return Contents(created_at, revision, objects, tuple(files))


def restore(source: Path, settings: ServerSettings, passphrase: bytes) -> Contents:
    """Makes a control plane of a backup in an empty directory, and an empty database if it names one: all or nothing.

    Revisions and epochs are raised, so that nodes which have seen newer ones than the backup go on from there.
    """
    contents = verify(source, passphrase)
    data_dir = settings.data_dir
    if data_dir.exists() and any(data_dir.iterdir()):
        message = f"{data_dir} is not empty: a backup is only restored into an empty directory; move the old one away"
        raise failed_precondition("NOT_EMPTY", message)
    _, files = _open(source, passphrase)
    database = _connect(files[DATABASE])
    try:
        schema = _meta(database, "schema")
        if schema > SCHEMA_VERSION:
            message = f"{source} has schema {schema}; this program knows {SCHEMA_VERSION}: use a newer locci-server"
            raise failed_precondition("SCHEMA_TOO_NEW", message)
        _raise_numbers(database)
        files[DATABASE] = database.serialize()
    finally:
        database.close()
    if settings.database_url:
        content = files.pop(DATABASE)
        asyncio.run(imported(settings.database_url, content, lambda: _place(files, data_dir)))
    else:
        _place(files, data_dir)
    return contents


def _place(files: dict[str, bytes], data_dir: Path) -> None:
    fresh = data_dir.with_name(f".{data_dir.name}.restore")
    try:
        fresh.mkdir(parents=True, mode=0o700)
        for name, content in files.items():
            (fresh / name).parent.mkdir(exist_ok=True, mode=0o700)
            write_atomic(fresh / name, content)
        if data_dir.exists():
            data_dir.rmdir()
        fresh.rename(data_dir)
    except OSError as error:
        raise _unwritable(fresh, error) from error


def read_passphrase(path: Path) -> bytes:
    """The first line of a file. Raises INVALID_ARGUMENT when it is too short."""
    try:
        found = path.read_bytes().split(b"\n")[0].strip()
    except OSError as error:
        raise invalid("passphrase", f"{path}: cannot be read: {error.strerror}") from error
    if len(found) < _PASSPHRASE_MIN:
        raise invalid("passphrase", f"{path}: a passphrase needs {_PASSPHRASE_MIN} characters")
    return found


def _copy(path: Path) -> bytes:
    """The database at one moment, whoever writes to it meanwhile."""
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as source, sqlite3.connect(":memory:") as copy:
        source.backup(copy)
        # A database in WAL mode cannot be opened from memory.
        content = bytearray(copy.serialize())
    source.close()
    copy.close()
    content[18:20] = b"\x01\x01"
    return bytes(content)


def _connect(content: bytes) -> sqlite3.Connection:
    database = sqlite3.connect(":memory:")
    database.deserialize(content)
    return database


def _meta(database: sqlite3.Connection, key: str) -> int:
    row = database.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return int(row[0]) if row else 0


def _raise_numbers(database: sqlite3.Connection) -> None:
    database.execute("UPDATE meta SET value = value + ? WHERE key IN ('revision', 'sequence')", (RAISE,))
    for name, body in database.execute("SELECT name, body FROM objects WHERE kind = 'nodes'").fetchall():
        node = node_pb2.Node.FromString(body)
        for session in node.sessions:
            session.epoch += RAISE
        content = node.SerializeToString(deterministic=True)
        database.execute("UPDATE objects SET body = ? WHERE kind = 'nodes' AND name = ?", (content, name))
    database.commit()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o600
    tar.addfile(member, io.BytesIO(content))


def _key(passphrase: bytes, header: dict[str, Any]) -> AESGCM:
    kdf = header["kdf"]
    if (kdf["n"], kdf["r"], kdf["p"]) != tuple(_SCRYPT.values()):
        raise ValueError("unknown cost of the key")
    return AESGCM(Scrypt(base64.b64decode(kdf["salt"]), 32, kdf["n"], kdf["r"], kdf["p"]).derive(passphrase))


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


def _position(number: int, line: bytes, *, last: bool) -> tuple[bytes, bytes]:
    """Nonce and authenticated data of a piece: each key is used for one file only."""
    return number.to_bytes(12, "big"), line + bytes((last,))


def _open(source: Path, passphrase: bytes) -> tuple[float, dict[str, bytes]]:
    """When it was made, and the files by name."""
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
    if DATABASE not in files or not set(files) <= {DATABASE, *_FILES}:
        raise failed_precondition("BACKUP_UNREADABLE", f"{source}: it does not hold what a backup holds")
    return created_at, files


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


def _unwritable(path: Path, error: OSError) -> LocciError:
    return LocciError(Code.UNAVAILABLE, "CANNOT_WRITE", f"{path}: cannot be written: {error.strerror or error}")
