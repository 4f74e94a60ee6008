"""What silence means: ready, suspect, lost. Routing reacts to suspicion, placement to loss.

Silence is counted on the control plane's own monotonic clock, and only from the time on at which it could have heard:
after its own restart, or when it was stopped itself, nobody is judged until the grace is over.
"""

from __future__ import annotations

from dataclasses import dataclass

from control_plane.core.model import Condition


@dataclass(frozen=True, slots=True)
class Silence:
    """When a node was heard last (None: never by this process), and from when on it is judged; seconds."""

    heard_at: float | None
    judged_from: float

    def at(self, now: float) -> float:
        """Seconds of silence that count; 0 while the grace lasts."""
        if now < self.judged_from:
            return 0.0
        last = self.judged_from if self.heard_at is None else max(self.heard_at, self.judged_from)
        return max(0.0, now - last)


@dataclass(frozen=True, slots=True)
class Judgement:
    """A node's condition, and why in a sentence."""

    condition: Condition
    reason: str


def judge(
    current: Condition, silence: Silence, now: float, *, suspect_after_s: float, lost_after_s: float, program: str
) -> Judgement | None:
    """The node's new condition, or None when it stays what it is."""
    silent_s = silence.at(now)
    match current:
        case Condition.REVOKED | Condition.DRAINING:
            return None
        case Condition.JOINING if silence.heard_at is None:
            return None
        case _:
            after = _by_silence(silence, silent_s, suspect_after_s, lost_after_s)
    if after is None or after is current:
        return None
    if after is Condition.READY:
        return Judgement(after, f"its {program} is connected and its heartbeats are on time")
    limit_s = lost_after_s if after is Condition.LOST else suspect_after_s
    return Judgement(after, f"nothing was heard of its {program} for more than {limit_s:g} s")


def _by_silence(silence: Silence, silent_s: float, suspect_after_s: float, lost_after_s: float) -> Condition | None:
    if silent_s >= lost_after_s:
        return Condition.LOST
    if silent_s >= suspect_after_s:
        return Condition.SUSPECT
    return None if silence.heard_at is None else Condition.READY
