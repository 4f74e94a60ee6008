"""What a manifest asks of the choice among an app's replicas on a host."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from fleet.errors import invalid

HEDGE_S_MIN: Final = 0.001
HEDGE_S_MAX: Final = 60.0
NAME_LENGTH_MAX: Final = 128
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

HashBy = Literal["", "client", "path", "header", "cookie"]


@dataclass(frozen=True, slots=True)
class Balancing:
    """The wishes; empty and 0 where there is none."""

    hash_by: HashBy = ""
    hash_name: str = ""
    sticky_cookie: str = ""
    hedge_s: float = 0.0


def check(balancing: Balancing) -> None:
    """Raises INVALID_ARGUMENT that names the field at fault."""
    at = "manifest.balancing"
    named = balancing.hash_by in ("header", "cookie")
    if named != bool(balancing.hash_name):
        path = f"{at}.hash_name"
        why = "says which header field or cookie; give it" if named else "is for hash_by HEADER and COOKIE only"
        raise invalid(path, f"{path}: {why}")
    for field, name in (("hash_name", balancing.hash_name), ("sticky_cookie", balancing.sticky_cookie)):
        if name and (len(name) > NAME_LENGTH_MAX or not _TOKEN.fullmatch(name)):
            path = f"{at}.{field}"
            raise invalid(path, f"{path}: {name[:NAME_LENGTH_MAX]!r} is not a name; use a token, as in session")
    if balancing.hedge_s and not HEDGE_S_MIN <= balancing.hedge_s <= HEDGE_S_MAX:
        path = f"{at}.hedge_after"
        raise invalid(path, f"{path}: {balancing.hedge_s:g} s must be from {HEDGE_S_MIN:g} to {HEDGE_S_MAX:g}")
