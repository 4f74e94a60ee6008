"""Orders to use no more what edges have stored: which may be given, and which older ones a new one stands for."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from fleet.errors import invalid

REMEMBERED_MAX: Final = 256
REMEMBERED_S: Final = 86_400.0
LENGTH_MAX: Final = 2048
_VISIBLE: Final = re.compile(r"[\x21-\x7e]+")
_TAG: Final = re.compile(r"[\x21-\x2b\x2d-\x7e]+")


@dataclass(frozen=True, slots=True)
class Order:
    """One that is remembered; `what` is its kind and its value, empty for everything. Times in seconds since 1970."""

    sequence: int
    what: tuple[str, str]
    soft: bool
    time: float


def superfluous(orders: Sequence[Order], new: Order) -> tuple[list[int], int]:
    """Sequences of older orders that need not be remembered with the new one, and the floor that stands for those of
    them that it does not cover: everything that was fetched before is gone."""
    covered = [o for o in orders if (o.what == new.what or not new.what[0]) and (o.soft or not new.soft)]
    rest = sorted((o for o in orders if o not in covered), key=lambda o: o.sequence)
    old = [o for o in rest if o.time + REMEMBERED_S < new.time]
    dropped = rest[: max(len(old), len(rest) + 1 - REMEMBERED_MAX)]
    floor = max((o.sequence for o in dropped), default=0)
    return sorted(o.sequence for o in covered + dropped), floor


def place(url: str) -> str:
    """Host and target of a URL that `check_url` found in order, as edges have it in their keys."""
    authority, _, target = url.partition("://")[2].partition("/")
    host, _, port = authority.lower().partition(":")
    return f"{host}:{port}/{target}" if port not in ("", "80", "443") else f"{host}/{target}"


def check_url(url: str, path: str, hostnames: Collection[str]) -> None:
    """Raises INVALID_ARGUMENT for what is no URL of the app."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise invalid(path, f"{path}: {url[:80]!r} is no URL: {error}") from error
    if parts.scheme not in ("http", "https") or not host or parts.username is not None or parts.fragment:
        raise invalid(path, f"{path}: {url[:80]!r} must look like https://www.example.net/path?query")
    if len(url) > LENGTH_MAX or not _VISIBLE.fullmatch(url):
        raise invalid(path, f"{path}: use at most {LENGTH_MAX} visible ASCII characters, others percent-encoded")
    if host not in hostnames:
        names = ", ".join(sorted(hostnames))
        raise invalid(path, f"{path}: {host} is none of the app's host names ({names})")
    if "?" in url and "/" not in url.partition("://")[2].partition("?")[0]:
        raise invalid(path, f"{path}: {url[:80]!r} lacks the path before its query")


def check_tag(tag: str, path: str) -> None:
    """Raises INVALID_ARGUMENT for what can be no tag."""
    if not tag or len(tag) > LENGTH_MAX or not _TAG.fullmatch(tag):
        raise invalid(path, f"{path}: {tag[:80]!r} must be visible ASCII characters without comma and space")
