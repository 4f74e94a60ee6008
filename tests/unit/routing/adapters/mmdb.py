"""Writes small MMDB files (MaxMind DB format 2.0) for tests: IPv6 tree, 24-bit records, strings, doubles, maps."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_MARK = b"\xab\xcd\xefMaxMind.com"


def write(path: Path, records: Mapping[str, Mapping[str, Any]], database_type: str = "test") -> None:
    """A database in which each network (CIDR, not nested) has its record; IPv4 lies at ::/96 as usual."""
    tree: list[list[Any]] = [[None, None]]
    for text, record in records.items():
        network = ipaddress.ip_network(text)
        number, bits = int(network.network_address), network.prefixlen + (96 if network.version == 4 else 0)
        node = 0
        for at in range(bits):
            side = number >> (127 - at) & 1
            if at == bits - 1:
                tree[node][side] = record
            elif isinstance(tree[node][side], int):
                node = tree[node][side]
            else:
                tree.append([None, None])
                tree[node][side] = node = len(tree) - 1
    data, numbers = bytearray(), bytearray()
    for pair in tree:
        for value in pair:
            number = len(tree) if value is None else value
            if not isinstance(number, int):
                number = len(tree) + 16 + len(data)
                data += encode(value)
            numbers += number.to_bytes(3, "big")
    metadata = {
        "binary_format_major_version": 2,
        "binary_format_minor_version": 0,
        "build_epoch": 1_750_000_000,
        "database_type": database_type,
        "description": {"en": "test"},
        "ip_version": 6,
        "languages": ["en"],
        "node_count": len(tree),
        "record_size": 24,
    }
    path.write_bytes(bytes(numbers + bytes(16) + data) + _MARK + encode(metadata))


def encode(value: Any) -> bytes:
    """A value of the data section."""
    if isinstance(value, str):
        raw = value.encode()
        return bytes((2 << 5 | len(raw),)) + raw
    if isinstance(value, float):
        return bytes((3 << 5 | 8,)) + struct.pack(">d", value)
    if isinstance(value, list):
        return bytes((len(value), 4)) + b"".join(encode(item) for item in value)
    pairs = b"".join(encode(key) + _item(key, item) for key, item in value.items())
    return bytes((7 << 5 | len(value),)) + pairs


def _item(key: str, item: Any) -> bytes:
    """A value in a map; readers demand the metadata's numbers in their own types."""
    if not isinstance(item, int):
        return encode(item)
    if key == "build_epoch":
        return bytes((8, 2)) + item.to_bytes(8, "big")
    size, kind = (4, 6) if key == "node_count" else (2, 5)
    return bytes((kind << 5 | size,)) + item.to_bytes(size, "big")
