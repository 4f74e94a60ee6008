"""Debian's BIND beside our server: a secondary that is told of changes and has zones whole, with TSIG; a resolver that
validates what we sign."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from locci.v1 import resource_pb2
from tests.fakes.ports import free_port
from tests.integration.routing.rig import Rig, eventually
from tests.integration.routing.test_dnssec import signed
from tests.integration.routing.test_protocol import RECORDS, declared
from tests.integration.routing.test_serving import dig
from tests.integration.routing.test_transfers import SECRET, accept, keys

pytestmark = pytest.mark.skipif(shutil.which("named") is None, reason="needs Debian's bind9")

COMMON = """
options {{
  directory "{path}"; pid-file "{path}/named.pid"; session-keyfile "{path}/session.key";
  managed-keys-directory "{path}";
  listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; {options}
}};
controls {{}};
"""


@contextlib.asynccontextmanager
async def named(path: Path, port: int, options: str, rest: str) -> AsyncIterator[None]:
    """BIND until the end of the block."""
    path.mkdir()
    (path / "named.conf").write_text(COMMON.format(path=path, port=port, options=options) + rest)
    with (path / "named.log").open("wb") as log:
        command = ["named", "-g", "-n", "1", "-c", str(path / "named.conf")]
        process = await asyncio.create_subprocess_exec(*command, cwd=path, stdout=log, stderr=log)
    try:
        await eventually(lambda: b" running\n" in (path / "named.log").read_bytes())
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(20):
            await process.wait()


def at(serial: int, port: int, resources: list[resource_pb2.Resource]) -> list[resource_pb2.Resource]:
    """The resources, their zone with another serial and a record more."""
    for resource in resources:
        if resource.name.startswith("zones/"):
            resource.zone.serial, resource.version = serial, str(serial)
            resource.zone.records.add(owner="new.example.net", type="TXT", data=['"came later"']).ttl.FromSeconds(60)
    return resources


async def test_a_secondary_has_the_zone_and_every_change_of_it(rig: Rig) -> None:
    port, second = free_port(), free_port()
    primary = f"primaries {{ 127.0.0.1 port {port} key xfer.example; }}"
    key = f'key "xfer.example" {{ algorithm hmac-sha256; secret "{SECRET}"; }};\n'
    zone = f'zone "example.net" {{ type secondary; {primary}; file "example.net.db"; masterfile-format text; }};\n'
    rig.keep(declared(rig.edges.port))
    listen = [f"127.0.0.1:{port}"]
    async with (
        rig.running(listen=listen, transfer_keys=keys(rig), notify=[f"127.0.0.1:{second}"]) as app,
        named(rig.path / "bind", second, "recursion no;", key + zone),
    ):

        async def serial(wanted: int) -> bool:
            found = (await dig(second, "example.net", "SOA", "+short", "+tries=1", "+time=1")).split()
            return len(found) == 7 and found[2] == str(wanted)

        await eventually(lambda: serial(7))
        for owner, kind, _ in RECORDS:
            if kind == "ALIAS":
                continue
            name = owner.replace("*", "x")
            ours = (await dig(port, name, kind, "+short")).splitlines()
            theirs = (await dig(second, name, kind, "+short")).splitlines()
            assert sorted(ours) == sorted(theirs), (name, kind)
            assert ours or "child" in name, (name, kind)
        assert await dig(second, "new.example.net", "TXT", "+short") == ""

        accept(rig, app, at(8, rig.edges.port, declared(rig.edges.port)))
        # Nothing but the word of our server brings it here: the zone is to be looked at again after an hour.
        await eventually(lambda: serial(8))
        assert "came later" in await dig(second, "new.example.net", "TXT", "+short")


async def test_a_resolver_validates_what_we_sign(rig: Rig) -> None:
    port, resolver = free_port(), free_port()
    rig.keep(signed(rig.edges.port))
    async with rig.running(listen=[f"127.0.0.1:{port}"]):
        tag, algorithm, kind, *digest = (await dig(port, "example.net", "CDS", "+short")).split()
        anchor = f'trust-anchors {{ "example.net" static-ds {tag} {algorithm} {kind} "{"".join(digest)}"; }};\n'
        forward = f'zone "example.net" {{ type forward; forward only; forwarders {{ 127.0.0.1 port {port}; }}; }};\n'
        options = "recursion yes; dnssec-validation yes; qname-minimization off; empty-zones-enable no;"
        async with named(rig.path / "bind", resolver, options, anchor + forward):

            async def answers(name: str, kind: str, *wanted: str) -> bool:
                text = await dig(resolver, name, kind, "+rec", "+dnssec", "+tries=1", "+time=2")
                return all(part in text for part in wanted) and " ad" in text.partition("flags:")[2].partition(";")[0]

            await eventually(lambda: answers("hello.example.net", "A", "127.0.1."))
            for name, rrtype, wanted in (
                ("example.net", "MX", "mail.example.net."),
                ("x.dev.example.net", "TXT", '"wild"'),
                ("www.example.net", "A", "hello.example.net."),
                ("hello.example.net", "TXT", "NSEC"),
                ("nowhere.example.net", "A", "NSEC"),
            ):
                assert await answers(name, rrtype, wanted), (name, rrtype)
