"""What an edge sees in passing: how far its clients are, and whether other nodes answer what is passed to them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

NETWORKS_MAX: Final = 4096
"""Between two reports; further networks wait for the next."""
_SHARE: Final = 1 / 4
_RTT_AT: Final = 68
"""`tcpi_rtt` in `struct tcp_info` of Linux: a smoothed round trip in microseconds, 0 when none was measured."""
TCP_INFO_BYTES: Final = _RTT_AT + 4
_REST_BITS: Final = 128 - 56


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """The average for a client network in microseconds, and the connections that it stands for."""

    network: str
    microseconds: int
    samples: int


def round_trip_us(tcp_info: bytes) -> int:
    """What the kernel knows of a connection's round trip; 0 when nothing."""
    return int.from_bytes(tcp_info[_RTT_AT:TCP_INFO_BYTES], "little") if len(tcp_info) >= TCP_INFO_BYTES else 0


class RoundTrips:
    """Averages by network since they were last taken."""

    def __init__(self) -> None:
        self._networks: dict[bytes | int, tuple[float, int]] = {}

    def add(self, address: bytes, microseconds: int) -> None:
        """A client at `address` connected."""
        network = _key(address)
        before = self._networks.get(network)
        if before is not None:
            average, samples = before
            self._networks[network] = average + (microseconds - average) * max(_SHARE, 1 / (samples + 1)), samples + 1
        elif len(self._networks) < NETWORKS_MAX:
            self._networks[network] = float(microseconds), 1

    def take(self, most: int) -> list[RoundTrip]:
        """The networks with most connections; what is left out is gone."""
        found, self._networks = self._networks, {}
        busiest = sorted(found.items(), key=lambda item: -item[1][1])[:most]
        return [RoundTrip(_named(key), max(1, round(average)), samples) for key, (average, samples) in busiest]


def _key(address: bytes) -> bytes | int:
    """The first three numbers of an IPv4 address as they are written, the first 56 bits of an IPv6 address."""
    if b":" not in address:
        return address.rpartition(b".")[0]
    six = ipaddress.IPv6Address(address.partition(b"%")[0].decode("ascii"))
    if six.ipv4_mapped is not None:
        return str(six.ipv4_mapped).rpartition(".")[0].encode()
    return int(six) >> _REST_BITS


def _named(key: bytes | int) -> str:
    if isinstance(key, bytes):
        return f"{key.decode('ascii')}.0/24"
    return f"{ipaddress.IPv6Address(key << _REST_BITS)}/56"


@dataclass(frozen=True, slots=True)
class Pass:
    """What came of requests that were passed to a node."""

    node: str
    answered: int
    failed: int
    reason: str = ""


def passes(counted: Iterable[tuple[str, int, int, str]], told: dict[str, tuple[int, int]]) -> list[Pass]:
    """What is new since the last call. `counted` are node, answers, failures and the last reason; `told` is kept."""
    result = []
    now: dict[str, tuple[int, int]] = {}
    for node, answered, failed, reason in counted:
        before = told.get(node, (0, 0))
        # Counts that fell began anew.
        before = before if before[0] <= answered and before[1] <= failed else (0, 0)
        now[node] = answered, failed
        if (answered, failed) != before:
            result.append(Pass(node, answered - before[0], failed - before[1], reason))
    told.clear()
    told.update(now)
    return result
