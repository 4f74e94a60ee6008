"""What a container sends is unpacked where it was asked for, and nowhere else."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from cli.commands.copy_files import unpack
from cli.failure import Failure


def archive(*members: tuple[str, str, bytes]) -> io.BytesIO:
    """Members as name, target of a link or empty, and content."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as tar:
        for name, link, content in members:
            entry = tarfile.TarInfo(name)
            if link:
                entry.type, entry.linkname = tarfile.SYMTYPE, link
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    held.seek(0)
    return held


@pytest.mark.parametrize(
    "members",
    [
        [("../evil", "", b"x")],
        [("../../../../tmp/evil", "", b"x")],
        [("log/../../evil", "", b"x")],
        [("log", "/etc", b""), ("log/evil", "", b"x")],
        [("log", "..", b""), ("log/evil", "", b"x")],
    ],
)
def test_nothing_is_written_outside(tmp_path: Path, members: list[tuple[str, str, bytes]]) -> None:
    target = tmp_path / "inside" / "target"
    target.mkdir(parents=True)
    with pytest.raises(Failure):
        unpack(archive(*members), "log", target)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["inside", "target"]


def test_the_root_is_called_as_was_asked(tmp_path: Path) -> None:
    unpack(archive(("log/a", "", b"1"), ("log/b/c", "", b"2")), "log", tmp_path / "mine")
    assert (tmp_path / "mine" / "b" / "c").read_bytes() == b"2"
    unpack(archive(("file", "", b"3")), "file", tmp_path)
    assert (tmp_path / "file").read_bytes() == b"3"


def test_garbage_is_said_to_be_garbage(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="cannot be unpacked"):
        unpack(io.BytesIO(b"x" * 600), "log", tmp_path)
