"""Where an image is to be had: its own registry, and hosts that hold the same content under the same names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

from agent.core.model import PullFailure
from fleet.backoff import Backoff

MIRRORS_MAX: Final = 8
"""Of one registry."""

_REST: Final = Backoff(base_s=30.0, cap_s=600.0)
_AWAY: Final = (PullFailure.UNREACHABLE, PullFailure.TIMED_OUT, PullFailure.OTHER)
"""Failures of the host itself; a host that lacks one image may well have the next."""


@dataclass(frozen=True, slots=True)
class _Rest:
    failures: int
    until: float


_AWAKE: Final = _Rest(0, -inf)


class Mirrors:
    """Remembers which mirrors were away lately. An image by digest is the same wherever it comes from."""

    def __init__(self) -> None:
        self._rests: dict[str, _Rest] = {}

    def failed(self, host: str, failure: PullFailure, now: float) -> bool:
        """A pull from a host failed; whether it is passed over for a while from now on, and was not so far."""
        if failure not in _AWAY:
            return False
        before = self._rests.get(host, _AWAKE)
        self._rests[host] = _Rest(before.failures + 1, now + _REST.ceiling_s(before.failures))
        return not before.failures

    def answered(self, host: str) -> None:
        """A pull from a host came to its end."""
        self._rests.pop(host, None)

    def sources(self, image: str, mirrors: Sequence[str], now: float) -> list[str]:
        """The names to pull an image by, in order: from mirrors, from its registry, from mirrors that rest."""
        resting = [name for name in mirrors if self._rests.get(host_of(name), _AWAKE).until > now]
        return [*(name for name in mirrors if name not in resting), image, *resting]


def host_of(image: str) -> str:
    """The registry or mirror that a name is at."""
    return image.partition("/")[0]


def combined(
    image: str,
    own: Mapping[str, Sequence[str]],
    told: Mapping[str, Sequence[str]],
    allowed: Callable[[str], bool],
) -> list[str]:
    """What an image is called at mirrors: those that the host itself knows before those that the control plane names,
    which the host's policy must allow. `host/repository@digest` with another host."""
    host, _, rest = image.partition("/")
    named = [name for mirror in told.get(host, ()) if allowed(name := f"{mirror}/{rest}")]
    found = dict.fromkeys([*(f"{mirror}/{rest}" for mirror in own.get(host, ())), *named])
    return [name for name in found if name != image][:MIRRORS_MAX]
