"""What may be stored, for how long it is fresh, and how old it is (RFC 9111), for a shared cache.

Only what a response says explicitly counts: heuristics (section 4.2.2) are off. Two rules are stricter than the
RFC: a response with Set-Cookie is not stored unless it says `public`, because cookies are nearly always
one user's; and `private` or `no-cache` with field names count as if they had none (section 5.2.2.4 and .7 allow it).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from agent.edge.core import http_date
from agent.edge.core.headers import Fields

Directives = dict[str, str | None]

SECONDS_MAX: Final = 2**31  # section 1.2.2: what a cache must be able to hold
_DIRECTIVE: Final = re.compile(
    r"\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*(?:=\s*(?:\"((?:[^\"\\]|\\.)*)\"|([^\s,;\"]*)))?\s*(?:,|$)"
)
# Section 5.2.2.3: the status codes whose caching behaviour is known here.
UNDERSTOOD: Final = frozenset((200, 203, 204, 300, 301, 302, 303, 307, 308, 404, 405, 410, 414, 451, 501))


def directives(value: bytes | None) -> Directives:
    """Directives of a Cache-Control value (section 5.2), names in lower case.

    Of one that is repeated the first counts (section 4.2.1). What is no directive is skipped.
    """
    found: Directives = {}
    if not value:
        return found
    text = value.decode("latin-1")
    position = 0
    while position < len(text):
        match = _DIRECTIVE.match(text, position)
        if match is None:
            comma = text.find(",", position)
            position = len(text) if comma < 0 else comma + 1
            continue
        argument = match[2] if match[2] is not None else match[3]
        found.setdefault(match[1].lower(), argument)
        position = match.end()
    return found


def delta_seconds(argument: str | None) -> int | None:
    """A delta-seconds argument (section 1.2.2), capped; None when it is none."""
    if argument is None or not argument.isascii() or not argument.isdigit():
        return None
    return min(int(argument[:12]), SECONDS_MAX)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a response may be stored, and what follows from it."""

    storable: bool
    reason: str
    """Why not; empty when it may."""
    lifetime_s: int = 0
    validate_always: bool = False
    must_revalidate: bool = False
    stale_while_revalidate_s: int = 0
    stale_if_error_s: int = 0


def judge(method: bytes, status: int, request: Fields, response: Fields, response_time: float) -> Verdict:
    """Decides about storing a response (section 3)."""
    control = directives(response.get(b"cache-control"))
    if why := _obstacle(method, status, request, response, control):
        return Verdict(False, why)
    lifetime = explicit_lifetime_s(response, control, response_time)
    validate = "no-cache" in control  # section 5.2.2.4: not without successful validation
    validator = b"etag" in response or b"last-modified" in response
    if lifetime is None and not (validate and validator):
        return Verdict(False, "no explicit freshness")  # section 4.2.2 is off
    # Section 5.2.2.2 and .8, and s-maxage, which implies proxy-revalidate (section 5.2.2.10).
    strict = bool({"must-revalidate", "proxy-revalidate", "s-maxage"} & control.keys())
    while_revalidate = 0 if strict else delta_seconds(control.get("stale-while-revalidate")) or 0  # RFC 5861 section 3
    if_error = 0 if strict else delta_seconds(control.get("stale-if-error")) or 0  # RFC 5861 section 4
    if not lifetime and not validator and not while_revalidate and not if_error:
        return Verdict(False, "stale at once")
    return Verdict(True, "", lifetime or 0, validate, strict, while_revalidate, if_error)


def _obstacle(method: bytes, status: int, request: Fields, response: Fields, control: Directives) -> str:
    """What forbids storing (section 3), or an empty string."""
    if method != b"GET":
        return "method"
    if status < 200 or status in (206, 304):  # sections 3.3 and 4.3.4: parts and validations are no whole response
        return "status"
    if "must-understand" in control:  # section 5.2.2.3
        if status not in UNDERSTOOD:
            return "must-understand"
    elif "no-store" in control:  # section 5.2.2.5
        return "no-store"
    if "no-store" in directives(request.get(b"cache-control")):  # section 5.2.1.5
        return "request no-store"
    if "private" in control:  # section 5.2.2.7
        return "private"
    if b"authorization" in request and not ({"public", "must-revalidate", "s-maxage"} & control.keys()):
        return "authorization"  # section 3.5
    if b"set-cookie" in response and "public" not in control:
        return "set-cookie"
    if b"*" in [part.strip() for part in response.get(b"vary", b"").split(b",")]:
        return "vary *"  # section 4.1: never matches
    if b"range" in request:
        return "range"
    return ""


def explicit_lifetime_s(response: Fields, control: Directives, response_time: float) -> int | None:
    """Freshness lifetime (section 4.2.1): s-maxage, then max-age, then Expires less Date. None without any.

    What is invalid counts as stale already.
    """
    for name in ("s-maxage", "max-age"):
        if name in control:
            return delta_seconds(control[name]) or 0
    expires = response.get(b"expires")
    if expires is None:
        return None
    end = http_date.parse(expires, response_time)
    if end is None:  # section 5.3: above all "0"
        return 0
    date = http_date.parse(response.get(b"date", b""), response_time)
    return max(0, min(SECONDS_MAX, int(end - (response_time if date is None else date))))


def initial_age_s(response: Fields, request_time: float, response_time: float) -> float:
    """Corrected initial age (section 4.2.3). Times are seconds since 1970."""
    date = http_date.parse(response.get(b"date", b""), response_time)
    apparent = max(0.0, response_time - date) if date is not None else 0.0
    # Dates count whole seconds: a response made a moment ago must not seem older than it is by the fraction.
    apparent = apparent if apparent >= 1.0 else 0.0
    corrected = age_value_s(response.get(b"age")) + max(0.0, response_time - request_time)
    return max(apparent, corrected)


def age_value_s(value: bytes | None) -> int:
    """The Age field (section 5.1): the first member; 0 when it is no number."""
    if value is None:
        return 0
    return delta_seconds(value.split(b",")[0].strip().decode("latin-1")) or 0


@dataclass(frozen=True, slots=True)
class Demands:
    """What a request's Cache-Control asks of a stored response (section 5.2.1)."""

    validate: bool = False
    only_if_cached: bool = False
    no_store: bool = False
    age_max_s: int | None = None
    fresh_min_s: int = 0
    stale_max_s: int = 0


NO_DEMANDS: Final = Demands()


def demands(fields: Fields) -> Demands:
    """What the request asks for. Pragma is not looked at (section 5.4 deprecates it)."""
    value = fields.get(b"cache-control")
    if value is None:
        return NO_DEMANDS
    control = directives(value)
    stale = 0
    if "max-stale" in control:
        stale = SECONDS_MAX if not control["max-stale"] else delta_seconds(control["max-stale"]) or 0
    return Demands(
        "no-cache" in control,
        "only-if-cached" in control,
        "no-store" in control,
        delta_seconds(control.get("max-age")),
        delta_seconds(control.get("min-fresh")) or 0,
        stale,
    )


def satisfied(wanted: Demands, age_s: float, lifetime_s: int, must_revalidate: bool) -> bool:
    """Whether a stored response of that age may be used without validation (sections 4.2 and 5.2.1)."""
    if wanted.validate or (wanted.age_max_s is not None and age_s > wanted.age_max_s):
        return False
    left = lifetime_s - age_s
    if left > wanted.fresh_min_s:
        return True
    return wanted.fresh_min_s == 0 and not must_revalidate and wanted.stale_max_s > -left and wanted.stale_max_s > 0
