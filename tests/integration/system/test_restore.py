"""The control plane's host is lost with all that was on it; a backup brings it back while hosts run untouched."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from lab.machine import clean_environment
from lab.observers import ClientLoop
from lab.preflight import own_program
from lab.story import HOSTNAME
from lab.topology import CONTROL_HOST
from tests.integration.system.conftest import Deployed, wait_for

pytestmark = [pytest.mark.lab, pytest.mark.drill]


def test_an_empty_control_plane_is_restored_while_agents_go_on(deployed: Deployed, tmp_path: Path) -> None:
    deployed.wait_healthy()
    fleet = deployed.fleet
    passphrase, backup = tmp_path / "passphrase", tmp_path / "fleet.backup"
    passphrase.write_text("correct horse battery\n")
    fleet.story.locci("backup", "create", str(backup), "--passphrase-file", str(passphrase))
    containers = deployed.containers()
    data, config = fleet.layout.host(CONTROL_HOST) / "server", fleet.layout.config(CONTROL_HOST, "server")
    with ClientLoop(fleet.topology, deployed.host("client-eu"), HOSTNAME, rate=8) as loop:
        fleet.control.call("kill", host=CONTROL_HOST, program="server", hold=True)
        try:
            shutil.rmtree(data)
            restore = ("backup", "restore", str(backup), "--passphrase-file", str(passphrase), "--config", str(config))
            command = [own_program("locci"), *restore]
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=60, env=clean_environment({}), check=False
            )
            assert done.returncode == 0, done.stderr
        finally:
            fleet.control.call("release")
        deployed.wait_healthy()
        assert loop.wait(lambda samples: len(samples) > 20 and samples[-1].ok, timeout_s=15)
        loop.stop()
        assert all(sample.ok for sample in loop.samples())
    assert deployed.containers() == containers
    # It is a whole control plane again: what is wanted from now on comes about.
    assert deployed.apply_with('env: {RESTORED: "1"}').returncode == 0
    wait_for(lambda: set(deployed.containers().values()).isdisjoint(containers.values()), "no new release came about")
