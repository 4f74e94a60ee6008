"""What a lab leaves on a machine, looked for where it would be."""

from __future__ import annotations

from pathlib import Path

from lab import network
from lab.layout import LOCK_ROOT, Layout
from lab.teardown import lab_cgroups


def traces(lab: str, layout: Layout) -> list[str]:
    """Namespaces, cgroups, mounts, processes, files: one line for each thing that is there."""
    found = [f"namespace {name}" for name in network.existing(lab)]
    found += [f"cgroup {path}" for path in lab_cgroups(lab)]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found += [f"mount {line.split()[4]}" for line in mounts if f"{layout.root}/" in line or f"locci-{lab}-" in line]
    found += [f"process {line}" for line in _command_lines() if f"{layout.root}/" in line or f"locci-{lab}-" in line]
    found += [f"file {path}" for path in (layout.root, LOCK_ROOT / f"{lab}.lock") if path.exists()]
    return found


def _command_lines() -> list[str]:
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return lines


def shim_sockets(layout: Layout) -> list[Path]:
    """Sockets of the lab's containers' shims; they are outside its folder."""
    addresses = layout.root.glob("hosts/*/containerd/state/*/*/*/address")
    return [Path(path.read_text().removeprefix("unix://")) for path in addresses]
