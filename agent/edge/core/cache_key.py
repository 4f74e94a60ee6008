"""The primary cache key (RFC 9111 section 2): scheme, normalised host, path and query; only GET is stored."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes, urljoin, urlsplit

from agent.edge.core.cache_rules import NO_RULES, CacheRules

_DEFAULT_PORT = {"http": 80, "https": 443}


def primary(scheme: bytes, host: bytes, target: bytes, rules: CacheRules = NO_RULES) -> bytes:
    """The key of a target in origin form. Paths are compared byte by byte: what origins tell apart stays apart."""
    if b"?" in target and not rules.keeps_query:
        target = with_query(target, rules)
    return scheme + b"://" + host + target


def with_query(target: bytes, rules: CacheRules) -> bytes:
    """The target with the parameters that count.

    Names are compared as an origin reads them, percent-decoded; a parameter that an origin could read as several
    (with a semicolon) always counts, so that none can be smuggled past the key.
    """
    path, _, query = target.partition(b"?")
    kept = [part for part in query.split(b"&") if part and (b";" in part or _counts(part, rules))]
    if rules.query_sort:
        kept.sort(key=lambda part: part.partition(b"=")[0])  # stable: values of one name stay in their order
    return path + b"?" + b"&".join(kept) if kept else path


def _counts(part: bytes, rules: CacheRules) -> bool:
    if rules.query_ignored:
        return False
    name = unquote_to_bytes(part.partition(b"=")[0].replace(b"+", b" "))
    if rules.query_allow and not _listed(name, rules.query_allow):
        return False
    return not _listed(name, rules.query_ignore)


def _listed(name: bytes, patterns: tuple[bytes, ...]) -> bool:
    return any(name.startswith(p[:-1]) if p.endswith(b"*") else name == p for p in patterns)


def same_origin_target(scheme: bytes, host: bytes, base: bytes, reference: bytes) -> bytes | None:
    """The target of a Location or Content-Location of the same origin, else None (RFC 9111 section 4.4).

    References are resolved after RFC 3986 section 5; the origin is scheme, host and port (RFC 9110 section 4.3.1).
    """
    own = f"{scheme.decode('latin-1')}://{host.decode('latin-1')}"
    try:
        # Three slashes or more at the start of the base would be read as an authority.
        found = urlsplit(urljoin(own + "/" + base.decode("latin-1").lstrip("/"), reference.decode("latin-1").strip()))
        mine = urlsplit(own)
        same = (found.scheme, found.hostname, found.port or _DEFAULT_PORT.get(found.scheme)) == (
            mine.scheme,
            mine.hostname,
            mine.port or _DEFAULT_PORT.get(mine.scheme),
        )
    except ValueError:
        return None
    if not reference.strip() or not same or found.username is not None:
        return None
    query = "?" + found.query if found.query else ""
    return ((found.path or "/") + query).encode("latin-1")
