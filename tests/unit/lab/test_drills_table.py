"""docs/drills-conformance.md names drills of the suite: each of them, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from lab.suite_drills import SUITE

TABLES = Path(__file__).parents[3] / "docs/drills-conformance.md"


def test_every_drill_of_the_suite_is_in_the_table() -> None:
    rows = [line for line in TABLES.read_text().splitlines() if line.startswith("| ")]
    named = {name for row in rows for name in re.findall(r"`([a-z0-9-]+)`", row.split("|")[3])}
    assert named == {drill.name for drill in SUITE}
