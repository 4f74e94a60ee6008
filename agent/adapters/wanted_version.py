"""The version of the agent that is wanted on this host: a file between those who want and the supervisor."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fleet.files import write_atomic

VERSION: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+~-]{0,63}")
NAME: Final = "wanted-version"


@dataclass(frozen=True, slots=True)
class WantedVersion:
    """`wanted-version` in the agent's state directory."""

    folder: Path

    def read(self) -> tuple[str, str] | None:
        """The version, and a key that is another for each request; None when nobody wants any."""
        path = self.folder / NAME
        try:
            version, changed_ns = path.read_text().strip(), path.stat().st_mtime_ns
        except FileNotFoundError:
            return None
        return (version, f"{version}@{changed_ns}") if VERSION.fullmatch(version) else None

    def ask(self, version: str) -> None:
        """A new request, also for a version that was taken back. Raises OSError."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(self.folder / NAME, version.encode())

    def keep(self, version: str) -> None:
        """The same, unless that is what is wanted already: what was taken back stays so. Raises OSError."""
        known = self.read()
        if known is None or known[0] != version:
            self.ask(version)
