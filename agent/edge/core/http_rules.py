"""What an app wants done with its requests and answers, made ready once for every configuration."""

from __future__ import annotations

import html
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from agent.edge.core.headers import Fields, HeaderList
from fleet.path_rules import PathRule, first

RETRY_AFTER_S: Final = 60
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class HeaderEdits:
    """Fields of these names (lower case) go, then those of `put` come."""

    drop: frozenset[bytes]
    put: tuple[tuple[bytes, bytes], ...]

    def apply(self, headers: HeaderList) -> HeaderList:
        """The fields as they are afterwards, in a new list."""
        drop = self.drop
        return [*(pair for pair in headers if pair[0].lower() not in drop), *self.put]


@dataclass(frozen=True, slots=True)
class Maintenance:
    """How an app answers that is in maintenance."""

    page: bytes = b""
    retry_after_s: int = RETRY_AFTER_S
    allow: tuple[Network, ...] = ()

    def lets(self, client: bytes) -> bool:
        """Whether this client is served all the same."""
        if not self.allow:
            return False
        try:
            address = ipaddress.ip_address(client.decode("latin-1").partition("%")[0])
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self.allow)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of an app's own; 0 means none. Rates are per second over `window_s`."""

    client_rate: float = 0.0
    rate: float = 0.0
    window_s: float = 10.0
    body_bytes_max: int = 0
    in_progress_max: int = 0
    """Of one worker."""


NO_LIMITS: Final = Limits()


@dataclass(frozen=True, slots=True)
class HttpRules:
    """All of it. What is not wanted is None or empty, so that asking for it costs nothing."""

    request: HeaderEdits | None = None
    response: HeaderEdits | None = None
    redirects: tuple[PathRule, ...] = ()
    statuses: tuple[int, ...] = ()
    """Of the redirects, one for each."""
    rewrites: tuple[PathRule, ...] = ()
    pages: Mapping[int, bytes] = field(default_factory=dict)
    """By status."""
    replaced: frozenset[int] = frozenset()
    """Statuses of the app's own that a page takes the place of."""
    maintenance: Maintenance | None = None
    """Only while the app is in maintenance."""
    limits: Limits = NO_LIMITS

    @property
    def patient(self) -> bool:
        """Whether an answer cannot be passed on as it comes."""
        return bool(self.replaced or self.limits.in_progress_max)

    @property
    def guards(self) -> bool:
        """Whether some requests are answered here without asking anybody."""
        return self.maintenance is not None or bool(self.redirects)

    def stops(self, host: bytes, target: bytes) -> bool:
        """Whether what is stored for the target must not be sent without a closer look."""
        return self.maintenance is not None or self.redirect(host, target) is not None

    def redirect(self, host: bytes, target: bytes) -> tuple[int, bytes] | None:
        """Status and Location for a request that is sent elsewhere."""
        if not self.redirects:
            return None
        found = first(self.redirects, host, target)
        return None if found is None else (self.statuses[self.redirects.index(found[0])], found[1])

    def rewritten(self, host: bytes, target: bytes) -> bytes:
        """What a replica is asked for instead of `target`."""
        if not self.rewrites or not target.startswith(b"/"):
            return target
        found = first(self.rewrites, host, target)
        return target if found is None else found[1]


NO_HTTP_RULES: Final = HttpRules()


def wants_html(fields: Fields) -> bool:
    """Whether a page is welcome (RFC 9110, section 12.5.1)."""
    accept = fields.get(b"accept")
    return accept is None or b"text/html" in accept or b"*/*" in accept


def filled(page: bytes, status: int, message: str, request_id: bytes) -> bytes:
    """A page with what its placeholders stand for. Nothing in it is a client's but the id, of harmless characters."""
    return (
        page.replace(b"{status}", b"%d" % status)
        .replace(b"{message}", html.escape(message).encode())
        .replace(b"{request_id}", request_id)
    )
