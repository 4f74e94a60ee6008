"""`packaging/install.sh`: what it checks, puts where and leaves, in a root of its own with systemd and engine faked."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.integration.packaging.fake_release import ENGINE, release

pytestmark = pytest.mark.lab

APPLETS = (
    *("awk", "cat", "chmod", "cmp", "cp", "cut", "dirname", "grep", "id", "ln", "ls", "mkdir", "mktemp", "mv"),
    *("printf", "readlink", "rm", "rmdir", "sed", "sh", "sha256sum", "sleep", "tar", "touch", "tr", "uname"),
)
SYSTEMCTL = '#!/bin/sh\necho "systemctl $*" >>/calls\n[ "$1" != is-active ]\n'
SERVER = ("--server", "https://192.0.2.1:7443", "--token", "locci1.secret")


class Machine:
    """A root file system with busybox for everything, a systemd that notes its calls, an engine that answers."""

    def __init__(self, root: Path):
        self.root = root
        (root / "bin").mkdir(parents=True)
        shutil.copy("/bin/busybox", root / "bin/busybox")
        for applet in APPLETS:
            (root / "bin" / applet).symlink_to("busybox")
        for folder in ("dev", "etc/systemd/system", "run/systemd/system", "tmp", "usr/bin", "usr/local/bin", "var/run"):
            (root / folder).mkdir(parents=True)
        (root / "dev/null").touch()
        (root / "etc/os-release").write_text('PRETTY_NAME="Test 1"\n')
        self.program("usr/bin/python3.11", ENGINE)
        self.program("bin/systemctl", SYSTEMCTL)
        self._engine = socket.socket(socket.AF_UNIX)
        self._engine.bind(str(root / "var/run/docker.sock"))
        release(root / "release", "1.0.0")

    def program(self, path: str, text: str) -> None:
        (self.root / path).write_text(text)
        (self.root / path).chmod(0o755)

    def install(
        self, *arguments: str, env: Mapping[str, str] | None = None, script: str = "/release/install.sh"
    ) -> subprocess.CompletedProcess[str]:
        """Runs the script there."""
        command: Sequence[str] = ("/usr/sbin/chroot", str(self.root), "/bin/sh", script, *arguments)
        environment = {"PATH": "/bin:/usr/bin", **(env or {})}
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)

    @property
    def calls(self) -> list[str]:
        """What was called so far."""
        path = self.root / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def forget(self) -> None:
        """Forgets the calls."""
        (self.root / "calls").unlink(missing_ok=True)

    @property
    def current(self) -> str:
        """The version that runs."""
        return str((self.root / "opt/locci/current").readlink())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "root")


def test_installs_joins_starts_and_says_what_is_next(machine: Machine) -> None:
    done = machine.install(*SERVER, "--name", "eu-1", "--address", "192.0.2.7,2001:db8::7", "--label", "rack=a")
    assert done.returncode == 0, done.stderr
    assert machine.current == "1.0.0"
    join = next(call for call in machine.calls if " join " in call)
    assert join == (
        "locci-agent join --server https://192.0.2.1:7443 --token locci1.secret --name eu-1 "
        "--address 192.0.2.7 --address 2001:db8::7 --label rack=a"
    )
    assert [call for call in machine.calls if call.startswith("systemctl start")] == [
        "systemctl start locci-agent.service",
        "systemctl start locci-edge.service",
    ]
    assert (machine.root / "etc/systemd/system/locci-agent.service").exists()
    assert str((machine.root / "usr/local/bin/locci").readlink()) == "/opt/locci/current/bin/locci"
    assert "locci-agent doctor" in done.stderr
    assert "locci1.secret" not in done.stdout + done.stderr


def test_options_are_variables_as_well_and_roles_are_kept_apart(machine: Machine) -> None:
    env = {"LOCCI_SERVER": "https://192.0.2.1:7443", "LOCCI_TOKEN": "locci1.t", "LOCCI_ROLES": "dns"}
    (machine.root / "var/run/docker.sock").unlink()
    done = machine.install(env=env)
    assert done.returncode == 0, done.stderr
    assert any(call.startswith("locci-dns join") for call in machine.calls)
    assert [call for call in machine.calls if "start" in call] == ["systemctl start locci-dns.service"]


def test_again_changes_nothing_and_joins_only_once(machine: Machine) -> None:
    assert machine.install(*SERVER).returncode == 0
    settings = machine.root / "etc/locci/agent.toml"
    settings.write_text("sandboxes = 2\n")
    machine.forget()
    done = machine.install(*SERVER)
    assert done.returncode == 0, done.stderr
    assert not [call for call in machine.calls if " join " in call or "restart" in call]
    assert "is in place" in done.stderr
    assert "is a node already" in done.stderr
    assert settings.read_text() == "sandboxes = 2\n"


def test_a_newer_version_is_switched_to_in_one_step_and_what_runs_is_started_anew(machine: Machine) -> None:
    assert machine.install(*SERVER).returncode == 0
    machine.program("bin/systemctl", SYSTEMCTL.replace('[ "$1" != is-active ]', "exit 0"))
    release(machine.root / "release", "1.1.0")
    machine.forget()
    assert machine.install().returncode == 0
    assert machine.current == "1.1.0"
    assert "systemctl reload-or-restart locci-edge.service" in machine.calls
    assert (machine.root / "opt/locci/1.0.0").is_dir()
    assert machine.install("--version", "1.0.0").returncode == 0
    assert machine.current == "1.0.0"


def test_a_version_can_be_put_beside_the_one_that_runs(machine: Machine) -> None:
    assert machine.install(*SERVER).returncode == 0
    release(machine.root / "release", "1.1.0")
    done = machine.install("--no-start")
    assert done.returncode == 0
    assert "locci-agent upgrade 1.1.0" in done.stderr
    assert machine.current == "1.0.0"
    assert (machine.root / "opt/locci/1.1.0/bin/locci-agent").exists()


def test_versions_that_nothing_runs_any_more_are_removed(machine: Machine) -> None:
    assert machine.install(*SERVER).returncode == 0
    for number in range(1, 7):
        release(machine.root / "release", f"1.{number}.0")
        done = machine.install("--no-start", "--version", f"1.{number}.0")
        assert done.returncode == 0, done.stderr
        os.utime(machine.root / f"opt/locci/1.{number}.0", (number, number))
    there = sorted(folder.name for folder in (machine.root / "opt/locci").iterdir() if not folder.is_symlink())
    assert there == ["1.0.0", "1.3.0", "1.4.0", "1.5.0", "1.6.0"]
    assert "version 1.2.0, which nothing runs any more, is removed" in done.stderr
    assert machine.current == "1.0.0"


def test_what_is_not_as_its_sum_says_is_not_installed(machine: Machine) -> None:
    archive = next((machine.root / "release").glob("*.tar.gz"))
    archive.write_bytes(archive.read_bytes() + b"x")
    done = machine.install()
    assert done.returncode == 1
    assert "is not what SHA256SUMS says" in done.stderr
    assert not (machine.root / "opt/locci").exists()


def test_a_pinned_list_of_sums_must_be_that_list(machine: Machine) -> None:
    sums = hashlib.sha256((machine.root / "release/SHA256SUMS").read_bytes()).hexdigest()
    assert "is not the one" in machine.install("--sha256", "0" * 64).stderr
    assert machine.install("--sha256", sums).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--token", "locci1.t"), 2, "belong together"),
        (("--roles", "edge,web"), 2, "web is neither edge nor dns"),
        (("--nonsense",), 2, "unknown option"),
        (("--server",), 2, "needs a value"),
        (("--from", "/nowhere"), 1, "/nowhere/SHA256SUMS is not there"),
        (("--version", "9.9"), 1, "has no version 9.9"),
        (("--version", "../../etc"), 2, "is no version"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_done(
    machine: Machine, arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = machine.install(*arguments)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert not (machine.root / "opt/locci").exists()
    assert not machine.calls


def test_what_the_host_lacks_is_named_with_what_to_do(machine: Machine) -> None:
    (machine.root / "usr/bin/python3.11").unlink()
    done = machine.install(*SERVER)
    assert (done.returncode, "install the package python3.11" in done.stderr) == (1, True), done.stderr
    machine.program("usr/bin/python3.11", ENGINE)
    (machine.root / "var/run/docker.sock").unlink()
    done = machine.install(*SERVER)
    assert (done.returncode, "--with-docker" in done.stderr) == (1, True), done.stderr
    assert not machine.calls or not any(" join " in call for call in machine.calls)


@pytest.mark.parametrize(
    ("manager", "python", "engine"),
    [
        ("apt-get", "install -y -qq --no-install-recommends python3.11", "docker.io"),
        ("dnf", "install -y -q python3.11", "docker"),
    ],
)
def test_docker_and_python_are_brought_by_the_distribution_when_asked(
    machine: Machine, manager: str, python: str, engine: str
) -> None:
    (machine.root / "usr/bin/python3.11").rename(machine.root / "usr/bin/not-yet")
    (machine.root / "var/run/docker.sock").rename(machine.root / "var/run/not-yet")
    brings = """#!/bin/sh
