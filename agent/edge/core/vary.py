"""Secondary cache keys from Vary (RFC 9111 section 4.1)."""

from __future__ import annotations

import re
from typing import Final

from agent.edge.core.headers import Fields, list_members

NAMES_MAX: Final = 8
_REFUSED: Final = re.compile(rb"\s*q\s*=\s*0(\.0*)?\s*")
_WEIGHT: Final = re.compile(rb"[ \t]*q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)[ \t]*")
_CODINGS: Final = frozenset((b"gzip", b"br", b"zstd", b"deflate"))


def names(value: bytes | None) -> tuple[bytes, ...] | None:
    """Field names that a response varies on, sorted; None when it matches nothing: `*`, or absurdly many."""
    if not value:
        return ()
    found = tuple(sorted(set(list_members(value))))
    return None if b"*" in found or len(found) > NAMES_MAX else found


def secondary(vary: tuple[bytes, ...], request: Fields) -> bytes:
    """The key among the variants of a primary key: the normalised values of the fields that count."""
    parts = []
    for name in vary:
        cookie = name.startswith(b"cookie:")
        value = cookie_value(name.removeprefix(b"cookie:"), request) if cookie else request.get(name)
        if value is None:
            parts.append(name)
        elif name == b"accept-encoding":
            parts.append(name + b":" + accept_encoding(value))
        elif name == b"accept-language":
            parts.append(name + b":" + accept_language(value))
        else:
            parts.append(name + b":" + b",".join(part.strip(b" \t") for part in value.split(b",")))
    return b"\n".join(parts)


def cookie_value(name: bytes, request: Fields) -> bytes | None:
    """The value of the first cookie of that name (RFC 6265 section 4.2)."""
    for pair in request.get(b"cookie", b"").split(b";"):
        found, equals, value = pair.strip(b" \t").partition(b"=")
        if equals and found == name:
            return value
    return None


def accept_encoding(value: bytes) -> bytes:
    """The content codings accepted, sorted: clients that accept the same ones share a variant.

    A value with a wildcard or a say about identity stays as it is, in lower case (RFC 9110 section 12.5.3).
    """
    value = value.lower()
    if b"*" in value or b"identity" in value:
        return value.replace(b" ", b"").replace(b"\t", b"")
    accepted = set()
    for member in value.split(b","):
        coding, _, weight = member.partition(b";")
        coding = coding.strip()
        if coding in _CODINGS and not _REFUSED.fullmatch(weight):
            accepted.add(coding)
    return b",".join(sorted(accepted))


def accept_language(value: bytes) -> bytes:
    """The languages in lower case, by weight and then by name (RFC 9110 section 12.5.4).

    No order among languages of one weight can be relied upon; a value with a weight that is none stays as it is.
    """
    weighed = []
    for member in list_members(value):
        language, _, weight = member.partition(b";")
        match = _WEIGHT.fullmatch(weight)
        if weight and match is None:
            return value
        weighed.append((-float(match[1]) if match is not None else -1.0, language.strip(b" \t")))
    return b",".join(b"%b;%.3f" % (language, -weight) for weight, language in sorted(weighed))
