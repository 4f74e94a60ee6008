"""Fuzzes one target with atheris, guided by coverage.

`python -m tests.fuzz.run TARGET [SECONDS] [CORPUS]`: for so many seconds (30), with a folder that keeps what was found.
Ends with 0 when nothing was, and leaves the bytes in `crash-…` otherwise.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=["agent.edge.core", "agent.decode", "agent.decode_faults", "agent.decode_options", "agent.core"]
):
    from tests.fuzz.targets import SEEDS, TARGETS


def main() -> None:
    """Never returns: atheris ends the process."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"which of {', '.join(TARGETS)}?")
    name = sys.argv[1]
    seconds = sys.argv[2] if len(sys.argv) > 2 else "30"
    corpus = Path(sys.argv[3] if len(sys.argv) > 3 else tempfile.mkdtemp(prefix="locci-fuzz-"))
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(SEEDS[name]):
        (corpus / f"seed-{number}").write_bytes(seed)
    # The peak of resident memory may be another program's, since Linux hands it on; single allocations are ours.
    limits = ["-max_len=4096", "-timeout=10", "-rss_limit_mb=0", "-malloc_limit_mb=1024"]
    atheris.Setup(["fuzz", f"-max_total_time={seconds}", *limits, str(corpus)], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
