"""What an app asks of the cache beyond what its responses say: the key, and lifetimes for those that say nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class CacheRules:
    """An app's rules. Without any, the whole query counts and only explicit freshness does."""

    query_ignored: bool = False
    """No parameter counts."""
    query_allow: tuple[bytes, ...] = ()
    """When there are any: only these parameters count. A last `*` stands for any end."""
    query_ignore: tuple[bytes, ...] = ()
    """Parameters that do not count. A last `*` stands for any end."""
    query_sort: bool = False
    """The order of the parameters does not count."""
    headers: tuple[bytes, ...] = ()
    """Request fields, lower case, whose values tell responses apart as if the responses said so in Vary."""
    cookies: tuple[bytes, ...] = ()
    """Cookies whose values tell responses apart."""
    negative_s: int = 0
    """Lifetime of errors that are worth keeping and say nothing about it."""
    heuristic_max_s: int = 0
    """Bound of lifetimes that are guessed from Last-Modified (RFC 9111 section 4.2.2); 0 means that none is."""

    compress: bool = False
    """Text is stored compressed."""

    @property
    def keeps_query(self) -> bool:
        """Whether the query counts as it is."""
        return not (self.query_ignored or self.query_allow or self.query_ignore or self.query_sort)

    @property
    def keyed(self) -> tuple[bytes, ...]:
        """The names that stored responses vary on by these rules; a cookie's is `cookie:` and its name."""
        return self.headers + tuple(b"cookie:" + name for name in self.cookies)


NO_RULES: Final = CacheRules()
