"""The compiled rewriting of response heads. Optional: where it was not built, the parser and the rules in Python see to
every response, with the same bytes."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Final, cast

Rewritten = Callable[[bytes, bytes, bytes, bytes], tuple[bytes, int, int, int] | None]


def load() -> Rewritten | None:
    """`rewritten(data, member, request_id, date)`, from the first bytes of a response to a GET.

    What the client gets for them (members of Cache-Status and Via added, an id, a Date when there was none), the
    status, the length of the body, and how many bytes of it are in it. None for what is not of the common kind: a 200
    or an error over HTTP/1.1, whole head, with Content-Length, without anything for one hop only but `keep-alive`.
    """
    try:
        return cast(Rewritten, importlib.import_module("agent.edge._quick_head").rewritten)
    except ImportError:
        return None


rewritten: Final = load()
