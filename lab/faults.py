"""Which links are cut, and what each host's network must hold to make it so. Pure.

A host can be cut off whole, or be deaf to everyone, or hear nothing of certain others. Cuts are kept as a set, so
that adding one twice changes nothing and taking one away never needs to know in which order they came.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lab.topology import Host, Topology

EVERYONE = "*"


@dataclass(frozen=True, slots=True, order=True)
class Silence:
    """`listener` gets no packet that `speaker` sends; the speaker `*` is everyone."""

    speaker: str
    listener: str


@dataclass(frozen=True, slots=True)
class Faults:
    """Everything that is cut now: links that are down, and packets that are dropped."""

    down: frozenset[str] = field(default_factory=frozenset)
    silences: frozenset[Silence] = field(default_factory=frozenset)

    def __bool__(self) -> bool:
        return bool(self.down or self.silences)

    def cut_off(self, hosts: Iterable[Host]) -> Faults:
        """With the whole link of each host cut."""
        return Faults(self.down | {host.name for host in hosts}, self.silences)

    def deafen(self, hosts: Iterable[Host]) -> Faults:
        """With each host hearing nobody, while everybody hears it."""
        return Faults(self.down, self.silences | {Silence(EVERYONE, host.name) for host in hosts})

    def separate(self, listeners: Iterable[Host], speakers: Iterable[Host], *, one_way: bool) -> Faults:
        """With no packet from any speaker to any listener, nor, unless `one_way`, back."""
        pairs = {(s.name, r.name) for s in speakers for r in listeners if s.name != r.name}
        if not one_way:
            pairs |= {(listener, speaker) for speaker, listener in pairs}
        return Faults(self.down, self.silences | {Silence(*pair) for pair in pairs})

    def heal(self, hosts: Iterable[Host] | None = None) -> Faults:
        """Without the cuts that one of the hosts has a part in; without any when `hosts` is None."""
        if hosts is None:
            return Faults()
        names = {host.name for host in hosts}
        kept = {silence for silence in self.silences if not {silence.speaker, silence.listener} & names}
        return Faults(self.down - names, frozenset(kept))

    def to_json(self) -> dict[str, Any]:
        """A form that JSON can carry."""
        return {"down": sorted(self.down), "silences": [[s.speaker, s.listener] for s in sorted(self.silences)]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Faults:
        """What `to_json` gave."""
        silences = frozenset(Silence(speaker, listener) for speaker, listener in data.get("silences", []))
        return cls(frozenset(data.get("down", [])), silences)

    def describe(self) -> list[str]:
        """One line for each cut, for people."""
        lines = [f"{name} is cut off" for name in sorted(self.down)]
        for silence in sorted(self.silences):
            if silence.speaker == EVERYONE:
                lines.append(f"{silence.listener} hears nobody")
            else:
                lines.append(f"{silence.listener} does not hear {silence.speaker}")
        return lines


def drop_rules(faults: Faults, topology: Topology) -> dict[str, tuple[str, ...]]:
    """For each host that is to drop packets: the source addresses, `*` for all, in a fixed order."""
    rules: dict[str, tuple[str, ...]] = {}
    for silence in sorted(faults.silences):
        sources = (EVERYONE,) if silence.speaker == EVERYONE else topology.host(silence.speaker).addresses
        rules[silence.listener] = rules.get(silence.listener, ()) + sources
    return rules
