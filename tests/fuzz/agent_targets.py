"""The agent under fuzzing: whatever comes as a snapshot is refused with reasons, or is one that it can act upon."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from google.protobuf.message import DecodeError

from agent import decode, decode_faults
from agent.core.policy import LocalPolicy
from fleet.snapshot import Snapshot
from locci.v1 import resource_pb2

STRICT: Final = LocalPolicy(registries=("registry.test/*",))


def snapshot(data: bytes) -> None:
    """Bytes of a node's snapshot; then, under a policy that allows little, no more is accepted than without."""
    try:
        held = resource_pb2.NodeSnapshot.FromString(data)
    except DecodeError:
        return
    found = Snapshot(1, {resource.name: resource for resource in held.resources})
    problems, strictly = decode.problems(found), decode.problems(found, STRICT)
    assert all(problem.message for problem in (*problems, *strictly))
    assert bool(strictly) >= bool(problems)
    if not problems:
        decode.target(found)
        decode.logins(found)
        decode.mirrors(found)
        decode_faults.wanted(found, LocalPolicy())


def _seed() -> bytes:
    held = resource_pb2.NodeSnapshot()
    replica = held.resources.add(name="replicas/web/0/1", version="1").replica
    replica.app, replica.release, replica.spec_hash = "web", 1, "x"
    replica.image = "registry.test/web@sha256:" + "1" * 64
    replica.ports.add(name="http", container_port=8080)
    replica.readiness.http.path = "/healthz"
    replica.liveness.exec.command.append("/bin/check")
    replica.volumes.add(path="/data", name="db")
    replica.files.add(path="/etc/app.conf", content="a = b\n", mode=0o400)
    replica.ulimits.add(name="nofile", soft=4096, hard=4096)
    replica.user = "1000:1000"
    route = held.resources.add(name="routes/web", version="2").route
    route.app = "web"
    route.hostnames.append("web.test")
    return held.SerializeToString()


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {"snapshot": snapshot}
SEEDS: Final = {"snapshot": (_seed(), b"\x12\x00", b"")}
