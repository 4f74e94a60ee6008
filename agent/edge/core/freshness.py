"""What may be stored, for how long it is fresh, and how old it is (RFC 9111), for a shared cache.

Only what a response says explicitly counts, unless the app asks for more (CacheRules): heuristics (section 4.2.2) are
off. One rule is stricter than the RFC: a response with Set-Cookie is not stored unless it says `public`, or names the
field in `private` or `no-cache`, because cookies are nearly always one user's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from agent.edge.core import http_date, targeted
from agent.edge.core.cache_rules import NO_RULES, CacheRules
from agent.edge.core.headers import PER_CLIENT, Fields, list_members

Directives = dict[str, str | None]

SECONDS_MAX: Final = 2**31  # section 1.2.2: what a cache must be able to hold
_DIRECTIVE: Final = re.compile(
    r"\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:(\s*)=(\s*)(?:\"((?:[^\"\\]|\\.)*)\"|([^\s,;\"]*)))?\s*(?:,|$)"
)
# Section 5.2.2.3: the status codes whose caching behaviour is known here.
UNDERSTOOD: Final = frozenset((200, 203, 204, 300, 301, 302, 303, 307, 308, 404, 405, 410, 414, 451, 501))
# RFC 9110 section 15.1, without 206.
HEURISTIC: Final = frozenset((200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501))
NEGATIVE: Final = frozenset((404, 405, 410, 414, 451, 501))
"""What is kept for `negative_s` when it says nothing about it."""
HEURISTIC_SHARE: Final = 0.1
_INVALID: Final = "(invalid)"
_FIELD_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
# The stored response depends on these: naming them in `private` or `no-cache` is the same as naming none.
_NOT_OMITTED: Final = frozenset(
    (
        b"age",
        b"cache-control",
        b"content-encoding",
        b"content-length",
        b"content-range",
        b"content-type",
        b"date",
        b"expires",
        b"vary",
        *targeted.FIELDS,
        targeted.SURROGATE,
    )
)
_OVERRIDES: Final = frozenset(
    (b"x-http-method-override", b"x-http-method", b"x-method-override", b"x-original-url", b"x-rewrite-url")
)
"""Fields by which a request asks some frameworks for another method or path than the one that is the key."""
REASONS_OF_REQUEST: Final = frozenset(("request no-store", "authorization", "range", "override"))
"""Reasons that say nothing about the responses to other requests."""


def directives(value: bytes | None) -> Directives:
    """Directives of a Cache-Control value (section 5.2), names in lower case.

    Of one that is repeated the first counts (section 4.2.1), but `private` and `no-cache` add up. What is no directive
    is skipped.
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
        argument = match[4] if match[4] is not None else match[5]
        if match[2] or match[3]:
            argument = _INVALID  # no space may be beside the equals sign (RFC 9110 section 5.6.6)
        name = match[1].lower()
        if name in found and name in ("private", "no-cache"):
            before = found[name]
            found[name] = f"{before},{argument}" if before and argument else None
        found.setdefault(name, argument)
        position = match.end()
    return found


def control_of(response: Fields) -> tuple[Directives, bool]:
    """The directives that count for a response, and whether they are targeted at us (RFC 9213 section 2.1)."""
    for name in targeted.FIELDS:
        if name in response and (found := targeted.parse(response[name])):
            return found, True
    if (old := response.get(targeted.SURROGATE)) and (found := targeted.parse_surrogate(old)):
        return found, True
    return directives(response.get(b"cache-control")), False


def named_fields(control: Directives, name: str) -> frozenset[bytes]:
    """Lower-case field names of a qualified `private` or `no-cache` (sections 5.2.2.4 and .7).

    Empty when the directive is not there or counts for the whole response.
    """
    argument = control.get(name)
    if not argument:
        return frozenset()
    found = frozenset(list_members(argument.encode("latin-1")))
    if found & _NOT_OMITTED or not all(_FIELD_NAME.fullmatch(field) for field in found):
        return frozenset()
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
    omitted: frozenset[bytes] = frozenset()
    """Fields that only the client gets for whom the response was fetched."""


