"""What an edge counts: plain integers on the way of a request, exported when someone asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

HELP: Final = {
    "requests_total": "Requests answered.",
    "hits_total": "Requests answered from the cache in RAM.",
    "second_tier_hits_total": "Requests answered from the second tier.",
    "misses_total": "Requests that went to a replica or another edge.",
    "fills_total": "Fetches that filled the cache.",
    "fills_joined_total": "Requests that shared the fetch of another.",
    "revalidations_total": "Stored responses that a 304 made fresh again.",
    "stale_served_total": "Stale responses served while revalidating or because of an error.",
    "refused_total": "Requests refused as malformed, too large or too slow.",
    "limited_total": "Requests refused because their client or their app had too many.",
    "retries_total": "Tries of a further endpoint.",
    "checks_total": "Looks at endpoints that nobody asks, or that cannot be reached.",
    "checks_failed_total": "Those of them that found no way.",
    "hedges_total": "Requests for which a second endpoint was asked before the first had answered.",
    "hedges_won_total": "Those of them that the second answered first.",
    "peer_requests_total": "Requests sent to other edges.",
    "shield_requests_total": "Those of them that asked the region that shields the app.",
    "unavailable_total": "Requests for which no endpoint could answer.",
    "truncated_total": "Responses that an endpoint broke off.",
    "connections_total": "Connections accepted.",
    "connections_rejected_total": "Connections refused for their number.",
    "status_2xx_total": "Responses with a status from 200 to 299.",
    "status_3xx_total": "Responses with a status from 300 to 399.",
    "status_4xx_total": "Responses with a status from 400 to 499.",
    "status_5xx_total": "Responses with a status from 500 to 599.",
    "body_bytes_sent_total": "Bytes of bodies sent to clients.",
    "tier_errors_total": "Operations of the second tier that failed or came too late.",
    "tier_skipped_total": "Operations of the second tier that were left out: the breaker is open or the queue full.",
    "tier_garbage_total": "Entries of the second tier that were not whole or not ours.",
    "purged_total": "Stored responses that were found to be purged.",
    "config_applied_total": "Configurations applied.",
    "config_refused_total": "Configurations refused.",
}


class Counters:
    """One attribute for each name in HELP."""

    __slots__ = (*HELP, "plain_hits", "plain_passes")

    requests_total: int
    hits_total: int
    second_tier_hits_total: int
    misses_total: int
    fills_total: int
    fills_joined_total: int
    revalidations_total: int
    stale_served_total: int
    refused_total: int
    limited_total: int
    retries_total: int
    checks_total: int
    checks_failed_total: int
    hedges_total: int
    hedges_won_total: int
    peer_requests_total: int
    shield_requests_total: int
    unavailable_total: int
    truncated_total: int
    connections_total: int
    connections_rejected_total: int
    status_2xx_total: int
    status_3xx_total: int
    status_4xx_total: int
    status_5xx_total: int
    body_bytes_sent_total: int
    tier_errors_total: int
    tier_skipped_total: int
    tier_garbage_total: int
    purged_total: int
    config_applied_total: int
    config_refused_total: int

    def __init__(self) -> None:
        self.plain_hits = 0
        """Hits answered with 200 without a closer look: requests, hits and 200s, counted once on their way."""
        self.plain_passes = 0
        """Responses with 200 that went the shortest way: requests, misses and 200s, counted once on their way."""
        for name in HELP:
            setattr(self, name, 0)

    def status(self, status: int) -> None:
        """Counts one response that is not a plain hit."""
        self.requests_total += 1
        if status < 300:
            self.status_2xx_total += 1
        elif status < 400:
            self.status_3xx_total += 1
        elif status < 500:
            self.status_4xx_total += 1
        else:
            self.status_5xx_total += 1

    def items(self) -> Iterator[tuple[str, int]]:
        """Name and value of each."""
        for name in HELP:
            value: int = getattr(self, name)
            if name in ("requests_total", "hits_total", "status_2xx_total"):
                value += self.plain_hits
            if name in ("requests_total", "misses_total", "status_2xx_total"):
                value += self.plain_passes
            yield name, value
