"""Image references: `host[:port]/repository[:tag][@digest]`.

Grammar: github.com/distribution/reference, reference.go; a name without a host is Docker Hub's, as Docker reads it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from fleet.errors import Code, LocciError

DOCKER_HUB: Final = "docker.io"

_HOST = re.compile(r"(?:\[[0-9a-fA-F:]+\]|[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)(?::[0-9]{1,5})?")
_PART = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Reference:
    """A parsed reference; `tag` and `digest` may be empty, not both once `parse_reference` made it."""

    host: str
    repository: str
    tag: str
    digest: str

    @property
    def name(self) -> str:
        """Host and repository."""
        return f"{self.host}/{self.repository}"

    def pinned(self, digest: str) -> str:
        """The reference by digest, without its tag."""
        return f"{self.name}@{digest}"


def _malformed(reference: str, why: str) -> LocciError:
    message = f"{reference!r} is not an image reference: {why}; write host[:port]/repository[:tag][@sha256:...]"
    return LocciError(Code.INVALID_ARGUMENT, "MALFORMED_IMAGE", message, field="manifest.image")


def parse_reference(reference: str) -> Reference:
    """The parts of a reference; without tag and digest the tag is `latest`. Raises INVALID_ARGUMENT."""
    if not reference or len(reference) > 512:
        raise _malformed(reference[:80], "it is empty" if not reference else "it is too long")
    rest, _, digest = reference.partition("@")
    if "@" in reference and not _DIGEST.fullmatch(digest):
        raise _malformed(reference, "the digest must be sha256: and 64 hexadecimal digits")
    first, slash, remainder = rest.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        host, path = first, remainder
    else:
        host, path = DOCKER_HUB, rest
    path, colon, tag = path.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise _malformed(reference, f"{tag!r} is no tag")
    if host == DOCKER_HUB and "/" not in path:
        path = f"library/{path}"
    if not _HOST.fullmatch(host):
        raise _malformed(reference, f"{host!r} is no host")
    if not all(_PART.fullmatch(part) for part in path.split("/")):
        raise _malformed(reference, f"{path!r} is no repository (lower case only)")
    return Reference(host, path, tag or ("" if digest else "latest"), digest)
