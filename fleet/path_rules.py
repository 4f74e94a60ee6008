"""Rules over the paths of requests, without regular expressions: what they fit, and where they lead.

The control plane checks them, the edge goes by them; both must mean the same. Paths are compared byte for byte, as
clients send them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

PLACEHOLDERS: Final = (b"{host}", b"{path}", b"{rest}", b"{query}")
STEPS_MAX: Final = 10
"""A chain of redirects that is longer is taken for endless; browsers give up after some 20."""
_PLACEHOLDER: Final = re.compile(rb"\{[^{}]*\}")
_LITERAL: Final = re.compile(rb"[!$&'()*+,./0-9:;=?@A-Za-z_~%#\[\]-]*")
_AUTHORITY: Final = re.compile(rb"https?://((?:\{host\}|[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?)")


@dataclass(frozen=True, slots=True)
class PathRule:
    """What fits `path`, or lies at or below `prefix`, leads to `template`; exactly one of the two is set."""

    path: bytes
    prefix: bytes
    hosts: frozenset[bytes]
    """Only for these; empty for all."""
    template: bytes

    def rest(self, host: bytes, path: bytes) -> bytes | None:
        """What comes behind the prefix; None when the rule does not fit. `host` is lower case and has no port."""
        if self.hosts and host not in self.hosts:
            return None
        if self.path:
            return b"" if path == self.path else None
        prefix = self.prefix
        if not path.startswith(prefix):
            return None
        rest = path[len(prefix) :]
        return rest if not rest or prefix.endswith(b"/") or rest.startswith(b"/") else None

    def leads_to(self, host: bytes, target: bytes) -> bytes | None:
        """Where a request for `target` at `host` (which may have a port) goes; None when the rule does not fit.

        A path that results has one slash at its start: with two it would be the name of another host.
        """
        path, mark, query = target.partition(b"?")
        rest = self.rest(without_port(host), path)
        if rest is None:
            return None
        asked = mark + query
        result = self.template
        if b"{" in result:
            values = {b"{host}": host, b"{path}": path, b"{rest}": rest, b"{query}": asked}
            result = _PLACEHOLDER.sub(lambda match: values[match[0]], result)
        if mark and b"?" not in self.template and b"{query}" not in self.template:
            before, fragment, behind = result.partition(b"#")
            result = before + asked + fragment + behind
        return b"/" + result.lstrip(b"/") if result.startswith(b"//") else result


def without_port(host: bytes) -> bytes:
    """The name or address of a host."""
    return host if host.endswith(b"]") or b":" not in host else host.rpartition(b":")[0]


def first(rules: Sequence[PathRule], host: bytes, target: bytes) -> tuple[PathRule, bytes] | None:
    """The first rule that fits, and where it leads."""
    for rule in rules:
        found = rule.leads_to(host, target)
        if found is not None:
            return rule, found
    return None


def problem(rule: PathRule, *, urls: bool) -> str:
    """What is wrong with a rule by itself, in words; empty when nothing is. Without `urls` it must lead to a path."""
    if bool(rule.path) == bool(rule.prefix):
        return "give either path or prefix"
    place = rule.path or rule.prefix
    if not place.startswith(b"/") or b"?" in place or b"#" in place or not _LITERAL.fullmatch(place):
        return f"{place.decode('latin-1')!r} is not a path; it begins with '/' and has no query"
    template = rule.template
    for name in _PLACEHOLDER.findall(template):
        if name not in PLACEHOLDERS:
            return f"{name.decode('latin-1')} is not known; there are {b', '.join(PLACEHOLDERS).decode()}"
    if not _LITERAL.fullmatch(_PLACEHOLDER.sub(b"", template)):
        return "a character must be percent-encoded"
    if template.startswith((b"/", b"{path}")):
        return "" if urls or b"#" not in template else "a path that replicas are asked for has no fragment"
    if not urls:
        return "it must be a path that begins with '/' or {path}"
    return _problem_of_url(rule)


def _problem_of_url(rule: PathRule) -> str:
    match = _AUTHORITY.match(rule.template)
    if match is None:
        return "it must be a path that begins with '/', or a URL of http or https"
    behind = rule.template[match.end() :]
    if behind.startswith(b"{rest}") and rule.prefix and not rule.prefix.endswith(b"/"):
        return ""
    if behind.startswith((b"/", b"?", b"#", b"{path}", b"{query}")) or not behind:
        return ""
    return "behind the host must come '/', or {path}: what clients send could become a part of the host's name"


def endless(rules: Sequence[PathRule], hosts: Sequence[bytes]) -> tuple[int, bytes] | None:
    """A rule by which clients are sent on and on, as its index and a URL's host and path; None when there is none."""
    named = {name for rule in rules for name in rule.hosts}
    for index, rule in enumerate(rules):
        starts = [rule.path] if rule.path else [rule.prefix, rule.prefix.rstrip(b"/") + b"/x"]
        for host in [host for host in hosts if host in named or host == hosts[0]]:  # the others fare as the first
            for start in starts:
                found = first(rules, host, start)
                if found is not None and found[0] is rule and _never_ends(rules, hosts, host, start):
                    return index, host + start
    return None


def _never_ends(rules: Sequence[PathRule], hosts: Sequence[bytes], host: bytes, target: bytes) -> bool:
    seen = {(host, target)}
    for _ in range(STEPS_MAX):
        found = first(rules, host, target)
        if found is None:
            return False
        location = found[1].partition(b"#")[0]
        if not location.startswith(b"/"):
            authority, slash, path = location.partition(b"://")[2].partition(b"/")
            host, mark, query = authority.partition(b"?")
            location = (slash + path if slash else b"/") + mark + query
            if host.lower() not in hosts:
                return False
            host = host.lower()
        target = location
        if (host, target) in seen:
            return True
        seen.add((host, target))
    return True
