"""The version of the agent that is wanted on this host: a file between those who want and the supervisor."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fleet.files import write_atomic

VERSION: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+~-]{0,63}")
NAME: Final = "wanted-version"
TOLD_NAME: Final = "wanted-version-told"


@dataclass(frozen=True, slots=True)
class WantedVersion:
    """`wanted-version` in the agent's state directory, and beside it what the control plane wanted last."""

    folder: Path

    def read(self) -> tuple[str, str] | None:
        """The version, and a key that is another for each request; None when nobody wants any."""
        path = self.folder / NAME
        try:
            version, changed_ns = _text(path), path.stat().st_mtime_ns
        except FileNotFoundError:
            return None
        return (version, f"{version}@{changed_ns}") if VERSION.fullmatch(version) else None

    def ask(self, version: str) -> None:
        """A new request, also for a version that was taken back. Raises OSError."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(self.folder / NAME, version.encode())

    def follow(self, version: str, request: str = "") -> None:
        """What the control plane wants, "" for no opinion: a new request when the version or the upgrade is another.

        The same again is none: what was taken back stays so, and what a person on the host asked for since stands.
        The same without an upgrade's name is none either: its upgrade has ended. Raises OSError.
        """
        told_version, told_request = self.told()
        if not version:
            (self.folder / TOLD_NAME).unlink(missing_ok=True)
        elif version != told_version or request not in ("", told_request):
            self.ask(version)
            write_atomic(self.folder / TOLD_NAME, f"{version} {request}".strip().encode())

    def told(self) -> tuple[str, str]:
        """What the control plane wanted last, and by which upgrade; both may be empty."""
        try:
            version, _, request = _text(self.folder / TOLD_NAME).partition(" ")
        except FileNotFoundError:
            return "", ""
        return version, request


def _text(path: Path) -> str:
    """What a file says; with bytes that are no text, as a failing disk leaves them, that is no version."""
    return path.read_text(errors="replace").strip()
