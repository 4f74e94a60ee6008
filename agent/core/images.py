"""Which images a host need not keep. Only images that this agent pulled are ever looked at."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

KEPT_PER_REPOSITORY: Final = 3
"""So many images of a repository are kept, the last wanted first: going back needs the old image to be here."""
KEPT_UNDER_PRESSURE: Final = 1
UNUSED_S: Final = 24 * 3600.0
"""An image that was wanted within so long is kept while there is space."""
PRESSURE: Final = 0.85
"""Share of the disk from which on space counts more than the ease of going back."""


def removable(last_wanted_s: Mapping[str, float], *, needed: Collection[str], pressed: bool, now_s: float) -> list[str]:
    """The images that may go, the longest unwanted first.

    `last_wanted_s` has the time at which each was wanted last, by wall clock; what lies in the future, as after a
    jump of the clock, counts as now. `needed` are wanted now, or a container was made of them: they always stay,
    whatever registry or mirror they came from. `pressed`: space counts more than the ease of going back.
    """
    kept = KEPT_UNDER_PRESSURE if pressed else KEPT_PER_REPOSITORY
    spare: dict[str, int] = {}
    found: list[str] = []
    digests = {image.partition("@")[2] for image in needed}
    for image in sorted(last_wanted_s, key=lambda i: (-last_wanted_s[i], i)):
        if image.partition("@")[2] in digests:
            continue
        repository = image.partition("@")[0]
        spare[repository] = spare.get(repository, 0) + 1
        if spare[repository] > kept and (pressed or now_s - last_wanted_s[image] >= UNUSED_S):
            found.append(image)
    return found[::-1]
