"""Secrets that are handed out once: only their hashes are kept, and they are compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Final

OPERATOR_PREFIX: Final = "locciop1"

_OPERATOR_TOKEN = re.compile(rf"{OPERATOR_PREFIX}\.(?P<id>[a-z0-9]{{8,32}})\.(?P<secret>[A-Za-z0-9_-]{{20,100}})")


def secret_hash(secret: str) -> str:
    """Hexadecimal SHA-256. Secrets are 256 random bits: there is nothing to guess that a slow hash would protect."""
    return hashlib.sha256(secret.encode()).hexdigest()


def matches(secret: str, known_hash: str) -> bool:
    """Whether `secret` has that hash, in constant time."""
    return hmac.compare_digest(secret_hash(secret).encode(), known_hash.encode())


@dataclass(frozen=True, slots=True)
class OperatorToken:
    """The parts of an operator's bearer token."""

    id: str
    secret: str

    def text(self) -> str:
        """`locciop1.{id}.{secret}`."""
        return f"{OPERATOR_PREFIX}.{self.id}.{self.secret}"


def parse_operator_token(text: str) -> OperatorToken | None:
    """The parts of a bearer token; None when it is none."""
    match = _OPERATOR_TOKEN.fullmatch(text)
    return OperatorToken(match["id"], match["secret"]) if match else None
