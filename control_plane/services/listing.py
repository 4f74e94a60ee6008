"""Lists of every kind of resource: filter (AIP-160), order (AIP-132) and pages (AIP-158).

A service calls `page(request, rows, shown=…)` with all rows that it may show, as pairs of a key and a message, in
their natural order. Whether the request has `filter` and `order_by` is seen from its descriptor: add

    // Which to list (AIP-160), as in `condition = READY AND labels.tier = gold`; empty for all.
    string filter = 60;
    // In which order (AIP-132), as in `region, create_time desc`; empty for the natural one.
    string order_by = 61;

to a List request, and both work. `shown` makes of a stored row what callers see, and is what filters see too.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

from google.protobuf.descriptor import Descriptor

from control_plane.core.filter_match import Predicate, compile_filter, compile_order
from control_plane.core.filter_syntax import parse
from fleet.errors import invalid

PAGE_SIZE_DEFAULT: Final = 100
PAGE_SIZE_MAX: Final = 1000

T = TypeVar("T")
_SortKey = list[Any]
_PAGING: Final = frozenset({"page_size", "page_token"})


def page(
    request: Any, rows: Iterable[tuple[str, T]], *, shown: Callable[[T], T] | None = None, descending: bool = False
) -> tuple[list[T], str]:
    """One page of `rows`, which are sorted by key in the given direction, and the next page's token.

    Raises INVALID_ARGUMENT for a filter or an order that does not fit the message, and for a token that is of a
    list with another filter, order or parent.
    """
    rows = rows if isinstance(rows, list) else list(rows)
    size = page_size(request)
    chosen_filter, order_text = getattr(request, "filter", ""), getattr(request, "order_by", "")
    show = shown or _same
    if not chosen_filter.strip() and not order_text.strip():
        chosen, token = _by_key(request, rows, size, descending)
        return [show(row) for row in chosen], token
    descriptor = _listed(request)
    passes, keys = predicate(chosen_filter, descriptor), _order(order_text, descriptor)
    seen = [(key, row) for key, row in ((key, show(row)) for key, row in rows) if passes(row)]
    if not keys:
        return _by_key(request, seen, size, descending)
    return _by_order(request, seen, size, keys)


def predicate(text: str, descriptor: Descriptor) -> Predicate:
    """Whether a message passes a filter; every message passes an empty one. Raises INVALID_ARGUMENT."""
    tree = parse(text)
    return _everything if tree is None else compile_filter(tree, descriptor)


def page_size(request: Any) -> int:
    """How many to return. Raises INVALID_ARGUMENT when it is negative."""
    if request.page_size < 0:
        raise invalid("page_size", f"page_size: {request.page_size} must not be negative")
    return min(request.page_size or PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)


def number_key(number: int) -> str:
    """A key that sorts as the number does."""
    return f"{number:020d}"


def encode_token(request: Any, mark: Any) -> str:
    """A page token that begins after `mark`, bound to everything else that the request asks for."""
    text = json.dumps([_binding(request), mark], separators=(",", ":"), ensure_ascii=False)
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_token(request: Any) -> Any:
    """The mark in the request's page token. Raises INVALID_ARGUMENT when it is none of ours, or of another list."""
    token = request.page_token
    try:
        padded = token + "=" * (-len(token) % 4)
        bound, mark = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, TypeError, RecursionError) as error:
        message = "page_token: this is not a token of an earlier page; begin again without one"
        raise invalid("page_token", message) from error
    if bound != _binding(request):
        message = "page_token: this is a token of a list with another filter, order or parent; begin again without one"
        raise invalid("page_token", message)
    return mark


def _binding(request: Any) -> str:
    """A short hash of the request but for what may differ between pages."""
    fields = [(field.name, str(value)) for field, value in request.ListFields() if field.name not in _PAGING]
    text = json.dumps([request.DESCRIPTOR.full_name, *fields])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _bad_mark() -> Exception:
    return invalid("page_token", "page_token: this is not a token of an earlier page; begin again without one")


def _by_key(request: Any, rows: Sequence[tuple[str, T]], size: int, descending: bool) -> tuple[list[T], str]:
    begin = 0
    if request.page_token:
        after = decode_token(request)
        if not isinstance(after, str):
            raise _bad_mark()
        begin = next((i for i, (key, _) in enumerate(rows) if (key < after if descending else key > after)), len(rows))
    chosen = rows[begin : begin + size]
    more = begin + size < len(rows)
    return [row for _, row in chosen], encode_token(request, chosen[-1][0]) if more and chosen else ""


def _by_order(
    request: Any, rows: Sequence[tuple[str, T]], size: int, keys: Sequence[tuple[Callable[[Any], Any], bool]]
) -> tuple[list[T], str]:
    """Sorted by `keys`, then by the rows' own key; a page begins after the sort key of the last row before."""
    directions = [descending for _, descending in keys]
    compare = functools.partial(_compare, directions)
    keyed = [([*(key(row) for key, _ in keys), name], row) for name, row in rows]
    keyed.sort(key=lambda pair: functools.cmp_to_key(compare)(pair[0]))
    begin = 0
    if request.page_token:
        after = decode_token(request)
        if not isinstance(after, list) or len(after) != len(keys) + 1:
            raise _bad_mark()
        try:
            begin = next((i for i, (key, _) in enumerate(keyed) if compare(key, after) > 0), len(keyed))
        except TypeError:
            raise _bad_mark() from None
    chosen = keyed[begin : begin + size]
    more = begin + size < len(keyed)
    return [row for _, row in chosen], encode_token(request, chosen[-1][0]) if more and chosen else ""


def _compare(directions: Sequence[bool], one: _SortKey, other: _SortKey) -> int:
    for left, right, descending in zip(one, other, [*directions, False], strict=True):
        if left != right:
            return 1 if (left > right) != descending else -1
    return 0


def _order(text: str, descriptor: Descriptor) -> list[tuple[Callable[[Any], Any], bool]]:
    return compile_order(text, descriptor) if text.strip() else []


def _listed(request: Any) -> Descriptor:
    """What a List request lists: the one repeated message of its response, which is declared beside it."""
    name = request.DESCRIPTOR.name.removesuffix("Request") + "Response"
    response = request.DESCRIPTOR.file.message_types_by_name[name]
    found: Descriptor = next(field.message_type for field in response.fields if field.is_repeated)
    return found


def _same(row: T) -> T:
    return row


def _everything(message: Any) -> bool:
    return True
