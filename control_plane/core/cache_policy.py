"""What a manifest asks of the edges' cache beyond switching it off: the key, and lifetimes of what says nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fleet.errors import invalid

NAMES_MAX: Final = 32
KEYED_MAX: Final = 8
"""Fields and cookies together: each multiplies the responses that are stored."""
NAME_LENGTH_MAX: Final = 128
NEGATIVE_S_MAX: Final = 3600.0
HEURISTIC_S_MAX: Final = 86_400.0
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HOSTILE: Final = frozenset(("cookie", "forwarded", "x-forwarded-for", "x-real-ip", "x-request-id", "via", "cdn-loop"))


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """The rules; seconds are whole."""

    query_ignored: bool = False
    query_allow: tuple[str, ...] = ()
    query_ignore: tuple[str, ...] = ()
    query_sort: bool = False
    headers: tuple[str, ...] = ()
    cookies: tuple[str, ...] = ()
    negative_s: float = 0.0
    heuristic_max_s: float = 0.0
    compress: bool = False
    shield_region: str = ""


def check(policy: CachePolicy) -> None:
    """Raises INVALID_ARGUMENT that names the field at fault."""
    at = "manifest.cache"
    for name, names in (("query_allow", policy.query_allow), ("query_ignore", policy.query_ignore)):
        _check_names(names, f"{at}.key.{name}", NAMES_MAX)
    for name, names in (("headers", policy.headers), ("cookies", policy.cookies)):
        path = f"{at}.key.{name}"
        _check_names(names, path, KEYED_MAX)
        for index, value in enumerate(names):
            if not _TOKEN.fullmatch(value):
                raise invalid(
                    f"{path}[{index}]", f"{path}[{index}]: {value!r} is not a name; use a token, as in X-Tier"
                )
            if name == "headers" and value.lower() in _HOSTILE:
                hint = "name single cookies in key.cookies" if value.lower() == "cookie" else "leave it out"
                raise invalid(f"{path}[{index}]", f"{path}[{index}]: {value} differs for nearly every client; {hint}")
    if len(policy.headers) + len(policy.cookies) > KEYED_MAX:
        raise invalid(f"{at}.key", f"{at}.key: at most {KEYED_MAX} headers and cookies together")
    if policy.query_ignored and (policy.query_allow or policy.query_ignore or policy.query_sort):
        path = f"{at}.key.ignore_query"
        raise invalid(path, f"{path}: with it no parameter counts; leave out query_allow, query_ignore and query_sort")
    for name, seconds, most in (
        ("negative_ttl", policy.negative_s, NEGATIVE_S_MAX),
        ("heuristic_max", policy.heuristic_max_s, HEURISTIC_S_MAX),
    ):
        if seconds and not 1 <= seconds <= most:
            path = f"{at}.{name}"
            raise invalid(path, f"{path}: {seconds:g}s is out of range: use 1s to {most:g}s, or leave it out")


def _check_names(names: Sequence[str], path: str, most: int) -> None:
    if len(names) > most:
        raise invalid(path, f"{path}: {len(names)} are too many; at most {most}")
    for index, name in enumerate(names):
        at = f"{path}[{index}]"
        if not name or len(name) > NAME_LENGTH_MAX or not name.isascii() or not name.isprintable():
            raise invalid(at, f"{at}: {name[:40]!r} must be 1 to {NAME_LENGTH_MAX} printable ASCII characters")
        if name in names[:index]:
            raise invalid(at, f"{at}: {name!r} is listed twice")
