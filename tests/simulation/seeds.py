"""Which seeds are simulated: some in `make test`, many more in `make test-drills`."""

from __future__ import annotations

import os


def more_seeds(first: int) -> range:
    """The seeds of the drills from `first` on. `LOCCI_SEEDS` is their end, `5000`, or both, `2000-5000`."""
    begin, dash, end = os.environ.get("LOCCI_SEEDS", "2000").rpartition("-")
    return range(max(first, int(begin)) if dash else first, int(end))
