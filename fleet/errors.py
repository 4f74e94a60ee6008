"""The one taxonomy of errors, carried as `google.rpc.Status` over gRPC and RFC 9457 problems over HTTP.

A message says what is wrong, where, and what to do. Whatever is not a `LocciError` is internal.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

DOMAIN: Final = "locci.dev"


@dataclass(frozen=True, slots=True)
class _Kind:
    """A code's names in the two protocols: the canonical gRPC status code's number and the HTTP status."""

    grpc: int
    http: int
    title: str


class Code(Enum):
    """Canonical codes, with their gRPC number and HTTP status (google.rpc.Code)."""

    INVALID_ARGUMENT = _Kind(3, 400, "Invalid argument")
    DEADLINE_EXCEEDED = _Kind(4, 504, "Deadline exceeded")
    NOT_FOUND = _Kind(5, 404, "Not found")
    ALREADY_EXISTS = _Kind(6, 409, "Already exists")
    PERMISSION_DENIED = _Kind(7, 403, "Permission denied")
    RESOURCE_EXHAUSTED = _Kind(8, 429, "Resource exhausted")
    FAILED_PRECONDITION = _Kind(9, 400, "Failed precondition")
    ABORTED = _Kind(10, 409, "Aborted")
    UNIMPLEMENTED = _Kind(12, 501, "Not implemented")
    INTERNAL = _Kind(13, 500, "Internal error")
    UNAVAILABLE = _Kind(14, 503, "Unavailable")
    UNAUTHENTICATED = _Kind(16, 401, "Unauthenticated")

    @classmethod
    def from_grpc(cls, number: int) -> Code:
        """The code of a gRPC status number; a number that is not of the taxonomy is internal."""
        return next((code for code in cls if code.value.grpc == number), cls.INTERNAL)


class LocciError(Exception):
    """An error that a caller can act on.

    `reason` is a stable word in UPPER_SNAKE_CASE for programs; `message` is for people; `field` names the
    part of the request that is at fault, as a path such as `manifest.ports[0].container_port`. `violations` are all
    parts that are, each with what is wrong with it.
    """

    def __init__(
        self,
        code: Code,
        reason: str,
        message: str,
        *,
        field: str = "",
        metadata: dict[str, str] | None = None,
        violations: tuple[tuple[str, str], ...] = (),
    ):
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.field = field
        self.metadata = metadata or {}
        self.violations = violations or (((field, message),) if field else ())

    def __repr__(self) -> str:
        return f"LocciError({self.code.name}, {self.reason}, {self.message!r})"


def invalid(field: str, message: str, reason: str = "INVALID_FIELD") -> LocciError:
    """The request's `field` is wrong."""
    return LocciError(Code.INVALID_ARGUMENT, reason, message, field=field)


def not_found(name: str, message: str = "") -> LocciError:
    """There is no resource of that name."""
    return LocciError(Code.NOT_FOUND, "NOT_FOUND", message or f"{name} does not exist", metadata={"name": name})


def already_exists(name: str, message: str = "") -> LocciError:
    """There is such a resource."""
    return LocciError(Code.ALREADY_EXISTS, "ALREADY_EXISTS", message or f"{name} exists", metadata={"name": name})


def failed_precondition(reason: str, message: str) -> LocciError:
    """The state of the fleet does not allow it."""
    return LocciError(Code.FAILED_PRECONDITION, reason, message)
