"""Which images this agent pulled and when each was wanted last: `images.json` in the state directory.

Without the file nothing is known to be this agent's, and nothing is removed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from fleet.files import write_atomic

IMAGES_MAX: Final = 2_000


class ImageLog:
    """The times are seconds since 1970."""

    def __init__(self, path: Path):
        self._path = path
        try:
            found = json.loads(path.read_text())
            self.last_wanted_s: dict[str, float] = {str(image): float(at) for image, at in found.items()}
        except (FileNotFoundError, ValueError, AttributeError, TypeError):
            self.last_wanted_s = {}

    def pulled(self, image: str, wall_s: float) -> None:
        """The image is here because this agent brought it."""
        self.last_wanted_s[image] = wall_s
        while len(self.last_wanted_s) > IMAGES_MAX:
            del self.last_wanted_s[min(self.last_wanted_s, key=lambda i: self.last_wanted_s[i])]

    def wanted(self, images: Iterable[str], wall_s: float) -> None:
        """These are wanted now, whatever registry or mirror they came from."""
        digests = {image.partition("@")[2] for image in images}
        for image in self.last_wanted_s:
            if image.partition("@")[2] in digests:
                self.last_wanted_s[image] = wall_s

    def removed(self, image: str) -> None:
        """The image is gone."""
        self.last_wanted_s.pop(image, None)

    def save(self) -> None:
        """Writes it down. Raises OSError."""
        write_atomic(self._path, json.dumps(self.last_wanted_s, sort_keys=True).encode())
