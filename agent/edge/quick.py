"""The compiled parts of the edge. Optional: where they were not built, Python does the same, byte by byte."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from agent.edge.core.entry import StoredResponse

Rewritten = Callable[[bytes, bytes, bytes, bytes], tuple[bytes, int, int, int] | None]


def load() -> ModuleType | None:
    """The extension, when it was built."""
    try:
        return importlib.import_module("agent.edge._quick")
    except ImportError:
        return None


compiled: Final = load()
rewritten: Rewritten | None = None if compiled is None else compiled.rewritten
"""`rewritten(data, member, request_id, date)`, from the first bytes of a response to a GET.

What the client gets for them (members of Cache-Status and Via added, an id, a Date when there was none), the
status, the length of the body, and how many bytes of it are in it. None for what is not of the common kind: a 200
or an error over HTTP/1.1, whole head, with Content-Length, without anything for one hop only but `keep-alive`.
"""
decode: Callable[[bytes, bytes], StoredResponse | None] | None = None
"""`decode(key, data)`: a whole entry out of its stored form, None for what `entry_codec.decode` has to look at."""
