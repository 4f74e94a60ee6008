"""What a machine must have for a lab, checked before anything is touched."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from fleet.errors import Code, LocciError, failed_precondition
from lab.machine import clean_environment, find_tool, is_root, run
from lab.programs import Tools

# Command, and the Debian package that brings it.
_NEEDED: Final = {
    "dockerd": "docker.io",
    "containerd": "containerd",
    "docker-registry": "docker-registry",
    "redis-server": "redis-server",
    "unbound": "unbound",
    "ip": "iproute2",
    "iptables-restore": "iptables",
    "ip6tables-restore": "iptables",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "mount": "mount",
}


def check_permitted() -> None:
    """PERMISSION_DENIED unless this is Linux and this process is root."""
    if sys.platform != "linux":
        message = f"the lab needs network namespaces, which only Linux has; this is {sys.platform}"
        raise LocciError(Code.PERMISSION_DENIED, "NOT_LINUX", message)
    if not is_root():
        message = "the lab makes network namespaces and runs Docker Engines, which needs root: run it with sudo"
        raise LocciError(Code.PERMISSION_DENIED, "NOT_ROOT", message)


def find_tools(state_root: Path) -> Tools:
    """The executables of a lab. PERMISSION_DENIED names all that are missing and the packages that bring them."""
    missing = sorted(command for command in _NEEDED if find_tool(command) is None)
    if missing:
        packages = " ".join(sorted({_NEEDED[command] for command in missing}))
        message = f"missing on this machine: {', '.join(missing)}; run `make setup` or `apt-get install {packages}`"
        raise LocciError(Code.PERMISSION_DENIED, "MISSING_TOOLS", message)
    return Tools(
        dockerd=_tool("dockerd"),
        containerd=_tool("containerd"),
        registry=_tool("docker-registry"),
        redis=_tool("redis-server"),
        unbound=_tool("unbound"),
        python=sys.executable,
        server=own_program("locci-server"),
        agent=own_program("locci-agent"),
        edge=own_program("locci-edge"),
        dns=own_program("locci-dns"),
        storage_driver="overlay2" if _overlay_works(state_root) else "vfs",
    )


def _tool(command: str) -> str:
    path = find_tool(command)
    assert path is not None
    return path


def own_program(name: str) -> str:
    """Path of a program of the fleet: beside this Python, as it was installed together with the lab."""
    beside = Path(sys.executable).with_name(name)
    path = str(beside) if beside.exists() else find_tool(name)
    if path is None:
        message = f"{name} is neither beside {sys.executable} nor on the PATH: install locci-cloud whole"
        raise failed_precondition("MISSING_PROGRAM", message)
    return path


def _overlay_works(state_root: Path) -> bool:
    """Whether overlays can be mounted there: they cannot on top of another overlay, as inside most containers."""
    state_root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=state_root, prefix=".overlay-") as folder:
        parts = {name: Path(folder) / name for name in ("lower", "upper", "work", "merged")}
        for part in parts.values():
            part.mkdir()
        options = f"lowerdir={parts['lower']},upperdir={parts['upper']},workdir={parts['work']}"
        mount = subprocess.run(
            ["mount", "-t", "overlay", "overlay", "-o", options, str(parts["merged"])],
            capture_output=True,
            timeout=10,
            env=clean_environment(),
            check=False,
        )
        if mount.returncode != 0:
            return False
        run(["umount", str(parts["merged"])])
    return True
