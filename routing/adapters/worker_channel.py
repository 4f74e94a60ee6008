"""What the first process and its workers tell each other: frames of a kind, a JSON document and bytes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fleet.snapshot import Snapshot
from locci.v1 import resource_pb2
from routing.answering import Standing
from routing.core.model import Family

SETUP: Final = b"S"
"""To a worker, first: its settings."""
TABLE: Final = b"T"
"""To a worker: a snapshot, and what is decided about it."""
STANDING: Final = b"D"
"""To a worker: what is decided now."""
COUNTS: Final = b"C"
"""From a worker: what it has counted so far; the first says that it answers."""

_SOCKETS_MAX: Final = 128

Frame = tuple[bytes, dict[str, Any], bytes]


def frame(kind: bytes, document: Mapping[str, Any], more: bytes = b"") -> bytes:
    """A frame as it is sent."""
    text = json.dumps(document).encode()
    return kind + len(text).to_bytes(4, "big") + len(more).to_bytes(4, "big") + text + more


async def read_frame(reader: asyncio.StreamReader) -> Frame:
    """The next frame. Raises IncompleteReadError when the other side has gone."""
    head = await reader.readexactly(9)
    text = await reader.readexactly(int.from_bytes(head[1:5], "big"))
    more = await reader.readexactly(int.from_bytes(head[5:9], "big"))
    return head[:1], json.loads(text), more


def put_sockets(told: socket.socket, numbers: Sequence[int]) -> None:
    """Leaves sockets for whoever has the other end; they stay open for as long as that does."""
    socket.send_fds(told, [b"S"], numbers)


def take_sockets(told: socket.socket) -> list[int]:
    """What was left there; nothing when there is none."""
    with contextlib.suppress(BlockingIOError):
        _, numbers, _, _ = socket.recv_fds(told, 1, _SOCKETS_MAX, socket.MSG_DONTWAIT)
        return numbers
    return []


def standing_to_json(standing: Standing) -> dict[str, Any]:
    """What is decided, as a document."""
    rotation = sorted([node, family.value] for node, family in standing.rotation)
    return {"rotation": rotation, "unsteady": sorted(standing.unsteady), "returning": standing.returning}


def standing_from_json(document: Mapping[str, Any]) -> Standing:
    """The same, read."""
    rotation = frozenset((str(node), Family(family)) for node, family in document["rotation"])
    returning = tuple((node, share) for node, share in document.get("returning", ()))
    return Standing(rotation, frozenset(document["unsteady"]), returning)


def snapshot_to_bytes(snapshot: Snapshot) -> bytes:
    """A snapshot's revision and resources."""
    return resource_pb2.NodeSnapshot(
        revision=snapshot.revision, resources=snapshot.resources.values()
    ).SerializeToString()


def snapshot_from_bytes(content: bytes) -> Snapshot:
    """The same, read."""
    message = resource_pb2.NodeSnapshot.FromString(content)
    return Snapshot(message.revision, {resource.name: resource for resource in message.resources})
