"""What a manifest says of how DNS chooses among regions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from fleet.errors import invalid

Steering = Literal["nearest", "failover", "all", "weighted", "geo", "latency"]
_FILTERS: Final[tuple[Steering, ...]] = ("geo", "latency", "nearest", "weighted")


@dataclass(frozen=True, slots=True)
class Routing:
    """How DNS chooses among regions."""

    policy: Steering = "nearest"
    ttl_s: float = 0.0
    order: tuple[str, ...] = ()
    fail_closed: bool = False
    jurisdictions: tuple[str, ...] = ()
    weights: tuple[tuple[str, int], ...] = ()
    geo: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = ()
    """Places and the regions that serve them, rule by rule."""
    filters: tuple[Steering, ...] = ()
    latency_within_s: float = 0.0
    nearest_within_km: int = 0

    def uses(self, policy: Steering) -> bool:
        """Whether it chooses, or narrows what is chosen from."""
        return self.policy == policy or policy in self.filters


def check_filters(routing: Routing) -> None:
    """Raises INVALID_ARGUMENT for filters that narrow nothing, and for settings that no policy looks at."""
    path = "manifest.routing.filters"
    for index, policy in enumerate(routing.filters):
        if policy not in _FILTERS:
            message = f"{path}[{index}]: {policy} narrows nothing; filters are {', '.join(_FILTERS)}"
            raise invalid(f"{path}[{index}]", message)
        if policy == routing.policy or policy in routing.filters[:index]:
            raise invalid(f"{path}[{index}]", f"{path}[{index}]: {policy} is there already")
    if routing.latency_within_s and not routing.uses("latency"):
        at = "manifest.routing.latency_within"
        raise invalid(at, f"{at}: only policy and filter latency compare times")
    if routing.latency_within_s and not 0.001 <= routing.latency_within_s <= 10.0:
        at = "manifest.routing.latency_within"
        raise invalid(at, f"{at}: {routing.latency_within_s:g}s is out of range: use 0.001s to 10s, or leave it out")
    if routing.nearest_within_km and "nearest" not in routing.filters:
        at = "manifest.routing.nearest_within_km"
        raise invalid(at, f"{at}: only filter nearest compares distances")
