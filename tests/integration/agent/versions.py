"""Versions of the agent, installed and in a release: each is the same agent under another number, or broken."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

from lab.machine import clean_environment
from lab.preflight import own_program
from tests.integration.engine_fixture import EngineHost
from tests.integration.packaging.fake_release import ROOT, release

AGENT = '#!/bin/sh\necho {version} >>{log}-$1\nPYTHONPATH={overlay} exec {program} "$@"\n'
BROKEN = "#!/bin/sh\necho {version} >>{log}-$1\nexit 1\n"
UNABLE = '#!/bin/sh\n[ $1 = run ] || {{ echo "no module named supervise" >&2; exit 1; }}\n' + AGENT
"""Its agent does well, its supervisor does not begin."""
LATER = {"1.1.0": AGENT, "1.2.0": BROKEN, "1.3.0": UNABLE}


class Versions:
    """1.0.0 is installed below a folder; `later` are in the release that the host knows."""

    def __init__(self, folder: Path, host: EngineHost, settings: str):
        """`settings` are those of the agent, but for where versions are."""
        self.folder, self._host = folder, host
        self.root = folder / "opt" / "locci"
        self.ran = folder / "ran"
        self.config = folder / "agent.toml"
        for command in ("run", "supervise"):
            Path(f"{self.ran}-{command}").touch()
        program = self.root / "1.0.0" / "bin" / "locci-agent"
        program.parent.mkdir(parents=True)
        program.write_text(self._agent("1.0.0", AGENT))
        program.chmod(0o755)
        (self.root / "1.0.0" / "share").mkdir()
        (self.root / "1.0.0" / "share" / "VERSION").touch()
        shutil.copy(ROOT / "packaging" / "install.sh", self.root / "1.0.0" / "share")
        (self.root / "current").symlink_to("1.0.0")
        # What the installer looks for in the root file system that it installs into.
        python = folder / "usr" / "bin" / "python3.11"
        python.parent.mkdir(parents=True)
        python.symlink_to("/bin/true")
        for version, text in LATER.items():
            release(folder / "release", version, self._agent(version, text))
        source = folder / "release-source"
        source.write_text(f"{folder / 'release'}\n")
        self.config.write_text(f'install_dir = "{self.root}"\nrelease_source = "{source}"\n{settings}')

    def _agent(self, version: str, text: str) -> str:
        """Its program; what it says of its own version comes from the metadata in `overlay`."""
        overlay = self.folder / "overlay" / version
        metadata = overlay / f"locci_cloud-{version}.dist-info" / "METADATA"
        metadata.parent.mkdir(parents=True)
        metadata.write_text(f"Metadata-Version: 2.1\nName: locci-cloud\nVersion: {version}\n")
        return text.format(version=version, log=self.ran, program=own_program("locci-agent"), overlay=overlay)

    @contextlib.asynccontextmanager
    async def supervised(self) -> AsyncIterator[int]:
        """The supervisor runs, and ends well; its process id."""
        process = self._start()
        try:
            yield process.pid
        finally:
            process.terminate()
            assert await asyncio.to_thread(process.wait, 40) == 0

    def _start(self) -> subprocess.Popen[bytes]:
        argv = self._host.command(own_program("locci-agent"), "supervise", "--config", str(self.config))
        with (self.folder / "agent.log").open("ab") as output:
            return subprocess.Popen(argv, stdout=output, stderr=output, env=clean_environment())

    async def call(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """`locci-agent` on this host, to its end."""
        words = [*self._host.command(own_program("locci-agent")), *argv, "--config", str(self.config)]
        return await asyncio.to_thread(
            subprocess.run, words, capture_output=True, text=True, timeout=60, check=False, env=clean_environment()
        )

    def fetched(self, version: str) -> None:
        """Puts a version beside the one that runs."""
        program = self.root / version / "bin" / "locci-agent"
        program.parent.mkdir(parents=True)
        program.write_text(AGENT.format(version=version, log=self.ran, program=own_program("locci-agent"), overlay=""))
        program.chmod(0o755)

    @property
    def current(self) -> str:
        """The version that the link names."""
        return Path(self.root / "current").readlink().name

    @property
    def runs(self) -> list[str]:
        """Every start of an agent, by version."""
        return Path(f"{self.ran}-run").read_text().split()

    @property
    def supervisors(self) -> list[str]:
        """Every start of a supervisor from an installed version; also those that only show that they could."""
        return Path(f"{self.ran}-supervise").read_text().split()
