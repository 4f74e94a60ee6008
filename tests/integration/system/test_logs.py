"""`locci logs` from an operator's place to containers on hosts in three regions."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from lab.machine import clean_environment
from lab.preflight import own_program
from lab.story import APP
from tests.integration.system.conftest import Deployed
from tests.integration.system.test_bad_input import locci

pytestmark = pytest.mark.lab


def test_the_logs_of_every_region_in_one_stream(deployed: Deployed) -> None:
    nodes = {replica["node"] for replica in deployed.replicas()}
    done = locci(deployed, "logs", APP, "-o", "json", "--tail", "50")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["node"] for line in lines} == nodes, done.stdout
    assert all(line["time"] and line["stream"] for line in lines)
    one = deployed.replicas()[0]["name"].removeprefix("apps/").replace("/replicas/", "/")
    done = locci(deployed, "logs", one, "-t", "-n", "1", "--since", "12h")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 1), done.stderr
    for bad, code, said in (("no-such-app", 4, "no-such-app"), ("a/b/c", 2, "is no app")):
        done = locci(deployed, "logs", bad)
        assert (done.returncode, said in done.stderr) == (code, True), done.stderr


def test_lines_are_followed_until_whoever_reads_goes(deployed: Deployed) -> None:
    environment = clean_environment({"LOCCI_CONTEXT": str(deployed.fleet.layout.context), "NO_COLOR": "1"})
    command = [own_program("locci"), "logs", "-f", APP]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        try:
            assert b" | " in os.read(process.stdout.fileno(), 65_536)
            assert process.poll() is None
        finally:
            process.terminate()
