"""Which replica a request stays with, when its app wants that: by a hash of it, or by a cookie of the edge's own.

Sources: Thaler, Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", IEEE/ACM TON 6(1), 1998 (rendezvous
hashing); Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing with Bounded Loads", SODA 2018.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, assert_never

from agent.edge.core.balance import Endpoint
from agent.edge.core.headers import Fields
from agent.edge.core.vary import cookie_value

BOUND: Final = 1.25
"""An endpoint with more than so many times the average of requests in progress is passed over."""


class HashBy(Enum):
    """What of a request decides."""

    NOTHING = "nothing"
    CLIENT = "client"
    PATH = "path"
    HEADER = "header"
    COOKIE = "cookie"


@dataclass(frozen=True, slots=True)
class Balancing:
    """What an app wants of the choice among its replicas on a host."""

    hash_by: HashBy = HashBy.NOTHING
    name: bytes = b""
    """Of the field (lower case) or cookie to hash by."""
    sticky_cookie: bytes = b""
    """Name of the edge's own cookie; empty for none."""
    hedge_s: float = 0.0
    """After so long without an answer a second endpoint is asked as well; 0 for never."""

    @property
    def plain(self) -> bool:
        """Whether nothing is wanted."""
        return self == PLAIN


PLAIN: Final = Balancing()


@dataclass(frozen=True, slots=True)
class Wish:
    """Where one request wants to go: by its hash, or, before that, to the replica of this token."""

    key: bytes = b""
    token: bytes = b""


NO_WISH: Final = Wish()


def wish(balancing: Balancing, fields: Fields, target: bytes, client: bytes) -> Wish:
    """What a request's own content says of where it should go."""
    name = balancing.sticky_cookie
    token = cookie_value(name, fields) or b"" if name else b""
    match balancing.hash_by:
        case HashBy.NOTHING:
            key = b""
        case HashBy.CLIENT:
            key = client
        case HashBy.PATH:
            key = target
        case HashBy.HEADER:
            key = fields.get(balancing.name, b"")
        case HashBy.COOKIE:
            key = cookie_value(balancing.name, fields) or b""
        case _:
            assert_never(balancing.hash_by)
    return Wish(key, token)


def token_of(replica: str) -> bytes:
    """What the cookie says for a replica: it tells the edge which, and nobody else anything."""
    return hashlib.blake2b(replica.encode(), digest_size=8).hexdigest().encode()


def drawn_to(available: Sequence[Endpoint], key: bytes) -> list[Endpoint]:
    """Endpoints in the order in which a key is drawn to them. One that comes or goes moves only its own keys."""

    def rank(endpoint: Endpoint) -> bytes:
        return hashlib.blake2b(key, key=endpoint.address.encode()[:64], digest_size=8).digest()

    return sorted(available, key=rank)


def ranked(available: Sequence[Endpoint], key: bytes) -> list[Endpoint]:
    """As `drawn_to`, but those with too much to do come last."""
    if not key:
        return list(available)
    drawn = drawn_to(available, key)
    most = math.ceil(BOUND * (1 + sum(endpoint.outstanding for endpoint in drawn)) / max(1, len(drawn)))
    return sorted(drawn, key=lambda endpoint: endpoint.outstanding >= most)


def set_cookie(name: bytes, replica: str, secure: bool) -> bytes:
    """A Set-Cookie that lasts as long as the client's session (RFC 6265, section 4.1)."""
    return name + b"=" + token_of(replica) + b"; Path=/; HttpOnly; SameSite=Lax" + (b"; Secure" if secure else b"")
