"""What one session is sent: the difference between what its node holds and what it is to hold, one delta at a time.

The next delta is computed when the one before is answered, so that changes in between become one. A refused snapshot
is not sent again until it changes or `RETRY_AFTER_S` have passed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

RETRY_AFTER_S: Final = 30.0

Versions = Mapping[str, str]
"""By name of the resource. Sessions that are to hold the same share it: nobody changes it."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A delta that is not yet answered, and what the node holds once it accepts it."""

    nonce: int
    revision: int
    holds: Versions


@dataclass(frozen=True, slots=True)
class DeltaPlan:
    """What to send: names to take from the wanted snapshot, names to drop; `complete` means everything."""

    nonce: int
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    complete: bool


@dataclass(frozen=True, slots=True)
class Delivery:
    """The state of one session. `held` is None when it is not known what the node holds."""

    held: Versions | None
    in_flight: Sent | None = None
    nonce: int = 0
    sent_revision: int = 0
    accepted_revision: int = 0
    refused: Versions | None = None
    refused_at: float = 0.0
    refused_reason: str = ""
    wanted: Versions = field(default_factory=dict)


def plan(delivery: Delivery, wanted: Versions, revision: int, now: float) -> tuple[Delivery, DeltaPlan | None]:
    """The next delta, when one is due: nothing is in flight, and the node does not hold what is wanted."""
    delivery = replace(delivery, wanted=wanted)
    if delivery.in_flight is not None:
        return delivery, None
    if delivery.held is not None and delivery.held == wanted:
        return replace(delivery, refused=None, refused_reason=""), None
    if delivery.refused is not None and delivery.refused == wanted and now - delivery.refused_at < RETRY_AFTER_S:
        return delivery, None
    nonce = delivery.nonce + 1
    held = delivery.held or {}
    changed = tuple(sorted(name for name, version in wanted.items() if held.get(name) != version))
    removed = tuple(sorted(name for name in held if name not in wanted))
    sent = Sent(nonce, revision, wanted)
    after = replace(delivery, nonce=nonce, in_flight=sent, sent_revision=revision)
    return after, DeltaPlan(nonce, changed, removed, complete=delivery.held is None)


def accepted(delivery: Delivery, nonce: int) -> Delivery:
    """The node holds what was sent. An answer to another nonce than the one in flight changes nothing."""
    sent = delivery.in_flight
    if sent is None or sent.nonce != nonce:
        return delivery
    return replace(
        delivery, held=sent.holds, in_flight=None, accepted_revision=sent.revision, refused=None, refused_reason=""
    )


def refused(delivery: Delivery, nonce: int, reason: str, resync: bool, now: float) -> Delivery:
    """The node holds what it held before; with `resync` it is sent everything, at once."""
    sent = delivery.in_flight
    if sent is None or sent.nonce != nonce:
        return delivery
    after = replace(delivery, in_flight=None, refused_reason=reason)
    if resync and delivery.held is not None:
        return replace(after, held=None)
    return replace(after, refused=sent.holds, refused_at=now)
