"""Targeted cache control (RFC 9213): a structured-field dictionary instead of Cache-Control.

What is no dictionary, down to the last byte, counts as not there (section 2.1); parameters are ignored.
"""

from __future__ import annotations

import re
from typing import Final

FIELDS: Final = (b"locci-cdn-cache-control", b"cdn-cache-control")
"""The target list, our own field first (section 2.2)."""
SURROGATE: Final = b"surrogate-control"
"""What came before them (Edge Architecture Specification 1.0, section 2.3); counts when none of them is there."""
_DEVICE: Final = "locci"

_KEY: Final = r"[a-z*][a-z0-9_.*-]*"
_STRING: Final = r'"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*"'
_BARE: Final = (
    rf"(?:-?[0-9]{{1,12}}\.[0-9]{{1,3}}|@?-?[0-9]{{1,15}}|{_STRING}"
    r"|[A-Za-z*][!#$%&'*+.^_`|~0-9A-Za-z:/-]*|:[A-Za-z0-9+/=]*:|\?[01])"
)
_PARAMETERS: Final = rf"(?:; *{_KEY}(?:={_BARE})?)*"
_INNER: Final = rf"\( *(?:{_BARE}{_PARAMETERS}(?: +{_BARE}{_PARAMETERS})*)? *\)"
# Possessive and atomic: a hostile value must not make the matcher go back over it again and again.
_MEMBER: Final = re.compile(rf"({_KEY})(?>=((?>{_BARE}|{_INNER})))?+(?>{_PARAMETERS})")
_BETWEEN: Final = re.compile(r"[ \t]*,[ \t]*")
_INTEGER: Final = re.compile(r"-?[0-9]{1,15}")


def parse(value: bytes) -> dict[str, str | None]:
    """The directives of a dictionary (RFC 9651 section 4.2.2); none when it is empty or no dictionary.

    The last of several with one name counts. True is None, as for a directive without an argument; false is as if it
    were not there. An argument of another type than the directive's reads as one that is invalid.
    """
    found: dict[str, str | None] = {}
    text = value.decode("latin-1").strip(" ")
    position = 0
    while position < len(text):
        match = _MEMBER.match(text, position)
        if match is None:
            return {}
        found.pop(match[1], None)
        if match[2] != "?0":
            found[match[1]] = _argument(match[2])
        position = match.end()
        if position == len(text):
            return found
        between = _BETWEEN.match(text, position)
        if between is None or between.end() == len(text):
            return {}
        position = between.end()
    return found


def parse_surrogate(value: bytes) -> dict[str, str | None]:
    """The directives of a Surrogate-Control for us; none when it says nothing about storing, or is no dictionary.

    Names count in any case. What is targeted at another device (`max-age=60;other`) is left out. Edges are surrogates
    far from the origin, so `no-store-remote` is `no-store`.
    """
    found: dict[str, str | None] = {}
    for member in value.decode("latin-1").lower().split(","):
        directive, *devices = (text.strip(" \t") for text in member.split(";"))
        if not devices or _DEVICE in devices:
            found |= parse(directive.encode("latin-1"))
    if "no-store-remote" in found:
        found["no-store"] = None
    return found if "no-store" in found or "max-age" in found else {}


def _argument(item: str | None) -> str | None:
    if item is None or item == "?1":
        return None
    if _INTEGER.fullmatch(item):
        return item
    inner = re.sub(r"\\(.)", r"\1", item[1:-1]) if item.startswith('"') else item
    return "(not an integer)" if inner.isdigit() else inner
