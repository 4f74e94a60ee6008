"""Running a command on a host of the lab, as if one were logged in there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from lab.layout import Layout
from lab.machine import enter
from lab.topology import Host, Topology

# Own mount namespace, so that the machine's resolv.conf is covered for this command only. The command follows as
# arguments and is never parsed by the shell.
_WITH_RESOLVER = 'mount --bind "$1" /etc/resolv.conf && shift && exec "$@"'


def command_on(topology: Topology, layout: Layout, host: Host, argv: Sequence[str]) -> list[str]:
    """The command line that runs `argv` on the host, with the host's resolver."""
    resolver = str(layout.host(host.name) / "resolv.conf")
    mounted = ["unshare", "--mount", "--propagation", "private", "--"]
    return enter(topology.namespace(host), [*mounted, "sh", "-c", _WITH_RESOLVER, "sh", resolver, *argv])


def run_on(topology: Topology, layout: Layout, host: Host, argv: Sequence[str]) -> None:
    """Replaces this process by `argv` on the host: terminal, signals and exit code are the command's own.

    The resolver is set where the machine has a file to cover; without one, the command runs without. OSError when
    nsenter is missing.
    """
    covered = Path("/etc/resolv.conf").exists()
    command = command_on(topology, layout, host, argv) if covered else enter(topology.namespace(host), argv)
    os.execvp(command[0], command)  # noqa: S606 - replacing this process is the point
