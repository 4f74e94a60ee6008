"""What is let in: how much at once, and how often one client may try. Pure; time in seconds is an argument."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

CLIENTS_MAX: Final = 10_000
"""So many clients are remembered; beyond that the one that was seen longest ago is forgotten."""


@dataclass(slots=True)
class Slots:
    """A bound on what is in progress at once."""

    most: int
    used: int = 0

    def take(self) -> bool:
        """Takes a slot; False when there is none."""
        if self.used >= self.most:
            return False
        self.used += 1
        return True

    def give_back(self) -> None:
        """Gives a slot back that was taken."""
        assert self.used > 0
        self.used -= 1


class Attempts:
    """A token bucket for each client: `burst` attempts at once, and one more each `every_s` seconds."""

    def __init__(self, burst: int, every_s: float):
        self._burst = burst
        self._every_s = every_s
        self._clients: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, address: str, now: float) -> float:
        """Counts an attempt; 0 when it may go on, else the seconds after which the next one may."""
        client = client_key(address)
        tokens, at = self._clients.pop(client, (float(self._burst), now))
        tokens = min(float(self._burst), tokens + (now - at) / self._every_s)
        allowed = tokens >= 1
        self._clients[client] = (tokens - 1 if allowed else tokens, now)
        if len(self._clients) > CLIENTS_MAX:
            self._clients.popitem(last=False)
        return 0.0 if allowed else (1 - tokens) * self._every_s


def client_key(address: str) -> str:
    """One client: an IPv4 address, or the /64 that an IPv6 address is in."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 6:
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
