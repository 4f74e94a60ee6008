"""A registry that lies, breaks off or says nothing: the reason is told, nothing else suffers, and it is tried again."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from locci.v1 import replica_pb2
from tests.integration.agent.rig import Rig, containers, eventually, replica
from tests.integration.engine_fixture import EngineHost

pytestmark = pytest.mark.lab

PORT = 5999
DIGEST = "sha256:" + "ab" * 32
# Answers each request by the first part of the repository's name.
REGISTRY = """
import http.server, json, sys, time
BLOB = "sha256:" + "cd" * 32
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        kind = self.path.split("/")[2] if self.path != "/v2/" else ""
        manifest = json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "size": 7, "digest": BLOB},
            "layers": []}).encode()
        bodies = {"": b"{}", "web-page": b"<html>login here</html>", "other-digest": manifest, "cut-off": manifest[:50]}
        if kind == "silent":
            time.sleep(3600)
        body = bodies.get(kind, b"")
        self.send_response(500 if kind == "error" else 200)
        self.send_header("Content-Type", "application/vnd.docker.distribution.manifest.v2+json")
        self.send_header("Content-Length", str(len(body) + (100 if kind == "cut-off" else 0)))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True
    do_HEAD = do_GET
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def bad_registry(engine_host: EngineHost) -> Iterator[str]:
    """Where it is."""
    process = subprocess.Popen(engine_host.command(sys.executable, "-c", REGISTRY, str(PORT)))
    try:
        yield f"127.0.0.1:{PORT}"
    finally:
        process.kill()
        process.wait(10)


async def test_each_way_of_being_bad_ends_in_a_reason_and_harms_nobody(rig: Rig, image: str, bad_registry: str) -> None:
    rig.start()
    rig.control_plane.want(replica(image))
    await eventually(rig.control_plane.ready, "a good one runs")
    before = await containers(rig.host)
    kinds = ("web-page", "other-digest", "cut-off", "error")
    wanted = [replica(f"{bad_registry}/{kind}/app@{DIGEST}", ordinal=n, release=2) for n, kind in enumerate(kinds, 1)]
    rig.control_plane.want(replica(image), *wanted)

    def told() -> bool:
        phases = {rig.control_plane.replicas[name].phase for name in names if name in rig.control_plane.replicas}
        return phases == {replica_pb2.REPLICA_PHASE_BACKOFF}

    names = [f"replicas/web/{n}/2" for n in range(1, len(kinds) + 1)]
    await eventually(lambda: len([n for n in names if n in rig.control_plane.replicas]) == len(names) and told(), "why")
    reasons = {kind: rig.control_plane.replicas[name].reason for kind, name in zip(kinds, names, strict=True)}
    assert all(bad_registry in reason for reason in reasons.values()), reasons
    assert len(set(reasons.values())) == len(kinds), reasons
    assert (await containers(rig.host), rig.control_plane.ready()) == (before, True)


async def test_one_that_says_nothing_holds_up_no_other_and_is_given_up_when_it_is_not_wanted(
    rig: Rig, image: str, bad_registry: str
) -> None:
    """Pulls are bounded: as many as there may be at once are stuck, and still what is wanted next comes."""
    rig.start()
    stuck = [replica(f"{bad_registry}/silent/app@sha256:{n:064x}", ordinal=n, release=2) for n in range(4)]
    rig.control_plane.want(*stuck)
    pulling = replica_pb2.REPLICA_PHASE_PULLING
    await eventually(
        lambda: sum(s.phase == pulling for s in rig.control_plane.replicas.values()) >= 3, "they are stuck"
    )
    rig.control_plane.want(replica(image))
    await eventually(rig.control_plane.ready, "the newest target pre-empts", 20.0)
    assert list(rig.control_plane.replicas) == ["replicas/web/0/1"]
    with contextlib.closing(rig.host.client()) as client:
        assert (await asyncio.to_thread(client.ping)) is True
