"""The primary cache key (RFC 9111 section 2): scheme, normalised host, path and query; only GET is stored."""

from __future__ import annotations


def primary(scheme: bytes, host: bytes, target: bytes) -> bytes:
    """The key of a target in origin form. Paths are compared byte by byte: what origins tell apart stays apart."""
    return scheme + b"://" + host + target


def same_origin_target(scheme: bytes, host: bytes, base: bytes, reference: bytes) -> bytes | None:
    """The target of a Location or Content-Location of the same origin, else None (RFC 9111 section 4.4)."""
    reference = reference.split(b"#")[0]
    origin = scheme + b"://" + host
    if reference.lower().startswith(origin) and reference[len(origin) : len(origin) + 1] in (b"", b"/", b"?"):
        rest = reference[len(origin) :]
        return rest if rest.startswith(b"/") else b"/" + rest
    if reference.startswith(b"//") or b"://" in reference.split(b"?")[0]:
        return None
    if reference.startswith(b"/"):
        return reference
    if not reference:
        return None
    folder = base.split(b"?")[0].rpartition(b"/")[0]
    return folder + b"/" + reference
