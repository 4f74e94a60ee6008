"""Responses that the edge makes itself."""

from __future__ import annotations

import http
import json
from dataclasses import dataclass
from typing import Final

from agent.edge.core import http_date
from agent.edge.core.headers import HeaderList, encode_head

HEALTH_PATH: Final = b"/.well-known/locci/health"
ACME_PATH: Final = b"/.well-known/acme-challenge/"
"""Never sent to https: certificates are proven here (RFC 8555, section 8.3)."""
HTTPS_PORT: Final = 443


def is_ours(target: bytes) -> bool:
    """Whether the edge itself may answer the target, before any app."""
    return target.startswith(ACME_PATH) or target.partition(b"?")[0] == HEALTH_PATH


CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


def reason_of(status: int) -> bytes:
    """The usual reason phrase."""
    try:
        return http.HTTPStatus(status).phrase.encode()
    except ValueError:
        return b""


def https_location(host: bytes, target: bytes, port: int) -> bytes:
    """The same place over https."""
    name = host if host.endswith(b"]") else host.rpartition(b":")[0] if b":" in host else host
    return b"https://" + name + (b"" if port == HTTPS_PORT else b":%d" % port) + target


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole response, framed by its Content-Length; no body for HEAD."""

    status: int
    reason: bytes
    headers: HeaderList
    body: bytes | memoryview


def explained(status: int, message: str, now: float, extra: HeaderList | None = None) -> Answer:
    """A response for people: what is wrong and what to do. Never stored by anybody."""
    return whole(status, b"text/plain; charset=utf-8", message.encode() + b"\n", now, extra)


def page(status: int, body: bytes, now: float, extra: HeaderList | None = None) -> Answer:
    """A page of an app's own. Never stored by anybody."""
    return whole(status, b"text/html; charset=utf-8", body, now, extra)


def whole(status: int, content_type: bytes, body: bytes, now: float, extra: HeaderList | None = None) -> Answer:
    """A response that nobody may store."""
    headers: HeaderList = [
        (b"Date", http_date.render(now)),
        (b"Content-Type", content_type),
        (b"Content-Length", b"%d" % len(body)),
        (b"Cache-Control", b"no-store"),
        *(extra or ()),
    ]
    return Answer(status, reason_of(status), headers, body)


def last_words(status: int, message: str, now: float, extra: HeaderList | None = None) -> bytes:
    """An explanation over HTTP/1.1, after which the connection ends."""
    answer = explained(status, message, now, [*(extra or ()), (b"Connection", b"close")])
    return encode_head(b"HTTP/1.1 %d %b" % (status, answer.reason), answer.headers) + answer.body


def health(node: str, region: str, generation: int) -> bytes:
    """The body of the health path."""
    return json.dumps({"node": node, "region": region, "generation": generation}).encode() + b"\n"
