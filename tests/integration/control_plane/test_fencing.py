"""Leases of singletons, over the wire."""

from __future__ import annotations

import time
from pathlib import Path

from google.protobuf.duration_pb2 import Duration

from locci.v1 import app_pb2, node_pb2
from tests.integration.control_plane.rig import manifest, running, until

NAME = "replicas/hello/0/1"


async def test_heartbeats_renew_leases_until_the_node_is_revoked_and_its_time_is_over(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        await rig.region("eu")
        for name in ("eu-1", "eu-2"):
            await rig.host(name, "eu")
        wanted = manifest()
        wanted.placement.singleton = True
        wanted.placement.lost_after.CopyFrom(Duration(seconds=3))
        wanted.placement.fence_after.CopyFrom(Duration(seconds=3))
        wanted.stop_timeout.CopyFrom(Duration(seconds=1))
        wanted.rollout.drain.CopyFrom(Duration(nanos=100_000_000))
        answer = await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=wanted))
        await rig.finished(answer.rollout.name)
        (replica,) = await rig.held("hello")
        holder = rig.hosts[replica.node.rpartition("/")[2]]
        (other,) = (host for host in rig.hosts.values() if host is not holder)
        assert holder.resources[NAME].replica.fence_after.seconds == 3
        await until(lambda: NAME in holder.leases, "a lease is renewed")
        first = holder.leases[NAME]
        assert first <= time.monotonic()
        await until(lambda: holder.leases[NAME] > first, "each heartbeat renews it")
        assert not other.leases
        began = time.monotonic()
        await rig.nodes.RevokeNode(node_pb2.RevokeNodeRequest(name=replica.node))
        await until(lambda: NAME in other.resources, "it is placed elsewhere", 20.0)
        assert time.monotonic() - began > (3 + 1 + 0.1) * 1.1 + 2.9
        assert holder.leases[NAME] <= began + 0.5, "no lease is renewed after that"
