"""A node snapshot: what a node must hold, changed by deltas, compared by hash, kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog

from fleet.errors import Code, LocciError
from fleet.files import write_atomic
from locci.v1 import agent_pb2, resource_pb2

log = structlog.get_logger()

_DIGEST_BYTES = 32


def snapshot_hash(versions: Iterable[tuple[str, str]]) -> str:
    """Hexadecimal SHA-256 over `name NUL version LF` in the byte order of names (agent.proto, Hello)."""
    digest = hashlib.sha256()
    for name, version in sorted((name.encode(), version.encode()) for name, version in versions):
        digest.update(name + b"\0" + version + b"\n")
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a node holds at a revision."""

    revision: int = 0
    resources: Mapping[str, resource_pb2.Resource] = field(default_factory=dict)
    epoch: int = 0

    @property
    def hash(self) -> str:
        """The hash of the whole."""
        return snapshot_hash((name, resource.version) for name, resource in self.resources.items())

    def of_type(self, kind: str) -> dict[str, resource_pb2.Resource]:
        """The resources whose name begins with `kind/`."""
        prefix = kind + "/"
        return {name: resource for name, resource in self.resources.items() if name.startswith(prefix)}

    def with_epoch(self, epoch: int) -> Snapshot:
        """The same resources, held in the session `epoch`."""
        return replace(self, epoch=epoch)


def apply_delta(held: Snapshot, delta: agent_pb2.Delta) -> Snapshot:
    """What is held after `delta`.

    Raises ABORTED with reason HASH_MISMATCH when the result is not what the control plane meant, and
    INVALID_ARGUMENT when the delta itself is broken; `held` stays as it is.
    """
    resources = {} if delta.complete else dict(held.resources)
    for name in delta.removed:
        resources.pop(name, None)
    for resource in delta.resources:
        if not resource.name or not resource.version:
            raise LocciError(Code.INVALID_ARGUMENT, "BROKEN_DELTA", "a resource has no name or no version")
        resources[resource.name] = resource
    after = Snapshot(delta.revision, resources, held.epoch)
    if after.hash != delta.snapshot_hash:
        raise LocciError(Code.ABORTED, "HASH_MISMATCH", f"hash {after.hash} is not the announced {delta.snapshot_hash}")
    return after


class SnapshotFile:
    """The last accepted snapshot on the node's own disk: SHA-256 of the rest, then a `NodeSnapshot`."""

    def __init__(self, path: Path):
        self.path = path

    def load(self) -> Snapshot:
        """What was saved last; an empty snapshot when there is none.

        A damaged file is set aside under `.damaged` and taken as none: the control plane sends everything again.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return Snapshot()
        digest, body = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if hashlib.sha256(body).digest() != digest:
            aside = self.path.with_suffix(".damaged")
            self.path.replace(aside)
            log.error("snapshot_damaged", reason=f"{self.path} is damaged and was set aside as {aside}")
            return Snapshot()
        message = resource_pb2.NodeSnapshot.FromString(body)
        return Snapshot(message.revision, {resource.name: resource for resource in message.resources}, message.epoch)

    def save(self, snapshot: Snapshot) -> None:
        """Makes `snapshot` survive a crash. Raises OSError, as on a full disk; what was saved before stays."""
        message = resource_pb2.NodeSnapshot(revision=snapshot.revision, epoch=snapshot.epoch)
        message.resources.extend(snapshot.resources[name] for name in sorted(snapshot.resources))
        body = message.SerializeToString(deterministic=True)
        write_atomic(self.path, hashlib.sha256(body).digest() + body)
