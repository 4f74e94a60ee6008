"""Commands of the host that faults are made of, with a deadline and a sentence when they fail."""

from __future__ import annotations

import subprocess
from typing import Final

from fleet.errors import Code, LocciError

_COMMAND_S: Final = 10.0


def run(command: list[str], *, check: bool = True) -> subprocess.CompletedProcess[str]:
    """What came of it. Raises UNAVAILABLE when it cannot be run or takes too long, with `check` also when it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        message = f"{' '.join(command)}: {error}; install iptables and iproute2, and run as root"
        raise LocciError(Code.UNAVAILABLE, "FAULT_COMMAND_FAILED", message) from error
    if check and done.returncode:
        message = f"{' '.join(command)}: {done.stderr.strip()}"
        raise LocciError(Code.UNAVAILABLE, "FAULT_COMMAND_FAILED", message)
    return done
