"""A supervised agent on a real engine: versions change, and containers do not notice."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lab.machine import clean_environment
from lab.preflight import own_program
from locci.v1 import resource_pb2
from tests.integration.agent.rig import Rig, containers, eventually, named, replica, route
from tests.integration.packaging.fake_release import ROOT, release

pytestmark = pytest.mark.lab

AGENT = '#!/bin/sh\necho {version} >>{log}\nexec {program} "$@"\n'
BROKEN = "#!/bin/sh\necho {version} >>{log}\nexit 1\n"


class Versions:
    """Installed versions: what runs is the same agent, or one that ends at once."""

    def __init__(self, rig: Rig):
        self.root = rig.folder / "opt" / "locci"
        self.source = rig.folder / "release"
        self.ran = rig.folder / "ran"
        self.config = rig.folder / "agent.toml"
        self.rig = rig
        self.ran.touch()
        program = self.root / "1.0.0" / "bin" / "locci-agent"
        program.parent.mkdir(parents=True)
        program.write_text(self.agent("1.0.0", AGENT))
        program.chmod(0o755)
        (self.root / "1.0.0" / "share").mkdir()
        (self.root / "1.0.0" / "share" / "VERSION").touch()
        shutil.copy(ROOT / "packaging" / "install.sh", self.root / "1.0.0" / "share")
        (self.root / "current").symlink_to("1.0.0")
        # What the installer looks for in the root file system that it installs into.
        python = rig.folder / "usr" / "bin" / "python3.11"
        python.parent.mkdir(parents=True)
        python.symlink_to("/bin/true")
        for version, text in (("1.1.0", AGENT), ("1.2.0", BROKEN)):
            release(self.source, version, self.agent(version, text))
        source = rig.folder / "release-source"
        source.write_text(f"{self.source}\n")
        settings = f'install_dir = "{self.root}"\nrelease_source = "{source}"\n'
        self.config.write_text(settings + self.config.read_text())

    def agent(self, version: str, text: str) -> str:
        return text.format(version=version, log=self.ran, program=own_program("locci-agent"))

    def _start(self) -> subprocess.Popen[bytes]:
        argv = self.rig.host.command(own_program("locci-agent"), "supervise", "--config", str(self.config))
        with (self.rig.folder / "agent.log").open("ab") as output:
            return subprocess.Popen(argv, stdout=output, stderr=output, env=clean_environment())

    @contextlib.asynccontextmanager
    async def supervised(self) -> AsyncIterator[None]:
        process = self._start()
        try:
            yield
        finally:
            process.terminate()
            assert await asyncio.to_thread(process.wait, 40) == 0

    async def upgrade(self, version: str) -> subprocess.CompletedProcess[str]:
        argv = [own_program("locci-agent"), "upgrade", version, "--config", str(self.config)]
        return await asyncio.to_thread(
            subprocess.run, argv, capture_output=True, text=True, timeout=60, check=False, env=clean_environment()
        )

    @property
    def current(self) -> str:
        return Path(self.root / "current").readlink().name

    @property
    def runs(self) -> list[str]:
        return self.ran.read_text().split()


def wanted(version: str) -> resource_pb2.Resource:
    """The control plane names a version."""
    body = resource_pb2.AgentVersion(version=version)
    return named(resource_pb2.Resource(name="agentversions/eu", agent_version=body))


async def test_a_good_version_stays_a_broken_one_goes_and_no_container_notices(rig: Rig, image: str) -> None:
    versions = Versions(rig)
    async with versions.supervised(), rig.edge.connected():
        rig.control_plane.want(route(), replica(image))
        await eventually(lambda: rig.control_plane.ready() and rig.edge.addresses(), "it is served")
        before = await containers(rig.host)
        sessions = rig.control_plane.sessions

        rig.control_plane.want(route(), replica(image), wanted("1.1.0"))
        await eventually(lambda: "1.1.0 does well and stays" in rig.log, "the newer version stays")
        assert (versions.current, versions.runs) == ("1.1.0", ["1.0.0", "1.1.0"])
        await eventually(lambda: rig.control_plane.sessions > sessions, "it is connected")

        rig.control_plane.want(route(), replica(image), wanted("1.2.0"))
        await eventually(lambda: "1.2.0 is taken back" in rig.log, "the broken version is taken back")
        await eventually(lambda: versions.runs[-1] == "1.1.0", "the version before runs again")
        assert (versions.current, versions.runs.count("1.2.0")) == ("1.1.0", 3)
        await eventually(lambda: rig.control_plane.ready() and rig.edge.addresses(), "it is served as before")
        assert await containers(rig.host) == before

        again = await versions.upgrade("1.0.0")
        assert again.returncode == 0
        await eventually(lambda: "1.0.0 does well and stays" in rig.log, "an older version, as a person wants it")
        assert (versions.current, versions.runs.count("1.2.0")) == ("1.0.0", 3)
        refused = await versions.upgrade("9.9")
        assert refused.returncode == 2
        assert "there: 1.0.0, 1.1.0, 1.2.0" in refused.stderr
