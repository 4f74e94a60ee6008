"""What edges measure of client networks reaches DNS servers as parts of their table, while an app steers by it."""

from __future__ import annotations

from pathlib import Path

from locci.v1 import agent_pb2, app_pb2, manifest_pb2
from tests.integration.control_plane.rig import Host, Rig, manifest, running, until

NET = "203.0.113.0/24"


def known(dns: Host) -> dict[str, dict[str, int]]:
    """By network, the milliseconds to each region."""
    return {
        network.network: {entry.region: entry.milliseconds for entry in network.regions}
        for name, resource in dns.resources.items()
        if name.startswith("latencies/")
        for network in resource.client_latencies.networks
    }


def tell(host: Host, milliseconds: int, network: str = NET, samples: int = 20) -> None:
    row = agent_pb2.NetworkRoundTrip(network=network, samples=samples)
    row.round_trip.FromMilliseconds(milliseconds)
    host.round_trips.append(row)
    host.link.wake()


async def steer(rig: Rig, policy: manifest_pb2.SteeringPolicy.ValueType) -> None:
    app = manifest()
    app.routing.policy = policy
    await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=app))


async def test_measures_become_a_part_of_the_table(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        for region in ("eu", "us"):
            await rig.region(region)
        eu, us = await rig.host("eu-1", "eu"), await rig.host("us-1", "us")
        dns = await rig.host("us-dns", "us", dns=True)
        latencies, gathered = rig.plane.latencies, rig.plane.observed.latencies

        tell(eu, 12)
        tell(us, 95)
        tell(us, 5, network="203.0.113.7/32")
        await until(lambda: [len(by) for _, by in gathered.items()] == [2], "both are heard, and nonsense is not")
        await latencies.look()
        assert not list(rig.plane.state.client_latencies), "no app steers by them"

        await steer(rig, manifest_pb2.STEERING_POLICY_LATENCY)
        tell(eu, 12)
        tell(us, 95)
        await until(lambda: all(m.weight > 30 for _, by in gathered.items() for m in by.values()), "heard again")
        await latencies.look()
        await until(lambda: known(dns) == {NET: {"eu": 12, "us": 95}}, "the DNS server has them")
        changes = rig.plane.state.client_latencies.changes
        tell(eu, 13, samples=250)
        await until(lambda: any(by["eu"].milliseconds > 12.5 for _, by in gathered.items()), "it has wandered")
        await latencies.look()
        assert rig.plane.state.client_latencies.changes == changes, "what wanders a little is no change"

        await steer(rig, manifest_pb2.STEERING_POLICY_NEAREST)
        await latencies.look()
        await until(lambda: known(dns) == {}, "nobody steers by them any more")
