"""A request's head from an HTTP/2 header block (RFC 9113 section 8).

What goes on from here is HTTP/1.1: a name or a value that could end a line there is refused, as is everything that two
readers could understand in two ways.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from agent.edge.core.headers import ONLY_FROM_PEERS, HeaderList, fields_of
from agent.edge.core.request_head import Refused, RequestHead, check, normal_host

_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_VALUE: Final = re.compile(rb"(?:[\x21-\x7e\x80-\xff](?:[\x20-\x7e\t\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")
_METHOD: Final = re.compile(rb"[A-Z][A-Z-]{0,31}")
FORBIDDEN: Final = frozenset((b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"))
"""What has no meaning in HTTP/2 (section 8.2.2)."""
_PSEUDO: Final = frozenset((b":method", b":scheme", b":authority", b":path"))
VERSION: Final = 2


def are_trailers(block: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether these fields may come behind a body (section 8.1)."""
    return all(_NAME.fullmatch(name) and _VALUE.fullmatch(value) and name not in FORBIDDEN for name, value in block)


def read(block: Iterable[tuple[bytes, bytes]], scheme: bytes, headers_max: int, *, ended: bool) -> RequestHead:
    """The request that these fields make; `ended` when no body follows. Raises Refused,
    with 400 for what is malformed (section 8.1.1)."""
    pseudo, headers, cookies = _divided(block, headers_max)
    method, path = pseudo.get(b":method"), pseudo.get(b":path")
    if method is None or not _METHOD.fullmatch(method):
        raise Refused(400, "the method is missing, or is no method")
    if method == b"CONNECT":
        raise Refused(405, "the method CONNECT is not served here")
    if not path or pseudo.get(b":scheme") is None:
        raise Refused(400, "a request needs :method, :scheme and :path")
    if pseudo[b":scheme"].lower() != scheme:
        raise Refused(400, "the scheme is not that of the connection")
    if path != b"*" and not path.startswith(b"/"):
        raise Refused(400, "the path does not begin with a slash")
    if cookies:  # section 8.2.3
        headers.append((b"cookie", b"; ".join(cookies)))
    authority = pseudo.get(b":authority")
    hosts = [value for name, value in headers if name == b"host"]
    if authority is not None:
        if any(normal_host(host) != normal_host(authority) for host in hosts):
            raise Refused(400, "Host and :authority differ")
        headers = [(b"host", authority), *(pair for pair in headers if pair[0] != b"host")]
    fields = fields_of(headers)
    for name in ONLY_FROM_PEERS:  # other edges speak HTTP/1.1
        fields.pop(name, None)
    if b"," in fields.get(b"content-length", b""):
        raise Refused(400, "Content-Length more than once")
    head = check(method, path, headers, fields, VERSION, keep_alive=True)
    if ended and head.content_length:
        raise Refused(400, "a body was announced, and none came")
    if not ended and b"content-length" not in fields:
        head.chunked = True
        head.plain = False
    return head


def _divided(
    block: Iterable[tuple[bytes, bytes]], headers_max: int
) -> tuple[dict[bytes, bytes], HeaderList, list[bytes]]:
    """Pseudo fields, fields, and the pieces of the cookie."""
    pseudo: dict[bytes, bytes] = {}
    headers: HeaderList = []
    cookies: list[bytes] = []
    for name, value in block:
        if not _VALUE.fullmatch(value):
            raise Refused(400, "a field's value has a character that is not allowed in it")
        if name.startswith(b":"):
            if name not in _PSEUDO or name in pseudo or headers or cookies:
                raise Refused(400, "pseudo fields come first, once each, and are those of a request")
            pseudo[name] = value
            continue
        if not _NAME.fullmatch(name):
            raise Refused(400, "a field's name is not a token in lower case")
        if name in FORBIDDEN or (name == b"te" and value != b"trailers"):
            raise Refused(400, f"{name.decode()} has no meaning in HTTP/2")
        if name == b"cookie":
            cookies.append(value)
        else:
            headers.append((name, value))
        if len(headers) + len(cookies) > headers_max:
            raise Refused(431, "there are too many header fields")
    return pseudo, headers, cookies
