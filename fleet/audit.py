"""The chain of audit records: each holds the hash of the one before, so that none can be changed, added or taken out
unnoticed. Shared by who writes it and by who checks an export of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Final

FIELDS: Final = (
    *("name", "time", "principal", "role", "method", "resource", "code", "message", "request", "source"),
    *("request_id", "previous_hash"),
)
"""What a record's hash is made over, in this order; all as text, the time in RFC 3339."""


def record_hash(record: Mapping[str, str]) -> str:
    """SHA-256, lower-case hexadecimal, over the fields, each after its length in bytes, so that none can run into the
    next."""
    digest = hashlib.sha256()
    for field in FIELDS:
        content = str(record.get(field, "")).encode()
        digest.update(f"{len(content)}:".encode() + content)
    return digest.hexdigest()


def verify_chain(records: Iterable[Mapping[str, str]]) -> str:
    """What is wrong with a chain, oldest record first, and where; empty when it is whole. The first record may be any:
    older ones may have been let go."""
    previous: Mapping[str, str] | None = None
    for record in records:
        name = str(record.get("name", "a record without a name"))
        if record.get("hash") != record_hash(record):
            return f"{name} was changed: its hash is not that of its content"
        if previous is not None:
            if _sequence(record) != _sequence(previous) + 1:
                return f"{name} does not follow {previous['name']}: records between them are missing"
            if record.get("previous_hash", "") != previous["hash"]:
                return f"{name} does not hold the hash of {previous['name']}: one of them was replaced"
        previous = record
    return ""


def _sequence(record: Mapping[str, str]) -> int:
    number = str(record.get("name", "")).rpartition("/")[2]
    return int(number) if number.isdigit() else -1
