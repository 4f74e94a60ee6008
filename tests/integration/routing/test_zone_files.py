"""Zones as files: what is exported, and what a secondary gets, is what BIND's and ldns' tools take for a zone."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from control_plane.zone_files import read_file, write_file
from tests.integration.routing.rig import Rig
from tests.integration.routing.test_differential import KINDS, WILD, ours
from tests.integration.routing.test_serving import dig

pytestmark = pytest.mark.skipif(shutil.which("named-checkzone") is None, reason="needs Debian's bind9")


def checked(origin: str, path: Path) -> list[str]:
    """The records of a file as BIND reads it, sorted; fails where it finds a fault."""
    command = ["named-checkzone", "-i", "local", "-k", "fail", "-s", "full", "-D", "-o", "-", origin, str(path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr + done.stdout
    return sorted(" ".join(line.split()) for line in done.stdout.splitlines() if line and not line.startswith(";"))


def rows_of(origin: str) -> str:
    """What operators may declare: their wildcards are first labels."""
    rows = {"kinds.test": KINDS, "wild.test": WILD}[origin]
    return "".join(f"{owner} 300 IN {kind} {data}\n" for owner, kind, data in rows if ".*" not in owner)


@pytest.mark.parametrize("origin", ["kinds.test", "wild.test"])
def test_an_exported_zone_is_one(tmp_path: Path, origin: str) -> None:
    servers = {f"dns-1.ns.{origin}": ["192.0.2.1"], f"dns-2.ns.{origin}": ["192.0.2.2", "2001:db8::2"]}
    soa = f"dns-1.ns.{origin}. hostmaster.{origin}. 7 3600 600 604800 10"
    declared, skipped = read_file(f"$ORIGIN {origin}.\n" + rows_of(origin), origin)
    assert not skipped
    exported, given = tmp_path / "exported", tmp_path / "given"
    exported.write_text(write_file(origin, soa, 3600, servers, declared, ()))
    own = "".join(
        f"{host}. 3600 IN {'AAAA' if ':' in address else 'A'} {address}\n"
        for host, addresses in servers.items()
        for address in addresses
    )
    names = "".join(f"@ 3600 IN NS {host}.\n" for host in servers)
    given.write_text(f"$ORIGIN {origin}.\n@ 3600 IN SOA {soa}\n{names}{own}" + rows_of(origin))
    assert checked(origin, exported) == checked(origin, given)


async def test_what_a_secondary_gets_is_a_zone(rig: Rig) -> None:
    rig.keep([ours("kinds.test", KINDS), ours("wild.test", WILD)])
    async with rig.running(transfer_networks=["127.0.0.0/8"]) as app:
        for origin in ("kinds.test", "wild.test"):
            text = await dig(app.ports[0], origin, "AXFR", "+onesoa", "+nocomments", "+nocmd", "+nostats")
            path = rig.path / origin
            path.write_text(text)
            assert len(checked(origin, path)) > 10
