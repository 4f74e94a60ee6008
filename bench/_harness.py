"""What the benchmarks share: peers from Debian, processes on a processor of their own, the report."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_STOP_S = 6.0


def install(present: Mapping[str, bool]) -> str | None:
    """Installs the Debian packages that are not present, without starting anything; the complaint when that fails."""
    wanted = [package for package, there in present.items() if not there]
    if not wanted:
        return None
    policy = Path("/usr/sbin/policy-rc.d")
    with contextlib.ExitStack() as stack:
        if os.geteuid() == 0 and not policy.exists():
            policy.write_text("#!/bin/sh\nexit 101\n")
            policy.chmod(0o755)
            stack.callback(policy.unlink)
        command = ["apt-get", "install", "-y", "--no-install-recommends", *wanted]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"apt-get install {' '.join(wanted)}: {done.stderr.strip()}" if done.returncode else None


@contextlib.contextmanager
def on_cpu(cpu: int, command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The process on one processor, its output in `log`; ended at the end, whatever happens."""
    with log.open("wb") as output:
        process = subprocess.Popen(["taskset", "-c", str(cpu), *command], stdout=output, stderr=output, cwd=ROOT)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def say(text: str) -> None:
    """Progress."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def report(name: str, figures: Sequence[Mapping[str, Any]]) -> None:
    """Prints the figures and keeps them in `build/bench/{name}.json`."""
    output = ROOT / "build" / "bench" / f"{name}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({"figures": list(figures)}, indent=2) + "\n")
    for figure in figures:
        print("{figure}: ours {ours}, {peer} {theirs} {unit}: {ratio} x".format(**figure))
