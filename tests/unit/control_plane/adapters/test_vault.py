"""Sealing: what opens, what does not, and a new master key."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.adapters.vault import FileVault
from fleet.errors import LocciError


def test_the_key_is_made_once_and_is_the_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    sealed = FileVault(path).seal(b"content", "secrets/a/1")
    assert path.stat().st_mode & 0o777 == 0o600
    assert FileVault(path).open(sealed, "secrets/a/1") == b"content"
    assert b"content" not in sealed


def test_it_opens_in_its_place_only(tmp_path: Path) -> None:
    vault, other = FileVault(tmp_path / "a.key"), FileVault(tmp_path / "b.key")
    sealed = vault.seal(b"content", "secrets/a/1")
    for opens, context in ((vault, "secrets/b/1"), (other, "secrets/a/1")):
        with pytest.raises(LocciError, match="it does not open with") as error:
            opens.open(sealed, context)
        assert error.value.reason == "SEALED_UNREADABLE"


@given(st.integers(0, 300), st.integers(1, 255))
def test_no_byte_can_be_changed(tmp_path_factory: pytest.TempPathFactory, at: int, by: int) -> None:
    vault = FileVault(tmp_path_factory.getbasetemp() / "any.key")
    sealed = bytearray(vault.seal(b"content", "secrets/a/1"))
    sealed[at % len(sealed)] ^= by
    with pytest.raises(LocciError, match="it does not open with"):
        vault.open(bytes(sealed), "secrets/a/1")
    with pytest.raises(LocciError, match="it does not open with"):
        vault.open(bytes(sealed[: at % len(sealed)]), "secrets/a/1")


def test_a_new_master_key_wraps_the_same_content(tmp_path: Path) -> None:
    old, new = FileVault(tmp_path / "old.key"), FileVault(tmp_path / "new.key")
    sealed = old.seal(b"content", "x")
    again = old.rewrap(sealed, "x", new)
    assert new.open(again, "x") == b"content"
    with pytest.raises(LocciError):
        old.open(again, "x")


def test_a_file_that_is_no_key(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    for content in ("", "zz", "00" * 16):
        path.write_text(content)
        with pytest.raises(LocciError, match=r"master\.key: this is no master key"):
            FileVault(path)
