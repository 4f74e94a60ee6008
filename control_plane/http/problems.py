"""Errors as problem documents, `application/problem+json` (RFC 9457)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from fleet.errors import DOMAIN, Code, LocciError

CONTENT_TYPE: Final = "application/problem+json"


class HttpError(LocciError):
    """An error with an HTTP status of its own, and headers that go with it."""

    def __init__(
        self, status: HTTPStatus, code: Code, reason: str, message: str, headers: Mapping[str, str] | None = None
    ):
        super().__init__(code, reason, message)
        self.status = status
        self.headers = dict(headers or {})


def no_such_path(path: str) -> HttpError:
    """404."""
    message = f"there is nothing at {path[:200]}; /openapi.json lists what there is"
    return HttpError(HTTPStatus.NOT_FOUND, Code.NOT_FOUND, "NO_SUCH_PATH", message)


def method_not_allowed(method: str, allowed: list[str]) -> HttpError:
    """405, with `Allow` (RFC 9110, section 15.5.6)."""
    allow = ", ".join(allowed)
    message = f"{method[:20]} is not offered here; use {allow}"
    status = HTTPStatus.METHOD_NOT_ALLOWED
    return HttpError(status, Code.UNIMPLEMENTED, "METHOD_NOT_ALLOWED", message, {"Allow": allow})


def body_too_large(bytes_max: int) -> HttpError:
    """413."""
    message = f"the body is larger than {bytes_max} bytes"
    return HttpError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, Code.INVALID_ARGUMENT, "BODY_TOO_LARGE", message)


def body_too_slow(seconds: float) -> HttpError:
    """408."""
    message = f"the body did not arrive within {seconds:g} s; send it again"
    status = HTTPStatus.REQUEST_TIMEOUT
    return HttpError(status, Code.DEADLINE_EXCEEDED, "BODY_TOO_SLOW", message, {"Connection": "close"})


def unsupported_media_type(message: str) -> HttpError:
    """415."""
    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    return HttpError(status, Code.INVALID_ARGUMENT, "UNSUPPORTED_MEDIA_TYPE", message, {"Accept-Encoding": "identity"})


def not_acceptable(kind: str) -> HttpError:
    """406."""
    message = f"the answer is {kind}, which the Accept header does not take"
    return HttpError(HTTPStatus.NOT_ACCEPTABLE, Code.INVALID_ARGUMENT, "NOT_ACCEPTABLE", message)


def unauthenticated(reason: str, message: str) -> HttpError:
    """401, with the challenge of RFC 6750, section 3."""
    headers = {"WWW-Authenticate": 'Bearer realm="locci"'}
    return HttpError(HTTPStatus.UNAUTHORIZED, Code.UNAUTHENTICATED, reason, message, headers)


def overloaded(message: str) -> HttpError:
    """503: too much at once."""
    return HttpError(HTTPStatus.SERVICE_UNAVAILABLE, Code.UNAVAILABLE, "OVERLOADED", message, {"Retry-After": "1"})


def too_many(message: str, retry_after_s: float, reason: str = "TOO_MANY_REQUESTS") -> HttpError:
    """429: this client asks too often."""
    headers = {"Retry-After": str(max(1, round(retry_after_s)))}
    return HttpError(HTTPStatus.TOO_MANY_REQUESTS, Code.RESOURCE_EXHAUSTED, reason, message, headers)


def status_of(error: LocciError) -> int:
    """The HTTP status that an error is answered with."""
    return int(error.status) if isinstance(error, HttpError) else error.code.value.http


def document(error: LocciError, instance: str, request_id: str) -> dict[str, Any]:
    """The problem document of an error that a request for `instance` ended with."""
    kind = error.reason.lower().replace("_", "-")
    result: dict[str, Any] = {
        "type": f"tag:{DOMAIN},2026:problem/{kind}",
        "title": HTTPStatus(error.status).phrase if isinstance(error, HttpError) else error.code.value.title,
        "status": status_of(error),
        "detail": error.message,
        "instance": instance,
        "code": error.code.name,
        "reason": error.reason,
        "request_id": request_id,
    }
    if error.field:
        result["field"] = error.field
    if error.violations:
        result["errors"] = [{"field": field, "detail": text} for field, text in error.violations]
    if error.metadata:
        result["metadata"] = error.metadata
    return result


def encode(error: LocciError, instance: str, request_id: str) -> bytes:
    """The problem document in UTF-8; text that is none is escaped."""
    text = json.dumps(document(error, instance, request_id), ensure_ascii=False)
    return text.encode(errors="backslashreplace")
