"""What a request's head must look like before anything is done with it.

The parser has refused what is no HTTP at all; here stand the rules that decide whether two readers could
understand a request differently: framing, Host, target, version (RFC 9112 sections 3, 6 and 11.2).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Final

from agent.edge.core.headers import Fields, HeaderList, list_members

_HOST: Final = re.compile(rb"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,253})|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
CONDITIONS: Final = (b"if-none-match", b"if-modified-since", b"if-match", b"if-unmodified-since", b"if-range", b"range")
_ABSOLUTE: Final = re.compile(rb"(?i:https?)://([^/?#]*)(.*)", re.DOTALL)
_UNSAFE_TARGET: Final = re.compile(rb"[^\x21-\x7e]|[#\\]")
_PROTOCOL: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]{1,64}(/[!#$%&'*+.^_`|~0-9a-z-]{1,64})?")
_OURS: Final = (b"h2", b"h3", b"http", b"tls", b"ssl", b"quic", b"spdy")
_NOT_PLAIN: Final = frozenset((*CONDITIONS, b"cache-control", b"expect", b"upgrade", b"locci-purge", b"x-request-id"))
METHODS_SAFE: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE"))
METHODS_IDEMPOTENT: Final = METHODS_SAFE | {b"PUT", b"DELETE"}
QUOTED_BYTES_MAX: Final = 256
"""A longer target is quoted anew each time."""


class Refused(Exception):  # noqa: N818 - it is an answer, not a fault of ours
    """The request is answered with `status` and `text`; the connection is closed after it when `close`."""

    def __init__(self, status: int, text: str, *, close: bool = True):
        super().__init__(text)
        self.status = status
        self.text = text
        self.close = close

    def again(self) -> Refused:
        """The same, to be raised by who keeps this one: an exception holds all that was there when it was raised."""
        return Refused(self.status, self.text, close=self.close)


@dataclass(slots=True)
class RequestHead:
    """A request that is unambiguous. `host` is normalised: lower case, no default port, no last dot."""

    method: bytes
    target: bytes
    host: bytes
    headers: HeaderList
    fields: Fields
    minor: int
    keep_alive: bool
    content_length: int
    """0 when there is no body or its length is not known before."""
    chunked: bool
    expects_continue: bool
    upgrade: bytes
    """Lower-case protocol of an upgrade that is asked for, or empty."""
    plain: bool
    """A stored response can be sent as it is: GET over a connection that stays, without conditions or demands."""

    quoted: bytes = field(default=b"", compare=False)
    """What `quote` said."""

    def quote(self) -> bytes:
        """Method, host and target as members of a JSON object."""
        # Method and host are made of harmless characters.
        target = json.dumps(self.target.decode("latin-1")).encode()
        quoted = b'"method":"%b","host":"%b","target":%b' % (self.method, self.host, target)
        if len(self.target) <= QUOTED_BYTES_MAX:
            self.quoted = quoted
        return quoted

    @property
    def has_body(self) -> bool:
        """Whether body bytes follow."""
        return self.chunked or self.content_length > 0


def check(
    method: bytes, target: bytes, headers: HeaderList, fields: Fields, minor: int, keep_alive: bool
) -> RequestHead:
    """The request that these parts make. Raises Refused with 400, 405, 417 or 501."""
    if method == b"CONNECT" or method == b"TRACE":
        raise Refused(405, f"the method {method.decode()} is not served here")
    authority, target = _split_target(method, target)
    host = _host(headers, fields, authority)
    content_length, chunked = _framing(fields, minor)
    upgrade = _upgrade(fields)
    if upgrade and (chunked or content_length):
        raise Refused(400, "a request that asks for an upgrade cannot have a body here")
    expect = fields.get(b"expect")
    if expect is not None and expect.lower() != b"100-continue":
        raise Refused(417, "the only expectation served here is 100-continue")
    expects_continue = expect is not None and minor > 0
    has_body = chunked or content_length > 0
    plain = method == b"GET" and minor > 0 and keep_alive and not has_body and _NOT_PLAIN.isdisjoint(fields)
    return RequestHead(
        method,
        target,
        host,
        headers,
        fields,
        minor,
        keep_alive,
        content_length,
        chunked,
        expects_continue,
        upgrade,
        plain,
    )


def _split_target(method: bytes, target: bytes) -> tuple[bytes | None, bytes]:
    """Authority, when the target is in absolute form, and the origin form (RFC 9112 section 3.2)."""
    if _UNSAFE_TARGET.search(target):
        raise Refused(400, "the request target has a character that must be percent-encoded")
    if target.startswith(b"/"):
        return None, target
    if target == b"*" and method == b"OPTIONS":
        return None, target
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        raise Refused(400, "the request target is neither a path nor an http URI")
    path: bytes = match[2]
    return match[1], path if path.startswith(b"/") else b"/" + path


def _host(headers: HeaderList, fields: Fields, authority: bytes | None) -> bytes:
    """The normalised host (RFC 9112 section 3.2: exactly one Host; an absolute form overrides it)."""
    host = fields.get(b"host")
    if host is None:
        raise Refused(400, "the Host header is missing")
    if sum(1 for name, _ in headers if name.lower() == b"host") > 1:
        raise Refused(400, "there is more than one Host header")
    normal_host(host)
    return normal_host(host if authority is None else authority)


def normal_host(host: bytes) -> bytes:
    """Lower case, without the default port and the last dot. Raises Refused for what is no host."""
    if not _HOST.fullmatch(host):
        raise Refused(400, "the Host header is not a host name or address with an optional port")
    host = host.lower()
    if host.endswith(b":80"):
        host = host[:-3]
    elif host.endswith(b":443"):
        host = host[:-4]
    name, colon, port = host.rpartition(b":")
    if colon and not host.endswith(b"]"):
        return name.rstrip(b".") + b":" + port
    return host.rstrip(b".")


def _framing(fields: Fields, minor: int) -> tuple[int, bool]:
    """Length and chunked (RFC 9112 section 6.3); whatever two readers could read differently is refused."""
    length = fields.get(b"content-length")
    coding = fields.get(b"transfer-encoding")
    if coding is not None:
        if length is not None:
            raise Refused(400, "Content-Length and Transfer-Encoding in one request")
        if coding.lower() != b"chunked":
            raise Refused(501, "the only transfer coding served here is chunked, once")
        if minor == 0:
            raise Refused(400, "Transfer-Encoding in an HTTP/1.0 request")
        return 0, True
    if length is None:
        return 0, False
    if not length.isdigit() or len(length) > 18:
        raise Refused(400, "Content-Length is not one decimal number")
    return int(length), False


def switches(upgrade: bytes) -> bool:
    """Whether an upgrade is passed on: to one protocol that is not a version of HTTP or TLS. Behind those, requests
    would go past what is checked here; who asks for them is answered without (RFC 9110, section 7.8)."""
    return _PROTOCOL.fullmatch(upgrade) is not None and not upgrade.startswith(_OURS)


def _upgrade(fields: Fields) -> bytes:
    """The protocol that an upgrade asks for (RFC 9110 section 7.8)."""
    wanted = fields.get(b"upgrade")
    if wanted is None or b"upgrade" not in list_members(fields.get(b"connection", b"")):
        return b""
    return wanted.lower()
