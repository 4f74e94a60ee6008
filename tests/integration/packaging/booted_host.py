"""A clean Debian that has booted: systemd is its first process, in namespaces of its own and in an engine's network."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
from pathlib import Path
from typing import Final

from lab.machine import clean_environment
from tests.integration.engine_fixture import wait_for
from tests.integration.packaging.clean_root import DEADLINE_S, CleanHost

CGROUPS: Final = Path("/sys/fs/cgroup")
DEVICES: Final = {"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9}
"""Minor numbers of memory devices (major 1)."""
BOOT: Final = """
set -e
mount --make-rprivate /
mount --bind {root} {root}
cd {root}
mount --bind {lab} lab
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup
mkdir sys/fs/cgroup/systemd
mount -t cgroup -o none,name=systemd systemd sys/fs/cgroup/systemd
{groups}
mount -t tmpfs -o mode=755 tmpfs run
ln -s {socket} run/docker.sock
mount -t tmpfs -o mode=755 tmpfs dev
{devices}
mkdir dev/pts
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mkdir -p old
pivot_root . old
exec env -i container=locci PATH=/usr/sbin:/usr/bin:/sbin:/bin /bin/sh -c \
  'umount -l /old; exec /lib/systemd/systemd systemd.unit=multi-user.target'
"""


def can_boot() -> bool:
    """Whether systemd can be started in namespaces here: it needs its own hierarchy of control groups, version 1."""
    return (CGROUPS / "systemd" / "cgroup.procs").exists()


class BootedHost:
    """`boot` and `power_off` as often as wanted; what was installed stays."""

    def __init__(self, clean: CleanHost):
        self.root, self.engine = clean.root, clean.engine
        self._group = f"locci-boot-{secrets.token_hex(4)}"
        self._process: subprocess.Popen[bytes] | None = None
        self._init = 0
        clean.bring("systemd", "systemd-sysv", "dbus")

    def boot(self) -> None:
        """Starts systemd, and returns when it has started everything."""
        devices = [f"mknod -m 666 dev/{name} c 1 {minor}" for name, minor in DEVICES.items()]
        socket = self.engine.layout.docker_socket("h").relative_to(self.engine.layout.root)
        script = BOOT.format(
            root=self.root,
            lab=self.engine.layout.root,
            socket=f"/lab/{socket}",
            devices="\n".join([*devices, "mknod -m 666 dev/tty c 5 0"]),
            groups="\n".join(
                f"mkdir sys/fs/cgroup/{name} && mount -t cgroup -o {name} {name} sys/fs/cgroup/{name}"
                for name in self._controllers()
            ),
        )
        for folder in self._groups():
            folder.mkdir(exist_ok=True)
            for name in ("cpuset.cpus", "cpuset.mems"):
                # One of `cpuset` takes no process before it has processors and memory.
                if (folder / name).exists():
                    (folder / name).write_text((folder.parent / name).read_text())
        joins = "; ".join(f"echo $$ >{folder}/cgroup.procs" for folder in self._groups())
        unshare = ("unshare", "--mount", "--pid", "--fork", "--uts", "--ipc", "--cgroup", "sh", "-c", script)
        command = self.engine.command("sh", "-c", f'{joins}; exec "$@"', "sh", *unshare)
        with (self.root.parent / "boot.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=clean_environment())
        wait_for(self._has_booted, "systemd has started everything", DEADLINE_S)

    def _groups(self) -> list[Path]:
        """A control group in each hierarchy, so that what systemd makes is below it, and goes with it."""
        found = (folder for folder in CGROUPS.iterdir() if (folder / "cgroup.procs").exists())
        return [folder / self._group for folder in found]

    def _controllers(self) -> list[str]:
        """The other hierarchies, which an engine on that host needs: each is seen from the host's own group on."""
        return [folder.parent.name for folder in self._groups() if folder.parent.name not in ("systemd", "unified")]

    def _has_booted(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.root.parent / "boot.log").read_text()
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        if not children:
            return False
        self._init = int(children[0])
        return self.run("systemctl", "is-system-running").stdout.strip() in ("running", "degraded")

    def run(self, *argv: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """A command there, to its end."""
        inside = ("nsenter", "--target", str(self._init), "--mount", "--pid", "--uts", "--ipc", "--net", "--wd=/")
        return subprocess.run(
            [*inside, *argv], capture_output=True, text=True, timeout=120, check=False, env=clean_environment(env)
        )

    def ok(self, *argv: str, env: dict[str, str] | None = None) -> str:
        """The same; it must end well."""
        done = self.run(*argv, env=env)
        assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
        return done.stdout

    def main_pid(self, unit: str) -> str:
        """The process id of a unit's first process, there."""
        return self.ok("systemctl", "show", "--property=MainPID", "--value", unit).strip()

    def power_off(self) -> None:
        """Everything there is dead at once, as when the mains fail."""
        if self._process is None:
            return
        if self._init:
            os.kill(self._init, signal.SIGKILL)
        self._process.kill()
        self._process.wait(20)
        self._process, self._init = None, 0
        wait_for(self._removed, "its control groups are gone", DEADLINE_S)

    def _removed(self) -> bool:
        for folder in self._groups():
            for path, _, _ in os.walk(folder, topdown=False):
                try:
                    os.rmdir(path)
                except OSError:
                    return False
        return True
