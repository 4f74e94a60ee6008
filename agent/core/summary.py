"""One sentence about what a reconcile began, for the log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from agent.core.messages import (
    CancelPull,
    Command,
    CreateAndStart,
    PublishEdge,
    PullImage,
    RemoveContainer,
    StartContainer,
    StopContainer,
)
from agent.core.model import ReplicaStatus


def sentence(commands: Iterable[Command], statuses: Iterable[ReplicaStatus], revision: int) -> str:
    """What the commands begin, and how many replicas are ready; empty when they change nothing."""
    begun: Counter[str] = Counter()
    for command in commands:
        match command:
            case PullImage():
                begun["pull {} image(s)"] += 1
            case CancelPull():
                begun["give up {} pull(s)"] += 1
            case CreateAndStart():
                begun["create {} container(s)"] += 1
            case StartContainer():
                begun["start {} container(s) again"] += 1
            case StopContainer():
                begun["stop {} container(s)"] += 1
            case RemoveContainer():
                begun["remove {} container(s)"] += 1
            case PublishEdge(generation):
                begun[f"tell the edge (generation {generation})"] += 1
            case _:
                continue
    if not begun:
        return ""
    steps = ", ".join(template.format(count) for template, count in begun.items())
    known = list(statuses)
    ready = sum(status.ready for status in known)
    return f"revision {revision}: {steps}; {ready} of {len(known)} replicas ready"
