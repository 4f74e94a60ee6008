"""`locci NAME …` is `locci-NAME …` when there is no such command, as git does it."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

_NAME = re.compile(r"[a-z][a-z0-9-]{0,40}")


def find(name: str) -> Path | None:
    """The program `locci-NAME`: beside this Python first, then on the PATH."""
    if not _NAME.fullmatch(name):
        return None
    beside = Path(sys.executable).parent / f"locci-{name}"
    if os.access(beside, os.X_OK) and beside.is_file():
        return beside
    found = shutil.which(f"locci-{name}")
    return Path(found) if found else None


def names() -> list[str]:
    """The names of the programs that can be found."""
    folders = [str(Path(sys.executable).parent), *os.environ.get("PATH", "").split(os.pathsep)]
    return sorted({path.name.removeprefix("locci-") for folder in folders if folder for path in _in(Path(folder))})


def _in(folder: Path) -> Iterable[Path]:
    try:
        return [path for path in folder.glob("locci-*") if os.access(path, os.X_OK) and path.is_file()]
    except OSError:
        return []


def replace_process(program: Path, arguments: list[str]) -> None:
    """Becomes `program`; never returns."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(program, [str(program), *arguments])  # noqa: S606
