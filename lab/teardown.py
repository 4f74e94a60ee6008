"""Taking a lab down: whatever is left of it, in whatever state. It asks nobody, and trusts the kernel, not a record.

Order matters: first the supervisor, so that nothing is started again; then all processes, of which some are found
by the lab's namespaces and some, the containers', by its cgroups; then what processes held: mounts, cgroups,
namespaces, sockets; last the folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fleet.errors import Code, LocciError
from lab import network
from lab.layout import Layout
from lab.machine import run
from lab.processes import ProcessId, in_cgroups, in_namespaces, kill, read_pid_files, wait_gone

_DEADLINE_S: Final = 20.0


def take_down(lab: str, layout: Layout) -> bool:
    """Removes everything of a lab; whether there was anything. Repeating it does no harm.

    Raises DEADLINE_EXCEEDED that names what could not be removed; what was removed until then stays so.
    """
    namespaces = network.existing(lab)
    cgroups = list(lab_cgroups(lab))
    present = bool(namespaces or cgroups or layout.record.exists() or layout.pids.exists())
    deadline = time.monotonic() + _DEADLINE_S
    _end_processes(lab, layout, namespaces, deadline)
    _remove_shim_sockets(layout)
    _unmount(layout.root)
    _remove_cgroups(lab, deadline)
    network.destroy(namespaces)
    if layout.record.exists() or layout.pids.exists():
        shutil.rmtree(layout.root)
    return present


def _end_processes(lab: str, layout: Layout, namespaces: list[str], deadline: float) -> None:
    supervisor = read_pid_files(layout.pids).get("supervisor")
    if supervisor is not None:
        kill(supervisor)
        wait_gone([supervisor])
    while left := _processes(lab, layout, namespaces):
        for process in left:
            kill(process)
        wait_gone(left, max(0.0, deadline - time.monotonic()))


def _processes(lab: str, layout: Layout, namespaces: list[str]) -> set[ProcessId]:
    """Those that are there now: one that was being started while others were killed turns up the next time."""
    return in_namespaces(namespaces) | in_cgroups(lab_cgroups(lab)) | set(read_pid_files(layout.pids).values())


def lab_cgroups(lab: str) -> Iterator[Path]:
    """The cgroups of the lab's containers, in every hierarchy, cgroup v1 and v2 alike."""
    for fields in _mounts():
        kind = fields[fields.index("-") + 1]
        if kind in ("cgroup", "cgroup2"):
            yield from Path(_unescape(fields[4])).glob(f"locci-{lab}-*")


def _remove_cgroups(lab: str, deadline: float) -> None:
    for top in list(lab_cgroups(lab)):
        folders = [Path(path) for path, _, _ in os.walk(top, topdown=False)]
        for folder in folders:
            _remove_cgroup(folder, deadline)


def _remove_cgroup(folder: Path, deadline: float) -> None:
    """rmdir; the kernel refuses for a moment after the last process of a cgroup has ended."""
    while True:
        try:
            folder.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if time.monotonic() > deadline:
                message = f"cgroup {folder} cannot be removed: {error.strerror}"
                raise LocciError(Code.DEADLINE_EXCEEDED, "CGROUP_STAYS", message) from error
            time.sleep(0.02)


def _remove_shim_sockets(layout: Layout) -> None:
    """A container's shim listens in /run/containerd/s, outside the folder, and leaves its socket when it is killed."""
    for path in layout.root.glob("hosts/*/containerd/state/*/*/*/address"):
        with contextlib.suppress(OSError):
            socket = Path(path.read_text().strip().removeprefix("unix://"))
            if socket.parent == Path("/run/containerd/s"):
                socket.unlink(missing_ok=True)


def _mounts() -> list[list[str]]:
    return [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]


def _unescape(path: str) -> str:
    """mountinfo writes blanks in paths as octal numbers (proc_pid_mountinfo(5))."""
    return path.encode().decode("unicode_escape")


def _unmount(root: Path) -> None:
    """Everything mounted below the folder, the latest first; lazily when something still holds it."""
    below = [path for fields in _mounts() if (path := _unescape(fields[4])).startswith(f"{root}/")]
    for path in reversed(below):
        try:
            run(["umount", path])
        except LocciError:
            run(["umount", "--lazy", path])
