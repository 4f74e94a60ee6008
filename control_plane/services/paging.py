"""Pages of lists (AIP-158): by name, with a token that says where the next page begins."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any, Final, TypeVar

from fleet.errors import invalid

PAGE_SIZE_DEFAULT: Final = 100
PAGE_SIZE_MAX: Final = 1000

T = TypeVar("T")


def page_size(request: Any) -> int:
    """How many to return. Raises INVALID_ARGUMENT when it is negative."""
    if request.page_size < 0:
        raise invalid("page_size", f"page_size: {request.page_size} must not be negative")
    return min(request.page_size or PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)


def encode_token(key: str) -> str:
    """A page token that begins after `key`."""
    return base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


def decode_token(token: str) -> str:
    """The key that a page token begins after. Raises INVALID_ARGUMENT when it is none of ours."""
    try:
        padded = token + "=" * (-len(token) % 4)
        return base64.b64decode(padded, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        message = "page_token: this is not a token of an earlier page; begin again without one"
        raise invalid("page_token", message) from error


def page(request: Any, rows: Sequence[tuple[str, T]], *, descending: bool = False) -> tuple[list[T], str]:
    """One page of `rows`, which are sorted by key in the given direction, and the next page's token."""
    size = page_size(request)
    begin = 0
    if request.page_token:
        after = decode_token(request.page_token)
        begin = next((i for i, (key, _) in enumerate(rows) if (key < after if descending else key > after)), len(rows))
    chosen = rows[begin : begin + size]
    more = begin + size < len(rows)
    return [row for _, row in chosen], encode_token(chosen[-1][0]) if more and chosen else ""


def number_key(number: int) -> str:
    """A key that sorts as the number does."""
    return f"{number:020d}"