echo "${0##*/} $*" >>/calls
case "$*" in
  *python3.11) mv /usr/bin/not-yet /usr/bin/python3.11 ;;
  *docker*) mv /var/run/not-yet /var/run/docker.sock ;;
esac
"""
    machine.program(f"bin/{manager}", brings)
    done = machine.install(*SERVER, env={"LOCCI_WITH_DOCKER": "1"})
    assert done.returncode == 0, done.stderr
    assert f"{manager} {python}" in machine.calls
    assert any(call.startswith(f"{manager} install") and call.endswith(f" {engine}") for call in machine.calls)
    assert "systemctl enable --now --quiet docker" in machine.calls
    assert machine.current == "1.0.0"


def test_without_systemd_the_commands_to_run_are_shown(machine: Machine) -> None:
    (machine.root / "run/systemd/system").rmdir()
    done = machine.install(*SERVER)
    assert done.returncode == 0
    assert not any(call.startswith("systemctl") for call in machine.calls)
    assert "locci-agent run --config" in done.stderr


def test_into_another_root_nothing_is_joined_or_started(machine: Machine) -> None:
    (machine.root / "image/usr/bin").mkdir(parents=True)
    shutil.copy(machine.root / "usr/bin/python3.11", machine.root / "image/usr/bin")
    done = machine.install("--root", "/image")
    assert done.returncode == 0, done.stderr
    assert (machine.root / "image/opt/locci/1.0.0/bin/locci-agent").exists()
    assert not (machine.root / "opt/locci").exists()
    assert not machine.calls


def test_uninstall_keeps_state_and_purge_does_not(machine: Machine) -> None:
    assert machine.install(*SERVER).returncode == 0
    assert machine.install("uninstall").returncode == 0
    assert not (machine.root / "opt/locci").exists()
    assert not list((machine.root / "etc/systemd/system").iterdir())
    assert not list((machine.root / "usr/local/bin").iterdir())
    assert (machine.root / "var/lib/locci/identity/identity.json").exists()
    assert machine.install("uninstall", "--purge").returncode == 0
    assert not (machine.root / "var/lib/locci").exists()
    assert not (machine.root / "etc/locci").exists()


def test_a_download_that_breaks_off_does_nothing(machine: Machine) -> None:
    script = machine.root / "release/install.sh"
    text = script.read_text()
    script.write_text(text[: text.rindex('main "$@"')])
    assert machine.install(*SERVER).returncode == 0
    assert not (machine.root / "opt/locci").exists()
