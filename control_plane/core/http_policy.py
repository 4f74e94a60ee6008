"""What a manifest asks of edges besides passing requests on: header fields, redirects, rewrites, pages, bounds."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fleet import path_rules
from fleet.errors import LocciError, invalid
from fleet.path_rules import PathRule

RULES_MAX: Final = 100
FIELDS_MAX: Final = 32
NAME_LENGTH_MAX: Final = 128
VALUE_LENGTH_MAX: Final = 4096
TEMPLATE_LENGTH_MAX: Final = 2048
PAGES_MAX: Final = 16
PAGE_BYTES_MAX: Final = 64 * 1024
PAGES_BYTES_MAX: Final = 256 * 1024
ALLOW_MAX: Final = 64
RETRY_AFTER_S_MAX: Final = 86_400.0
WINDOW_S_MAX: Final = 3600.0
RATE_MAX: Final = 1e9
REDIRECT_STATUSES: Final = (301, 302, 303, 307, 308)
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(r"(?:[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?)?")
# What frames messages or says how they travelled is the edge's (RFC 9110 sections 7.6 and 8.6).
_EDGES: Final = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "content-length",
        "via",
        "x-request-id",
        "cache-status",
        "locci-hop",
        "locci-purge",
    )
)
_OF_REQUESTS: Final = _EDGES | {
    "host",
    "expect",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-real-ip",
    "cdn-loop",
    "range",
    "if-range",
    "if-match",
    "if-none-match",
    "if-modified-since",
    "if-unmodified-since",
}
_OF_ANSWERS: Final = _EDGES | {"content-encoding", "content-range", "age", "date"}

Fields = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class HeaderRules:
    """Taken away, then set, then added."""

    remove: tuple[str, ...] = ()
    set_: Fields = ()
    add: Fields = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """A redirect, or with `status` 0 (or as its default) a rewrite."""

    path: str = ""
    prefix: str = ""
    hostnames: tuple[str, ...] = ()
    template: str = ""
    status: int = 0


@dataclass(frozen=True, slots=True)
class Page:
    """A page for some statuses."""

    statuses: tuple[int, ...]
    html: str
    replace_app: bool = False


@dataclass(frozen=True, slots=True)
class HttpPolicy:
    """All of it; empty and 0 where nothing is wanted."""

    request_headers: HeaderRules = HeaderRules()
    response_headers: HeaderRules = HeaderRules()
    redirects: tuple[Rule, ...] = ()
    rewrites: tuple[Rule, ...] = ()
    pages: tuple[Page, ...] = ()
    maintenance_html: str = ""
    retry_after_s: float = 0.0
    allow: tuple[str, ...] = ()
    client_rate: float = 0.0
    rate: float = 0.0
    window_s: float = 0.0
    body_bytes_max: int = 0
    in_progress_max: int = 0


def check(policy: HttpPolicy, hostnames: Sequence[str]) -> None:
    """Raises INVALID_ARGUMENT that names the field at fault. `hostnames` are the app's, lower case."""
    at = "manifest.http"
    _check_headers(policy.request_headers, f"{at}.request_headers", _OF_REQUESTS)
    _check_headers(policy.response_headers, f"{at}.response_headers", _OF_ANSWERS)
    _check_rules(policy.redirects, f"{at}.redirects", hostnames, "location")
    _check_rules(policy.rewrites, f"{at}.rewrites", hostnames, "target")
    found = path_rules.endless([compiled(rule) for rule in policy.redirects], [name.encode() for name in hostnames])
    if found is not None:
        path = f"{at}.redirects[{found[0]}]"
        why = f"{found[1].decode('latin-1')} is sent on and on by it; name hostnames, or a narrower path"
        raise invalid(path, f"{path}: {why}")
    _check_pages(policy, at)
    _check_bounds(policy, at)


def compiled(rule: Rule) -> PathRule:
    """The rule as it is gone by."""
    hosts = frozenset(name.lower().encode() for name in rule.hostnames)
    return PathRule(_bytes(rule.path), _bytes(rule.prefix), hosts, _bytes(rule.template))


def _bytes(text: str) -> bytes:
    """What is not ASCII is refused later, as any other character that does not belong there."""
    return text.encode("ascii", "backslashreplace")