def judge(
    method: bytes,
    status: int,
    request: Fields,
    response: Fields,
    response_time: float,
    rules: CacheRules = NO_RULES,
) -> Verdict:
    """Decides about storing a response (section 3)."""
    control, is_targeted = control_of(response)
    omitted = named_fields(control, "private") | named_fields(control, "no-cache")
    if why := _obstacle(method, status, request, response, control, omitted):
        return Verdict(False, why)
    if is_targeted:  # RFC 9213 section 2.1: Expires is ignored like Cache-Control
        response = {name: value for name, value in response.items() if name != b"expires"}
    lifetime = explicit_lifetime_s(response, control, response_time)
    if lifetime is None:
        lifetime = _lifetime_by_rules_s(status, response, control, response_time, rules)
    # Section 5.2.2.4: not without successful validation.
    validate = "no-cache" in control and not named_fields(control, "no-cache")
    validator = b"etag" in response or b"last-modified" in response
    if lifetime is None and not (validate and validator):
        return Verdict(False, "no explicit freshness")
    # Section 5.2.2.2 and .8, and s-maxage, which implies proxy-revalidate (section 5.2.2.10).
    strict = bool({"must-revalidate", "proxy-revalidate", "s-maxage"} & control.keys())
    while_revalidate = 0 if strict else delta_seconds(control.get("stale-while-revalidate")) or 0  # RFC 5861 section 3
    if_error = 0 if strict else delta_seconds(control.get("stale-if-error")) or 0  # RFC 5861 section 4
    if not lifetime and not validator and not while_revalidate and not if_error:
        return Verdict(False, "stale at once")
    return Verdict(True, "", lifetime or 0, validate, strict, while_revalidate, if_error, omitted)


def _obstacle(
    method: bytes, status: int, request: Fields, response: Fields, control: Directives, omitted: frozenset[bytes]
) -> str:
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
    if "private" in control and not named_fields(control, "private"):  # section 5.2.2.7
        return "private"
    if b"authorization" in request and not ({"public", "must-revalidate", "s-maxage"} & control.keys()):
        return "authorization"  # section 3.5
    if b"set-cookie" in response and b"set-cookie" not in omitted and "public" not in control:
        return "set-cookie"
    varying = list_members(response.get(b"vary", b""))
    if b"*" in varying:
        return "vary *"  # section 4.1: never matches
    if not PER_CLIENT.isdisjoint(varying):
        return "vary per client"  # the edge writes these: what the client sent does not tell two responses apart
    if b"range" in request:
        return "range"
    if not _OVERRIDES.isdisjoint(request):
        return "override"  # stricter: what came may be the answer to something else
    return ""


def _lifetime_by_rules_s(
    status: int, response: Fields, control: Directives, response_time: float, rules: CacheRules
) -> int | None:
    """Lifetime of a response that says nothing about it, by what the app asks for (section 4.2.2)."""
    if "no-cache" in control:
        return None
    if status in NEGATIVE and rules.negative_s:
        return rules.negative_s
    if not rules.heuristic_max_s or (status not in HEURISTIC and "public" not in control):
        return None
    changed = http_date.parse(response.get(b"last-modified", b""), response_time)
    if changed is None:
        return None
    date = http_date.parse(response.get(b"date", b""), response_time)
    age = (response_time if date is None else date) - changed
    return max(0, min(rules.heuristic_max_s, int(age * HEURISTIC_SHARE)))


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
    stale_if_error_s: int = 0


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
        delta_seconds(control.get("stale-if-error")) or 0,  # RFC 5861 section 4
    )


def usable_on_error(verdict: Verdict, ttl_s: float, asked_s: int) -> bool:
    """Whether a stored response may be served because the origin fails (RFC 5861 section 4).

    `asked_s` is the request's stale-if-error. Never against no-cache or must-revalidate (RFC 9111 section 5.2.2).
    """
    bound = 0 if verdict.must_revalidate else asked_s
    return not verdict.validate_always and -ttl_s < max(verdict.stale_if_error_s, bound)


def satisfied(wanted: Demands, age_s: float, lifetime_s: int, must_revalidate: bool) -> bool:
    """Whether a stored response of that age may be used without validation (sections 4.2 and 5.2.1)."""
    if wanted.validate or (wanted.age_max_s is not None and age_s > wanted.age_max_s):
        return False
    left = lifetime_s - age_s
    if left > 0:
        return left >= wanted.fresh_min_s
    return wanted.fresh_min_s == 0 and not must_revalidate and 0 < wanted.stale_max_s >= -left
