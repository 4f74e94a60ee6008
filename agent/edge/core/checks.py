"""Which endpoints are to be looked at without a request.

Those that could not be reached, so that no request has to try them; and other edges that nobody has asked for some
time, so that a dead one is known before it is needed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from agent.edge.core.balance import Endpoint

AGAIN_S: Final = 1.0
IDLE_S: Final = 5.0


def due(
    endpoints: Mapping[str, Endpoint], peers: Collection[str], looked_at: Mapping[str, float], now: float
) -> list[str]:
    """Addresses: all that cannot be reached, and of the others one, so that large fleets cost no more than small ones.

    `looked_at` says when each was looked at last. Times are monotonic seconds.
    """
    lost, idle = [], []
    for address, endpoint in endpoints.items():
        last = looked_at.get(address, 0.0)
        if endpoint.unreachable:
            if now - last >= AGAIN_S:
                lost.append(address)
        elif endpoint.outstanding == 0 and endpoint.ejections == 0 and address in peers:
            last = max(last, endpoint.measured)
            if now - last >= IDLE_S:
                idle.append((last, address))
    return [*lost, *(address for _, address in sorted(idle)[:1])]
