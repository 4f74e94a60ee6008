"""What containers use, read from the kernel's control groups, v2 and v1: 0.03 ms a container, where the engine's own
statistics take a second or two."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path("/sys/fs/cgroup")
DEPTH_MAX: Final = 4
"""Levels below the root at which engines put containers, as in `system.slice/docker-….scope`."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Processors in use since the look before, and bytes of memory without what the kernel can drop at once."""

    cpus: float
    memory_bytes: int


class UsageReader:
    """Remembers each container's processor time from look to look."""

    def __init__(self, root: Path = ROOT):
        self._root = root
        self._is_v2 = (root / "cgroup.controllers").exists()
        self._folders: dict[str, tuple[Path, Path]] = {}
        self._before: dict[str, tuple[float, float]] = {}

    def read(self, container_ids: Iterable[str], now: float) -> dict[str, Usage]:
        """The usage of each container that could be read; the first look at one says nothing of its processors."""
        wanted = set(container_ids)
        self._folders = {i: folders for i, folders in self._folders.items() if i in wanted}
        self._before = {i: before for i, before in self._before.items() if i in wanted}
        self._find(wanted - self._folders.keys())
        found: dict[str, Usage] = {}
        for container_id, (cpu, memory) in list(self._folders.items()):
            try:
                cpu_s, memory_bytes = self._cpu_s(cpu), self._memory_bytes(memory)
            except (OSError, ValueError):
                # It ended a moment ago, or was started again elsewhere.
                del self._folders[container_id]
                continue
            then, then_cpu_s = self._before.get(container_id, (now, cpu_s))
            self._before[container_id] = (now, cpu_s)
            cpus = (cpu_s - then_cpu_s) / (now - then) if now > then else 0.0
            found[container_id] = Usage(max(0.0, cpus), memory_bytes)
        return found

    def _find(self, wanted: set[str]) -> None:
        if not wanted:
            return
        if self._is_v2:
            both = [_below(self._root, wanted)] * 2
        else:
            both = [_below(self._root / "cpuacct", wanted), _below(self._root / "memory", wanted)]
        for container_id in both[0].keys() & both[1].keys():
            self._folders[container_id] = (both[0][container_id], both[1][container_id])

    def _cpu_s(self, folder: Path) -> float:
        if self._is_v2:
            return _value(folder / "cpu.stat", "usage_usec") / 1e6
        return int((folder / "cpuacct.usage").read_text()) / 1e9

    def _memory_bytes(self, folder: Path) -> int:
        name, droppable = ("memory.current", "inactive_file")
        if not self._is_v2:
            name, droppable = ("memory.usage_in_bytes", "total_inactive_file")
        return max(0, int((folder / name).read_text()) - _value(folder / "memory.stat", droppable))


def _below(root: Path, wanted: set[str]) -> dict[str, Path]:
    """The control group of each container: named by its id, or `docker-{id}.scope` under systemd."""
    names = {name: i for i in wanted for name in (i, f"docker-{i}.scope")}
    return {names[folder.name]: folder for folder in _folders(root, DEPTH_MAX, names.__contains__)}


def _folders(root: Path, depth: int, matches: Callable[[str], bool]) -> Iterator[Path]:
    try:
        inside = [entry for entry in root.iterdir() if entry.is_dir()]
    except OSError:
        return
    for folder in inside:
        if matches(folder.name):
            yield folder
        elif depth > 1:
            yield from _folders(folder, depth - 1, matches)


def _value(path: Path, key: str) -> int:
    lines = (line.split() for line in path.read_text().splitlines())
    return next((int(words[1]) for words in lines if len(words) == 2 and words[0] == key), 0)
