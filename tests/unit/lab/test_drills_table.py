"""docs/drills-conformance.md names tests and drills of the suite; each must exist, and every drill be named."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from lab.suite_drills import SUITE

ROOT = Path(__file__).parents[3]
NAMED = re.compile(r"`(tests/[a-z0-9_/]+\.py)::(test_[a-z0-9_]+)`")
HEADS = ("| fault ", "| promise ", "| --- ")


def test_every_test_and_every_drill_in_the_table_exists() -> None:
    text = (ROOT / "docs/drills-conformance.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith(HEADS)]
    assert len(rows) > 35
    functions: dict[str, set[str]] = {}
    played: set[str] = set()
    for row in rows:
        _, _, tests, drills, _ = row.split("|")
        found = NAMED.findall(tests)
        assert found, row
        assert len(found) == row.count("`tests/"), row
        for path, name in found:
            if path not in functions:
                tree = ast.parse((ROOT / path).read_text())
                functions[path] = {node.name for node in ast.walk(tree) if hasattr(node, "name")}
            assert name in functions[path], (path, name)
        played |= set(re.findall(r"`([a-z0-9-]+)`", drills))
    assert played == {drill.name for drill in SUITE}
