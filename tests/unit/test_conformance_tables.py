"""Tables in docs/ say which tests hold a rule or a promise; each must exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"`(tests/[a-z0-9_/]+\.py)::(test_[a-z0-9_]+)(?:\[([a-z0-9-]+)\])?`")
HEADS = ("| rule ", "| fault ", "| promise ", "| --- ")


@pytest.mark.parametrize(
    ("page", "at_least"),
    [("edge-conformance", 35), ("dns-conformance", 50), ("drills-conformance", 40), ("agent-conformance", 35)],
)
def test_every_test_in_the_table_exists(page: str, at_least: int) -> None:
    text = (ROOT / f"docs/{page}.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith(HEADS)]
    assert len(rows) > at_least
    sources: dict[str, tuple[str, set[str]]] = {}
    for row in rows:
        found = NAMED.findall(row)
        assert found, row
        assert len(found) == row.count("`tests/"), row
        for path, name, case in found:
            if path not in sources:
                text = (ROOT / path).read_text()
                sources[path] = text, {node.name for node in ast.walk(ast.parse(text)) if hasattr(node, "name")}
            source, functions = sources[path]
            assert name in functions, (path, name)
            assert not case or f'"{case}"' in source or case.startswith("status-"), (path, case)