def _check_headers(rules: HeaderRules, at: str, edges: frozenset[str]) -> None:
    if len(rules.remove) + len(rules.set_) + len(rules.add) > FIELDS_MAX:
        raise invalid(at, f"{at}: at most {FIELDS_MAX} fields in all")
    named = [(f"{at}.remove[{index}]", name, "") for index, name in enumerate(rules.remove)]
    for kind, fields in (("set", rules.set_), ("add", rules.add)):
        named += [(f"{at}.{kind}[{index}].name", name, value) for index, (name, value) in enumerate(fields)]
    for path, name, value in named:
        if len(name) > NAME_LENGTH_MAX or not _TOKEN.fullmatch(name):
            raise invalid(path, f"{path}: {name[:NAME_LENGTH_MAX]!r} is not a name; use a token, as in X-Frame-Options")
        if name.lower().replace("_", "-") in edges:
            raise invalid(path, f"{path}: {name} is the edge's own or frames the message; leave it out")
        if len(value) > VALUE_LENGTH_MAX or not _VALUE.fullmatch(value):
            where = path.removesuffix(".name") + ".value"
            why = f"must be at most {VALUE_LENGTH_MAX} printable ASCII characters, without spaces at its ends"
            raise invalid(where, f"{where}: the value of {name} {why}")


def _check_rules(rules: Sequence[Rule], at: str, hostnames: Sequence[str], leads: str) -> None:
    if len(rules) > RULES_MAX:
        raise invalid(at, f"{at}: {len(rules)} are too many; at most {RULES_MAX}")
    for index, rule in enumerate(rules):
        path = f"{at}[{index}]"
        for number, name in enumerate(rule.hostnames):
            if name.lower() not in hostnames:
                where = f"{path}.hostnames[{number}]"
                raise invalid(where, f"{where}: {name!r} is none of the app's hostnames")
        if max(len(rule.template), len(rule.path), len(rule.prefix)) > TEMPLATE_LENGTH_MAX:
            raise invalid(path, f"{path}: at most {TEMPLATE_LENGTH_MAX} characters")
        if not rule.template:
            raise invalid(f"{path}.{leads}", f"{path}.{leads}: say where it leads, as in /new{{rest}}")
        problem = path_rules.problem(compiled(rule), urls=leads == "location")
        if problem:
            raise invalid(path, f"{path}: {problem}")
        if rule.status and rule.status not in REDIRECT_STATUSES:
            where = f"{path}.status"
            raise invalid(where, f"{where}: {rule.status} is no redirect; use {', '.join(map(str, REDIRECT_STATUSES))}")


def _check_pages(policy: HttpPolicy, at: str) -> None:
    path = f"{at}.error_pages"
    if len(policy.pages) > PAGES_MAX:
        raise invalid(path, f"{path}: {len(policy.pages)} are too many; at most {PAGES_MAX}")
    for index, page in enumerate(policy.pages):
        if not page.statuses or not all(400 <= status <= 599 for status in page.statuses):
            where = f"{path}[{index}].statuses"
            raise invalid(where, f"{where}: name statuses from 400 to 599")
        _check_html(page.html, f"{path}[{index}].html", needed=True)
    _check_html(policy.maintenance_html, f"{at}.maintenance.html", needed=False)
    if sum(len(page.html.encode()) for page in policy.pages) > PAGES_BYTES_MAX:
        raise invalid(path, f"{path}: at most {PAGES_BYTES_MAX} bytes together")


def _check_html(html: str, path: str, *, needed: bool) -> None:
    if needed and not html:
        raise invalid(path, f"{path}: the page is empty")
    if len(html.encode()) > PAGE_BYTES_MAX:
        raise invalid(path, f"{path}: {len(html.encode())} bytes are too many; at most {PAGE_BYTES_MAX}")


def _check_bounds(policy: HttpPolicy, at: str) -> None:
    for name, value, least, most, unit in (
        ("maintenance.retry_after", policy.retry_after_s, 1.0, RETRY_AFTER_S_MAX, "s"),
        ("limits.client_rate", policy.client_rate, 0.001, RATE_MAX, ""),
        ("limits.rate", policy.rate, 0.001, RATE_MAX, ""),
        ("limits.window", policy.window_s, 1.0, WINDOW_S_MAX, "s"),
    ):
        if value and not least <= value <= most:  # also what is no number
            path = f"{at}.{name}"
            raise invalid(
                path, f"{path}: {value:g} is out of range: {least:g}{unit} to {most:g}{unit}, or leave it out"
            )
    if len(policy.allow) > ALLOW_MAX:
        raise invalid(f"{at}.maintenance.allow", f"{at}.maintenance.allow: at most {ALLOW_MAX}")
    for index, text in enumerate(policy.allow):
        path = f"{at}.maintenance.allow[{index}]"
        try:
            ipaddress.ip_network(text)
        except ValueError as error:
            raise _not_a_network(path, error) from error


def _not_a_network(path: str, error: ValueError) -> LocciError:
    return invalid(path, f"{path}: {error}; give addresses or networks, as in 192.0.2.0/24")
