"""`locci-dns check` between two servers of ours: one for the parent zone, one for the zone that is checked."""

from __future__ import annotations

import json
from pathlib import Path

from locci.v1 import resource_pb2
from tests.fakes.ports import free_port
from tests.integration.routing.rig import Rig
from tests.integration.routing.test_dnssec import PRIVATE
from tests.integration.routing.test_serving import dig
from tests.unit.routing.adapters.resources import snapshot, zone

ORIGIN = "shop.example.net"
PARENT = "127.0.0.3"


def keep(rig: Rig, *resources: resource_pb2.Resource) -> None:
    """What a server holds, in place of what the rig began with."""
    rig.keep(snapshot(resources).resources.values())


def delegating(**addresses: str) -> resource_pb2.Resource:
    """The parent zone, with these name servers of the child."""
    resource = zone("example.net")
    resource.zone.records.add(owner=ORIGIN, type="NS", data=[f"{name}.ns.{ORIGIN}." for name in addresses])
    for name, address in addresses.items():
        resource.zone.records.add(owner=f"{name}.ns.{ORIGIN}", type="A", data=[address])
    for records in resource.zone.records:
        records.ttl.FromSeconds(60)
    return resource


async def check(rig: Rig, port: int) -> tuple[int, dict[str, list[str]]]:
    """Exit code, and messages by level."""
    (rig.path / "dns.toml").write_text(f'state_dir = "{rig.path}/state"\n')
    code, out, err = await rig.call("check", ORIGIN, "--parent", f"{PARENT}:{port}", "--port", str(port), "-o", "json")
    assert not err, err
    found: dict[str, list[str]] = {}
    for row in json.loads(out):
        assert row["zone"] == ORIGIN
        found.setdefault(row["level"], []).append(row["message"])
    return code, found


async def test_what_is_in_order_and_what_is_not(rig: Rig, tmp_path: Path) -> None:
    port = free_port()
    child, parent = Rig(tmp_path / "child"), Rig(tmp_path / "parent")
    for one in (child, parent):
        one.path.mkdir()
    keep(child, zone(ORIGIN))
    both = [f"127.0.0.1:{port}", f"127.0.0.2:{port}"]

    keep(parent, delegating(**{"eu-1": "127.0.0.1", "us-1": "127.0.0.2"}))
    async with parent.running(listen=[f"{PARENT}:{port}"]), child.running(listen=both):
        code, found = await check(child, port)
        assert code == 0
        assert found == {"ok": [f"{ORIGIN} is delegated to its 2 name servers, and all of them answer alike"]}

    keep(parent, delegating(**{"eu-1": "127.0.0.9", "old": "127.0.0.2"}))
    async with parent.running(listen=[f"{PARENT}:{port}"]), child.running(listen=both[:1]):
        code, found = await check(child, port)
        assert code == 1
        errors = "\n".join(found["error"])
        assert f"delegates {ORIGIN} also to old.ns.{ORIGIN}, which this fleet does not know" in errors
        assert f"gives 127.0.0.9 for eu-1.ns.{ORIGIN}, which is at 127.0.0.1" in errors
        assert f"us-1.ns.{ORIGIN} at 127.0.0.2 does not answer over UDP" in errors
        assert f"does not name us-1.ns.{ORIGIN}" in "\n".join(found["warning"])

    keep(parent, zone("example.net"))
    async with parent.running(listen=[f"{PARENT}:{port}"]), child.running(listen=both):
        code, found = await check(child, port)
        assert code == 1
        assert any("does not delegate" in message and "nobody finds it" in message for message in found["error"])


async def test_keys_that_the_parent_does_not_know(rig: Rig, tmp_path: Path) -> None:
    port = free_port()
    child, parent = Rig(tmp_path / "child"), Rig(tmp_path / "parent")
    for one in (child, parent):
        one.path.mkdir()
    keys = resource_pb2.Resource(name=f"zonekeys/{ORIGIN}", version="1")
    keys.zone_keys.origin = ORIGIN
    keys.zone_keys.keys.add(private_key=PRIVATE, active=True)
    keep(child, zone(ORIGIN), keys)
    both = [f"127.0.0.1:{port}", f"127.0.0.2:{port}"]
    delegation = delegating(**{"eu-1": "127.0.0.1", "us-1": "127.0.0.2"})
    keep(parent, delegation)
    async with parent.running(listen=[f"{PARENT}:{port}"]), child.running(listen=both):
        code, found = await check(child, port)
        assert code == 0
        assert "is signed, but" in found["warning"][0]
        right = (await dig(port, ORIGIN, "CDS", "+short")).strip()

    delegation.zone.records.add(owner=ORIGIN, type="DS", data=[right]).ttl.FromSeconds(60)
    keep(parent, delegation)
    async with parent.running(listen=[f"{PARENT}:{port}"]), child.running(listen=both):
        assert (await check(child, port))[0] == 0

    delegation.zone.records[-1].data[:] = [f"4711 13 2 {'ab' * 32}"]
    keep(parent, delegation)
    async with parent.running(listen=[f"{PARENT}:{port}"]), child.running(listen=both):
        code, found = await check(child, port)
        assert code == 1
        assert "validating resolvers answer nothing" in found["error"][0]


async def test_a_host_without_zones_and_a_zone_that_is_not_here_say_so(tmp_path: Path) -> None:
    empty = Rig(tmp_path)
    (tmp_path / "dns.toml").write_text(f'state_dir = "{tmp_path}/state"\n')
    code, _, err = await empty.call("check")
    assert code == 1
    assert "serves no zone yet" in err
    keep(empty, zone(ORIGIN))
    code, _, err = await empty.call("check", "other.test")
    assert code == 1
    assert "zones/other.test" in err
    code, _, err = await empty.call("check", "--parent", "127.0.0.1:x")
    assert code == 2
    assert "should read address or address:port" in err
