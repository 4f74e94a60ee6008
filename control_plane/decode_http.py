"""What a manifest asks of edges, from the wire and back."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.duration_pb2 import Duration

from control_plane.core.http_policy import Fields, HeaderRules, HttpPolicy, Page, Rule
from locci.v1 import manifest_pb2


def http_policy(message: manifest_pb2.HttpPolicy) -> HttpPolicy:
    """The policy as it was sent."""
    maintenance, limits = message.maintenance, message.limits
    return HttpPolicy(
        request_headers=_header_rules(message.request_headers),
        response_headers=_header_rules(message.response_headers),
        redirects=tuple(
            Rule(rule.path, rule.prefix, tuple(rule.hostnames), rule.location, rule.status)
            for rule in message.redirects
        ),
        rewrites=tuple(Rule(rule.path, rule.prefix, tuple(rule.hostnames), rule.target) for rule in message.rewrites),
        pages=tuple(Page(tuple(page.statuses), page.html, page.replace_app) for page in message.error_pages),
        maintenance_html=maintenance.html,
        retry_after_s=_seconds(maintenance.retry_after),
        allow=tuple(maintenance.allow),
        client_rate=limits.client_rate,
        rate=limits.rate,
        window_s=_seconds(limits.window),
        body_bytes_max=limits.max_body_bytes,
        in_progress_max=limits.max_in_progress,
    )


def http_policy_message(policy: HttpPolicy) -> manifest_pb2.HttpPolicy | None:
    """What edges are told; None where nothing is wanted."""
    if policy == HttpPolicy():
        return None
    message = manifest_pb2.HttpPolicy(
        redirects=[
            manifest_pb2.Redirect(
                path=rule.path, prefix=rule.prefix, hostnames=rule.hostnames, location=rule.template, status=rule.status
            )
            for rule in policy.redirects
        ],
        rewrites=[
            manifest_pb2.Rewrite(path=rule.path, prefix=rule.prefix, hostnames=rule.hostnames, target=rule.template)
            for rule in policy.rewrites
        ],
        error_pages=[
            manifest_pb2.ErrorPage(statuses=page.statuses, html=page.html, replace_app=page.replace_app)
            for page in policy.pages
        ],
        maintenance=manifest_pb2.MaintenancePolicy(html=policy.maintenance_html, allow=policy.allow),
        limits=manifest_pb2.TrafficLimits(
            client_rate=policy.client_rate,
            rate=policy.rate,
            max_body_bytes=policy.body_bytes_max,
            max_in_progress=policy.in_progress_max,
        ),
    )
    _put_header_rules(message.request_headers, policy.request_headers)
    _put_header_rules(message.response_headers, policy.response_headers)
    if policy.retry_after_s:
        message.maintenance.retry_after.FromMicroseconds(int(policy.retry_after_s * 1e6))
    if policy.window_s:
        message.limits.window.FromMicroseconds(int(policy.window_s * 1e6))
    return message


def _seconds(value: Duration) -> float:
    return value.seconds + value.nanos / 1e9


def _header_rules(message: manifest_pb2.HeaderRules) -> HeaderRules:
    return HeaderRules(tuple(message.remove), _fields(message.set), _fields(message.add))


def _fields(fields: Iterable[manifest_pb2.HeaderField]) -> Fields:
    return tuple((field.name, field.value) for field in fields)


def _put_header_rules(message: manifest_pb2.HeaderRules, rules: HeaderRules) -> None:
    message.remove.extend(rules.remove)
    message.set.extend(manifest_pb2.HeaderField(name=name, value=value) for name, value in rules.set_)
    message.add.extend(manifest_pb2.HeaderField(name=name, value=value) for name, value in rules.add)
