"""The ballast takes what it is allowed to, and gives it back."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.adapters import ballast
from agent.adapters.ballast import NAME, Ballast
from fleet.errors import LocciError


def test_it_takes_a_bounded_share_and_gives_it_back(tmp_path: Path) -> None:
    part = Ballast(tmp_path)
    part.begin(100_000)
    part.begin(200_000)
    assert (tmp_path / NAME).stat().st_size == 200_000
    part.end()
    part.end()
    assert not list(tmp_path.iterdir())


def test_it_takes_nothing_where_only_the_reserve_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ballast, "RESERVE_BYTES", 2**62)
    with pytest.raises(LocciError, match="free"):
        Ballast(tmp_path).begin(0)
    assert not list(tmp_path.iterdir())
