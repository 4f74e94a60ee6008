"""Verdicts survive a restart; a damaged file costs only the memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from routing.adapters.verdict_file import VerdictFile
from routing.core.model import Family


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    file = VerdictFile(tmp_path / "verdicts.json")
    assert file.load() == {}
    verdicts = {("eu-1", Family.IPV4): True, ("eu-1", Family.IPV6): False}
    file.save(verdicts)
    assert file.load() == verdicts


@pytest.mark.parametrize("content", ["", "[]", '{"a/5": true}', "{", '{"a": 1}'])
def test_damage(tmp_path: Path, content: str) -> None:
    path = tmp_path / "verdicts.json"
    path.write_text(content)
    assert VerdictFile(path).load() == {}


def test_a_disk_that_cannot_be_written(tmp_path: Path) -> None:
    VerdictFile(tmp_path / "missing" / "verdicts.json").save({})
