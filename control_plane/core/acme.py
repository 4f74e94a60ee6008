"""Which certificates to order, and when: every host name of an app has one that is good (RFC 8555, RFC 9773)."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

_RENEW_AT_SHARE: Final = 2 / 3
"""Of a certificate's life, where the authority suggests no time."""
_EXPIRING_SHARE: Final = 1 / 6
"""When so much of a certificate's life is left, whoever looks after it is told."""
_RETRY_S: Final = 60.0
_RETRY_MAX_S: Final = 6 * 3600.0
_ID_LENGTH_MAX: Final = 63


@dataclass(frozen=True, slots=True)
class Kept:
    """A certificate of the store; times in seconds since 1970, 0 for none.

    `automatic` ones are ordered and renewed by the fleet, `wanted` ones were asked for by an operator.
    """

    name: str
    hostnames: tuple[str, ...]
    automatic: bool
    wanted: bool
    expire_at: float
    order_at: float
    failures: int = 0
    """Orders in a row that failed."""


def covers(pattern: str, hostname: str) -> bool:
    """Whether a name of a certificate is one for a host; `*` stands for one whole label (RFC 9525, section 6.3)."""
    if pattern.startswith("*."):
        return hostname.partition(".")[2] == pattern[2:]
    return pattern == hostname


def stands_for(kept: Kept, hostname: str, now: float) -> bool:
    """Whether a host name needs no other certificate: it is good, or on order.

    One that an operator asked for and that cannot be had, as a wildcard without a zone, keeps no host name waiting.
    """
    on_order = kept.automatic and not (kept.wanted and kept.failures)
    return (on_order or kept.expire_at > now) and any(covers(name, hostname) for name in kept.hostnames)


def missing(served: Iterable[str], kept: Sequence[Kept], now: float) -> list[str]:
    """Host names that no certificate stands for, in order."""
    return [host for host in sorted(served) if not any(stands_for(one, host, now) for one in kept)]


def unused(served: Collection[str], kept: Sequence[Kept], now: float) -> list[str]:
    """Names of automatic certificates that nobody asked for and that no app needs: none serves their host names any
    more and they have ended or were never issued; or an uploaded one has taken their place."""
    result = []
    for one in kept:
        if not one.automatic or one.wanted:
            continue
        hosts = [host for host in served if any(covers(name, host) for name in one.hostnames)]
        others = [other for other in kept if other is not one and (other.wanted or not other.automatic)]
        replaced = bool(hosts) and all(any(o.expire_at > now and stands_for(o, h, now) for o in others) for h in hosts)
        if replaced or (not hosts and one.expire_at <= now):
            result.append(one.name)
    return result


def due(served: Collection[str], kept: Sequence[Kept], now: float) -> Kept | None:
    """The certificate to order next: of those whose time has come and that are needed, the one that ends first."""
    ready = [
        one
        for one in kept
        if one.automatic
        and one.order_at <= now
        and (one.wanted or any(covers(name, host) for name in one.hostnames for host in served))
    ]
    return min(ready, key=lambda one: (one.expire_at, one.order_at, one.name), default=None)


def renew_at(begin_at: float, expire_at: float, suggested_at: float | None) -> float:
    """When to renew: as the authority suggests, else at two thirds of its life."""
    if suggested_at is not None:
        return min(suggested_at, expire_at)
    return begin_at + (expire_at - begin_at) * _RENEW_AT_SHARE


def retry_after_s(failures: int, jitter: float) -> float:
    """Seconds from the n-th failure in a row to the next attempt: a minute doubled each time, six hours at most.
    `jitter`, 0 to 1, spreads those that failed together."""
    ceiling_s = min(_RETRY_MAX_S, _RETRY_S * 2.0 ** min(failures - 1, 20))
    return ceiling_s * (0.5 + 0.5 * jitter)


def is_expiring(begin_at: float, expire_at: float, now: float) -> bool:
    """Whether little of its life is left."""
    return expire_at - now < (expire_at - begin_at) * _EXPIRING_SHARE


def certificate_id(hostname: str) -> str:
    """The id of the automatic certificate for a host name; two host names never share one."""
    digest = hashlib.sha256(hostname.encode()).hexdigest()[:10]
    return f"auto-{hostname.replace('.', '-')[: _ID_LENGTH_MAX - 16].strip('-')}-{digest}"


def challenge_owner(hostname: str) -> str:
    """Where the TXT record that proves a host name stands (RFC 8555, section 8.4)."""
    return f"_acme-challenge.{hostname.removeprefix('*.')}"


def zone_of(hostname: str, origins: Iterable[str]) -> str | None:
    """The closest zone that holds a host name's challenge."""
    name = hostname.removeprefix("*.")
    above = [origin for origin in origins if name == origin or name.endswith(f".{origin}")]
    return max(above, key=len, default=None)
