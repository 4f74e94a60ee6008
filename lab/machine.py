"""Running the machine's own tools, each with a deadline, each failure with what was asked and what was said."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from fleet.errors import Code, LocciError

# A user's PATH may lack these; the tools of a network and the daemons live there.
SEARCH_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """What programs of the lab get of the environment: nothing of the caller's proxies, settings and secrets."""
    base = {"PATH": SEARCH_PATH, "HOME": "/root", "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
    return base | dict(extra or {})


def find_tool(name: str) -> str | None:
    """Absolute path of a tool; the system's own copy is preferred over one that a user put elsewhere."""
    return shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin") or shutil.which(name, path=SEARCH_PATH)


def run(argv: Sequence[str], *, stdin: str = "", timeout_s: float = 20.0) -> str:
    """Standard output of a tool that ended well.

    Raises INTERNAL with the command and what it said when it failed, DEADLINE_EXCEEDED when it took too long.
    """
    try:
        done = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, timeout=timeout_s, env=clean_environment(), check=False
        )
    except subprocess.TimeoutExpired as error:
        message = f"`{' '.join(argv)}` did not end within {timeout_s:g} s"
        raise LocciError(Code.DEADLINE_EXCEEDED, "TOOL_TIMEOUT", message) from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip() or f"exit code {done.returncode}"
        raise LocciError(Code.INTERNAL, "TOOL_FAILED", f"`{' '.join(argv)}`: {said}")
    return done.stdout


def ip_batch(namespace: str, lines: Sequence[str]) -> None:
    """Runs commands of ip(8) inside a network namespace, all in one process; stops at the first that fails."""
    run(["ip", "-n", namespace, "-batch", "-"], stdin="\n".join(lines) + "\n")


def namespace_path(namespace: str) -> Path:
    """The file that stands for a network namespace."""
    return Path("/run/netns") / namespace


def enter(namespace: str, argv: Sequence[str]) -> list[str]:
    """`argv` inside a network namespace; by nsenter, as `ip netns exec` mounts a new /sys and so hides the cgroups."""
    return ["nsenter", f"--net={namespace_path(namespace)}", "--", *argv]


def boot_id() -> str:
    """Differs from boot to boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def is_root() -> bool:
    """Whether this process may do what a lab needs."""
    return os.geteuid() == 0
