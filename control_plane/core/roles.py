"""Who may call what: a role for each method, and the apps that a token is limited to. What is not listed is for
administrators alone."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from typing import Final

ROLES: Final = ("viewer", "deployer", "operator", "admin")
"""Each may do all that those before it may."""

_READS: Final = re.compile(r"(Get|List|Watch|Wait|Export|Verify|Plan)[A-Z]")
_APP_SERVICES: Final = frozenset(
    {"AppService", "ReleaseService", "RolloutService", "PurgeService", "LogService", "ExecService"}
)
"""What a limited token may change. Elsewhere a request may carry a name that the service does not read, so that an
app's name in it proves nothing."""
_ADMIN_SERVICES: Final = frozenset({"OperatorTokenService", "AuditService", "AuthorityService", "BackupService"})
_LEAST: Final = {
    "AppService": "deployer",
    "ReleaseService": "deployer",
    "RolloutService": "deployer",
    "OperationService": "deployer",
    "RegionService": "operator",
    "NodeService": "operator",
    "JoinTokenService": "operator",
    "ReplicaService": "operator",
    "EventService": "operator",
    "DrillService": "operator",
    "ZoneService": "operator",
    "RecordSetService": "operator",
    "RoutingService": "operator",
    "RoutingOverrideService": "operator",
    "CertificateService": "operator",
    "SecretService": "operator",
    "RegistryService": "operator",
    "PlacementService": "operator",
    "UpgradeService": "operator",
    "PurgeService": "deployer",
    "WatchService": "viewer",
    "LogService": "viewer",
    "ExecService": "operator",
}
"""The least role for the methods of a service that change something."""


def reads_only(method: str) -> bool:
    """Whether a method by its name, as in `ListApps`, changes nothing."""
    return _READS.match(method) is not None


def may_see(scopes: Sequence[str], resource: str) -> bool:
    """Whether a token that is limited to `scopes` is shown a resource. What belongs to no app is shown to all."""
    app = re.match(r"apps/[^/]+", resource)
    return not scopes or app is None or any(fnmatch.fnmatchcase(app.group(), scope) for scope in scopes)


def least_role(service: str, method: str) -> str:
    """The least role that may call a method, as in `AppService` and `ApplyApp`."""
    if service in _ADMIN_SERVICES or service not in _LEAST:
        return "admin"
    return "viewer" if reads_only(method) else _LEAST[service]


def refusal(role: str, scopes: Sequence[str], service: str, method: str, resource: str) -> str:
    """Why a call is not allowed, in words; empty when it is. `resource` is what the request names, or empty."""
    least = least_role(service, method)
    if role not in ROLES or ROLES.index(role) < ROLES.index(least):
        return f"{service}.{method} needs the role {least}; this token has the role {role}"
    if not scopes:
        return ""
    app = re.match(r"apps/[^/]+", resource) if reads_only(method) or service in _APP_SERVICES else None
    if app is not None and app.group() != "apps/-":
        if may_see(scopes, app.group()):
            return ""
        return f"this token is limited to {', '.join(scopes)}; {app.group()} is not among them"
    if reads_only(method):
        return ""
    return f"this token is limited to {', '.join(scopes)}; {service}.{method} is about something else"
