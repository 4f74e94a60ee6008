"""Which stream is sent first (RFC 9218): how urgent a response is, and whether its parts are of use by themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from agent.edge.core import targeted

URGENCY_DEFAULT: Final = 3
REMEMBERED_MAX: Final = 100
"""Priorities of streams that are not open so far; older ones are forgotten."""


class Priority(NamedTuple):
    """Section 4."""

    urgency: int = URGENCY_DEFAULT
    """0 to 7, the most urgent first."""
    in_turns: bool = True
    """Whether it shares the connection with others as urgent; otherwise they go one after the other."""


UNSAID: Final = Priority()
"""Of a client that says nothing of it: all in turns, which makes none wait for another."""


def read(value: bytes) -> Priority:
    """The Priority field of a request or of a PRIORITY_UPDATE (section 5); what is invalid counts as the default."""
    found = targeted.parse(value)
    urgency, in_turns = found.get("u"), "i" in found and found["i"] is None
    if urgency is None or not urgency.isdigit() or int(urgency) > 7:
        return Priority(URGENCY_DEFAULT, in_turns)
    return Priority(int(urgency), in_turns)


def merged(said: Priority, value: bytes) -> Priority:
    """What the app wants of a response whose client has said this: each parameter of its Priority field that is there
    counts instead of the client's (section 8)."""
    found = targeted.parse(value)
    urgency = found.get("u")
    if urgency is not None and urgency.isdigit() and int(urgency) <= 7:
        said = said._replace(urgency=int(urgency))
    return said._replace(in_turns=True) if "i" in found and found["i"] is None else said


def send_round(waiting: Iterable[tuple[int, Priority]], send: Callable[[int], bool]) -> bool:
    """Sends a frame of each stream whose turn it is; False when none could send (section 10).

    `waiting` has streams by number, `send` sends one frame of a stream or says that its windows do not allow it. As
    long as something more urgent can be sent nothing else is. Of what is equally urgent the first one that goes by
    itself sends, and all that go in turns.
    """
    level, moved, alone = -1, False, False
    for number, priority in sorted(waiting, key=lambda each: (each[1].urgency, each[0])):
        if priority.urgency != level:
            if moved:
                return True
            level, alone = priority.urgency, False
        if not priority.in_turns and alone:
            continue
        if send(number):
            moved = True
            alone = alone or not priority.in_turns
    return moved
