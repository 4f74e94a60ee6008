"""Response-rate limiting: so many like answers a second to one network, so that this server is no use as an amplifier.

A limited answer is dropped, or, every `slip`-th time, cut short with TC: a real client comes back over TCP, whose
address cannot be forged. Clients with a valid cookie and clients over TCP are never limited.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from ipaddress import IPv4Network, IPv6Network
from typing import Final

_ENTRIES_MAX: Final = 100_000
_V4_BYTES: Final = 3
_V6_BYTES: Final = 7
"""Networks are /24 and /56: what one subscriber may have."""


class Admission(Enum):
    """What becomes of an answer."""

    SEND = "send"
    SLIP = "slip"
    DROP = "drop"


class RateLimiter:
    """Counts answers by network and kind within the second `now_s`, which the shell moves. Memory is bounded: when too
    many networks ask within one second, all counts begin again."""

    def __init__(self, per_second: int, slip: int = 2, exempt: Sequence[IPv4Network | IPv6Network] = ()):
        self.per_second = per_second
        self._slip = slip
        self._exempt = tuple(exempt)
        self._counts: dict[bytes, int] = {}
        self._now_s = 0
        self.slipped = 0
        self.dropped = 0

    @property
    def now_s(self) -> int:
        """The second within which answers are counted."""
        return self._now_s

    @now_s.setter
    def now_s(self, now_s: int) -> None:
        if now_s != self._now_s:
            self._counts.clear()
            self._now_s = now_s

    def admit(self, source: bytes, kind: bytes) -> Admission:
        """Counts one answer of a kind (its name, or what was wrong) to the packed address `source`."""
        if not self.per_second:
            return Admission.SEND
        counts = self.room()
        key = (source[:_V4_BYTES] if len(source) == 4 else source[:_V6_BYTES]) + kind
        count = counts[key] = counts.get(key, 0) + 1
        return Admission.SEND if count <= self.per_second else self.exceed(source)

    def is_spent(self, source: bytes, kind: bytes) -> bool:
        """Whether the next answer of the kind would be one too many."""
        if not self.per_second:
            return False
        key = (source[:_V4_BYTES] if len(source) == 4 else source[:_V6_BYTES]) + kind
        return self._counts.get(key, 0) >= self.per_second

    def room(self) -> dict[bytes, int]:
        """The counts of this second, by network and kind, with room for a batch more."""
        if len(self._counts) >= _ENTRIES_MAX:
            self._counts.clear()
        return self._counts

    def exceed(self, source: bytes) -> Admission:
        """What becomes of an answer that is known to be one too many."""
        if self._is_exempt(source):
            return Admission.SEND
        if self._slip and (self.dropped + self.slipped + 1) % self._slip == 0:
            self.slipped += 1
            return Admission.SLIP
        self.dropped += 1
        return Admission.DROP

    def _is_exempt(self, source: bytes) -> bool:
        number, bits = int.from_bytes(source, "big"), 8 * len(source)
        return any(
            network.max_prefixlen == bits
            and number >> (bits - network.prefixlen) == int(network.network_address) >> (bits - network.prefixlen)
            for network in self._exempt
        )
