"""Which stored responses may be used no more.

A stored response carries the sequence that its edge knew when its fetch began; an order with a higher sequence that is
about it holds, whatever the clocks say, wherever the response has lain meanwhile. A tag costs one number, however many
responses carry it.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from agent.edge.core import cache_key
from agent.edge.core.cache_rules import CacheRules
from agent.edge.core.headers import Fields


class Effect(enum.Enum):
    """What becomes of a stored response."""

    NONE = 0
    STALE = 1
    GONE = 2


@dataclass(frozen=True, slots=True)
class Mark:
    """One order; of `url`, `prefix` and `tag` at most one is set, and none means everything of the app."""

    sequence: int
    url: bytes = b""
    """Host and target."""
    prefix: bytes = b""
    tag: bytes = b""
    soft: bool = False


_Pair = tuple[int, int]
"""The highest sequences of a hard and of a soft order."""
_NONE: Final = (0, 0)


@dataclass(frozen=True, slots=True)
class Purges:
    """The orders about one app, ready to be looked up."""

    sequence: int = 0
    floor: int = 0
    everything: _Pair = _NONE
    urls: Mapping[bytes, _Pair] = field(default_factory=dict)
    prefixes: Mapping[bytes, _Pair] = field(default_factory=dict)
    tags: Mapping[bytes, _Pair] = field(default_factory=dict)

    def effect(self, key: bytes, fields: Fields, sequence: int) -> Effect:
        """What becomes of the response that is stored under a primary key since a sequence."""
        if sequence >= self.sequence:
            return Effect.NONE
        if sequence < self.floor:
            return Effect.GONE
        place = key.partition(b"://")[2]
        found = [self.everything, self.urls.get(place, _NONE)]
        found += [pair for prefix, pair in self.prefixes.items() if place.startswith(prefix)]
        if self.tags:
            found += [self.tags[tag] for tag in tags_of(fields) if tag in self.tags]
        if any(hard > sequence for hard, _ in found):
            return Effect.GONE
        return Effect.STALE if any(soft > sequence for _, soft in found) else Effect.NONE


NO_PURGES: Final = Purges()


def tags_of(fields: Fields) -> set[bytes]:
    """The tags of a response: `Cache-Tag` with commas, `Surrogate-Key` with spaces between them."""
    tags = {tag.strip(b" \t") for tag in fields.get(b"cache-tag", b"").split(b",")}
    # A field that came twice was joined with a comma.
    tags.update(fields.get(b"surrogate-key", b"").replace(b",", b" ").split())
    return tags - {b""}


def compiled(floor: int, marks: Iterable[Mark], rules: CacheRules) -> Purges:
    """The orders of an app, of whose URLs only counts what the app's rules let count."""
    everything, newest = _NONE, floor
    urls: dict[bytes, _Pair] = {}
    prefixes: dict[bytes, _Pair] = {}
    tags: dict[bytes, _Pair] = {}
    for mark in marks:
        newest = max(newest, mark.sequence)
        if mark.url:
            host, slash, target = mark.url.partition(b"/")
            place = cache_key.primary(b"", host, slash + target, rules).removeprefix(b"://")
            urls[place] = _later(urls.get(place, _NONE), mark)
        elif mark.prefix:
            prefixes[mark.prefix] = _later(prefixes.get(mark.prefix, _NONE), mark)
        elif mark.tag:
            tags[mark.tag] = _later(tags.get(mark.tag, _NONE), mark)
        else:
            everything = _later(everything, mark)
    return Purges(newest, floor, everything, urls, prefixes, tags)


def _later(before: _Pair, mark: Mark) -> _Pair:
    hard, soft = before
    return (hard, max(soft, mark.sequence)) if mark.soft else (max(hard, mark.sequence), soft)
