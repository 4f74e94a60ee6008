"""How many seeds are simulated: some in `make test`, many more in `make test-drills`."""

from __future__ import annotations

import os


def more_seeds() -> int:
    """The number of seeds of the drills; `LOCCI_SEEDS` chooses another."""
    return int(os.environ.get("LOCCI_SEEDS", "2000"))
