"""What Docker Engine's errors mean for the agent."""

from __future__ import annotations

from typing import Final

import requests
from docker import errors

from agent.core.model import PullFailure

_MEANING: Final = (
    (PullFailure.NO_SPACE, ("no space left on device", "disk quota exceeded")),
    (PullFailure.DENIED, ("denied", "unauthorized", "authentication required", "no basic auth credentials")),
    (PullFailure.NOT_FOUND, ("not found", "manifest unknown", "name unknown", "does not exist")),
    (PullFailure.TIMED_OUT, ("context deadline exceeded", "timeout exceeded", "timed out")),
    (
        PullFailure.UNREACHABLE,
        ("connection refused", "connection reset", "no such host", "no route to host", "network is unreachable", "eof"),
    ),
    (
        PullFailure.UNREACHABLE,
        ("i/o timeout", "tls handshake", "server gave http response", "x509:", "bad gateway", "service unavailable"),
    ),
)


class EngineError(Exception):
    """A call to the engine failed. `lost`: the engine itself did not answer, `hung`: although it was connected;
    `missing`: there is no such thing."""

    def __init__(self, reason: str, *, lost: bool = False, missing: bool = False, hung: bool = False):
        super().__init__(reason)
        self.reason = reason
        self.lost = lost
        self.missing = missing
        self.hung = hung


class PullError(Exception):
    """An image could not be pulled."""

    def __init__(self, failure: PullFailure, detail: str, *, lost: bool = False):
        super().__init__(detail)
        self.failure = failure
        self.detail = detail
        self.lost = lost


def explain(error: Exception, where: str) -> EngineError:
    """The error as the agent sees it; `where` is the engine's address."""
    if isinstance(error, EngineError):
        return error
    if isinstance(error, errors.APIError):
        reason = str(error.explanation or error).strip()
        return EngineError(reason, missing=isinstance(error, errors.NotFound))
    if isinstance(error, requests.exceptions.ReadTimeout):
        return EngineError(f"Docker Engine at {where} does not answer in time", lost=True, hung=True)
    return EngineError(f"Docker Engine at {where} cannot be reached: {_root(error)}", lost=True)


def pull_failure(text: str) -> PullFailure:
    """Why a pull failed, by the engine's words."""
    lowered = text.lower()
    found = (failure for failure, words in _MEANING if any(word in lowered for word in words))
    return next(found, PullFailure.OTHER)


def _root(error: BaseException) -> str:
    """The operating system's own words, where there are any."""
    seen: list[BaseException] = [error]
    for cause in seen:
        # requests' errors are OSErrors too, with whatever they were made of in the place of the words.
        if isinstance(cause, OSError) and isinstance(cause.strerror, str):
            return cause.strerror.lower()
        nested = [cause.__cause__, cause.__context__, *(a for a in cause.args if isinstance(a, BaseException))]
        seen += [n for n in nested if n is not None and n not in seen]
    return str(error) or type(error).__name__
