"""What the edge does with an app's requests and answers, from the wire.

What cannot be used is left out: a control plane checks it before it sends it, and one odd route must not keep the
others from being served.
"""

from __future__ import annotations

import contextlib
import ipaddress
import math
from collections.abc import Iterable
from typing import Final

from agent.edge.core.http_rules import (
    NO_HTTP_RULES,
    RETRY_AFTER_S,
    HeaderEdits,
    HttpRules,
    Limits,
    Maintenance,
    Network,
)
from agent.edge.core.rate_limit import WINDOW_S
from fleet.path_rules import PathRule, problem
from locci.v1 import manifest_pb2

REDIRECT_STATUS: Final = 308


def http_rules(policy: manifest_pb2.HttpPolicy, *, maintenance: bool, workers: int) -> HttpRules:
    """The rules, ready to be gone by."""
    if not maintenance and not policy.ByteSize():
        return NO_HTTP_RULES
    redirects = [
        (_rule(rule.path, rule.prefix, rule.hostnames, rule.location), rule.status or REDIRECT_STATUS)
        for rule in policy.redirects
    ]
    redirects = [(rule, status) for rule, status in redirects if not problem(rule, urls=True)]
    rewrites = [_rule(rule.path, rule.prefix, rule.hostnames, rule.target) for rule in policy.rewrites]
    pages: dict[int, bytes] = {}
    for page in policy.error_pages:
        for status in page.statuses:
            pages.setdefault(status, page.html.encode())
    return HttpRules(
        request=_edits(policy.request_headers),
        response=_edits(policy.response_headers),
        redirects=tuple(rule for rule, _ in redirects),
        statuses=tuple(status for _, status in redirects),
        rewrites=tuple(rule for rule in rewrites if not problem(rule, urls=False)),
        pages=pages,
        replaced=frozenset(s for page in policy.error_pages if page.replace_app for s in page.statuses),
        maintenance=_maintenance(policy.maintenance) if maintenance else None,
        limits=_limits(policy.limits, workers),
    )


def _rule(path: str, prefix: str, hostnames: Iterable[str], template: str) -> PathRule:
    hosts = frozenset(name.lower().encode() for name in hostnames)
    return PathRule(path.encode(), prefix.encode(), hosts, template.encode())


def _edits(rules: manifest_pb2.HeaderRules) -> HeaderEdits | None:
    if not rules.ByteSize():
        return None
    drop = {name.lower().encode() for name in rules.remove} | {field.name.lower().encode() for field in rules.set}
    put = tuple((field.name.encode(), field.value.encode()) for field in (*rules.set, *rules.add))
    return HeaderEdits(frozenset(drop), put)


def _maintenance(policy: manifest_pb2.MaintenancePolicy) -> Maintenance:
    allow: list[Network] = []
    for text in policy.allow:
        with contextlib.suppress(ValueError):
            allow.append(ipaddress.ip_network(text))
    return Maintenance(policy.html.encode(), policy.retry_after.seconds or RETRY_AFTER_S, tuple(allow))


def _limits(limits: manifest_pb2.TrafficLimits, workers: int) -> Limits:
    return Limits(
        limits.client_rate,
        limits.rate,
        limits.window.seconds or WINDOW_S,
        limits.max_body_bytes,
        math.ceil(limits.max_in_progress / workers),
    )
