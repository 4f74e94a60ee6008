"""Backups of this control plane: made while it runs, restored into an empty directory."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Final

from control_plane.adapters.postgres_copy import exported, imported
from control_plane.ports import SCHEMA_VERSION
from control_plane.settings import ServerSettings
from fleet.errors import Code, LocciError, failed_precondition
from fleet.files import write_atomic
from fleet.sealed_backup import DATABASE, FILES, Contents, connect, meta, opened, sealed, verify
from locci.v1 import node_pb2

RAISE: Final = 1 << 20
"""How far a restore raises revisions and epochs: above whatever nodes have seen since the backup."""


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
    files = {DATABASE: content}
    files |= {name: (data_dir / name).read_bytes() for name in FILES if (data_dir / name).exists()}
    try:
        write_atomic(target, sealed(files, passphrase, now))
    except OSError as error:
        raise _unwritable(target, error) from error
    return verify(target, passphrase)


def restore(source: Path, settings: ServerSettings, passphrase: bytes) -> Contents:
    """Makes a control plane of a backup in an empty directory, and an empty database if it names one: all or nothing.

    Revisions and epochs are raised, so that nodes which have seen newer ones than the backup go on from there.
    """
    contents = verify(source, passphrase)
    data_dir = settings.data_dir
    if data_dir.exists() and any(data_dir.iterdir()):
        message = f"{data_dir} is not empty: a backup is only restored into an empty directory; move the old one away"
        raise failed_precondition("NOT_EMPTY", message)
    _, files = opened(source, passphrase)
    database = connect(files[DATABASE])
    try:
        schema = meta(database, "schema")
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


def _raise_numbers(database: sqlite3.Connection) -> None:
    database.execute("UPDATE meta SET value = value + ? WHERE key IN ('revision', 'sequence')", (RAISE,))
    for name, body in database.execute("SELECT name, body FROM objects WHERE kind = 'nodes'").fetchall():
        node = node_pb2.Node.FromString(body)
        for session in node.sessions:
            session.epoch += RAISE
        content = node.SerializeToString(deterministic=True)
        database.execute("UPDATE objects SET body = ? WHERE kind = 'nodes' AND name = ?", (content, name))
    database.commit()


def _unwritable(path: Path, error: OSError) -> LocciError:
    return LocciError(Code.UNAVAILABLE, "CANNOT_WRITE", f"{path}: cannot be written: {error.strerror or error}")
