"""One line on a host that runs systemd: the units as they are shipped, through kills, a reload and a power cut."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.engine_fixture import wait_for
from tests.integration.packaging.booted_host import BootedHost, can_boot
from tests.integration.packaging.clean_root import DEADLINE_S, CleanHost, ControlPlane, elapsed_s, served
from tests.integration.packaging.test_packages import hand_over, hello

pytestmark = [
    pytest.mark.lab,
    pytest.mark.drill,
    pytest.mark.packaging,
    pytest.mark.skipif(not can_boot(), reason="without systemd's hierarchy of control groups"),
]

UNITS = ("locci-agent", "locci-edge")
KILL = """
import sys, time
from pathlib import Path
from agent.adapters.killer import NAME, Killer
from fleet.errors import LocciError
state = Path("/var/lib/locci/agent")
Killer(state).begin("edge")
print((state / NAME).read_text())
time.sleep(4)
# Another process, as after a crash of the agent, undoes it.
killer = Killer(state)
for _ in range(100):
    try:
        killer.end()
        sys.exit(0)
    except LocciError as error:
        print(error.message)
        time.sleep(0.2)
sys.exit("the edge stays down")
"""


@pytest.fixture
def booted(host: CleanHost) -> Iterator[BootedHost]:
    made = BootedHost(host)
    made.boot()
    try:
        yield made
    finally:
        made.power_off()


def status_of(booted: BootedHost, unit: str) -> dict[str, str]:
    """What the kernel says of a unit's first process."""
    text = booted.ok("cat", f"/proc/{booted.main_pid(unit)}/status")
    return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}


def as_agent(booted: BootedHost, script: str) -> str:
    """What a Python script says that runs with no more than the agent's unit grants."""
    unit = (Path(__file__).parents[3] / "packaging" / "systemd" / "locci-agent.service").read_text()
    lines = unit.partition("[Service]")[2].partition("[Install]")[0].splitlines()
    granted = [line for line in lines if "=" in line and not line.startswith(("#", "Exec", "Restart", "Runtime"))]
    properties = [part for line in granted for part in ("-p", line)]
    # Kept apart from what it kills: nothing of the unit is in its group.
    python = ("/opt/locci/current/bin/python", "-c", script)
    return booted.ok("systemd-run", "--quiet", "--wait", "--pipe", "--collect", *properties, *python)


def test_installed_by_one_line_it_serves_through_a_kill_a_reload_and_a_reboot_without_control_plane(
    packages: Path, host: CleanHost, booted: BootedHost, fleet: ControlPlane
) -> None:
    bundle = hand_over(host, next(packages.glob("*-bundle.tar")))
    fleet.apply(hello(host.engine))
    token = fleet.token()
    serves = served(f"http://{host.engine.inside}/", "hello.example.net")

    began = time.monotonic()
    # What systemd empties when it boots is not the place for it.
    booted.ok("mkdir", "-p", "/root/locci")
    (host.root / "root/locci.tar").write_bytes((host.root / bundle.lstrip("/")).read_bytes())
    booted.ok("tar", "-xf", "/root/locci.tar", "-C", "/root/locci")
    said = booted.run(
        "sh", "/root/locci/install.sh", env={"LOCCI_SERVER": fleet.url, "LOCCI_TOKEN": token, "LOCCI_NAME": "eu-1"}
    )
    assert said.returncode == 0, said.stderr
    assert "runs. Next:" in said.stderr
    installed_s = elapsed_s(began)
    wait_for(serves, "it serves", DEADLINE_S)
    print(f"installed, joined and started after {installed_s:.1f} s, serving after {elapsed_s(began):.1f} s")
    wait_for(lambda: fleet.ready("eu-1"), "the node is READY", DEADLINE_S)
    assert elapsed_s(began) < 60.0

    # The hardening is in effect, and nothing that is needed is missing.
    for unit in UNITS:
        assert booted.ok("systemctl", "is-active", unit).strip() == "active"
        status = status_of(booted, unit)
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2"), unit
        assert int(status["CapBnd"], 16).bit_count() <= 7, unit
    assert booted.run("locci-agent", "doctor").returncode == 0, booted.run("locci-agent", "doctor").stdout

    for unit in UNITS:
        before = booted.main_pid(unit)
        booted.ok("sh", "-c", f"kill -9 {before}")
        wait_for(lambda b=before, u=unit: booted.main_pid(u) not in ("0", b), f"{unit} is back", DEADLINE_S)
    wait_for(serves, "it serves after kills", DEADLINE_S)
    before = booted.main_pid("locci-edge")
    assert '["systemctl", "start", "locci-edge.service"]' in as_agent(booted, KILL)
    assert booted.main_pid("locci-edge") not in ("0", before)
    wait_for(serves, "it serves after a drill has killed its edge", DEADLINE_S)
    before = booted.main_pid("locci-edge")
    booted.ok("systemctl", "reload", "locci-edge")
    wait_for(serves, "it serves after a reload", DEADLINE_S)
    assert booted.main_pid("locci-edge") == before

    fleet.close()
    booted.power_off()
    host.engine.remove_containers()
    booted.boot()
    wait_for(serves, "it serves after a reboot without its control plane", DEADLINE_S)

    booted.ok("sh", "/root/locci/install.sh", "uninstall", "--purge")
    assert booted.run("systemctl", "is-active", "locci-agent").stdout.strip() != "active"
    assert not (host.root / "opt/locci").exists()
