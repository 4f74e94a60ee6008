"""Every method of the contract has its role; scopes limit a token to apps."""

from __future__ import annotations

import pytest

from control_plane import app
from control_plane.core.roles import _ADMIN_SERVICES, _LEAST, ROLES, least_role, reads_only, refusal


@pytest.mark.parametrize(
    ("service", "method", "role"),
    [
        ("AppService", "ListApps", "viewer"),
        ("AppService", "ApplyApp", "deployer"),
        ("RolloutService", "RollbackApp", "deployer"),
        ("NodeService", "CordonNode", "operator"),
        ("RecordSetService", "ExportZone", "viewer"),
        ("RecordSetService", "ImportZone", "operator"),
        ("OperatorTokenService", "ListOperatorTokens", "admin"),
        ("AuditService", "VerifyAudit", "admin"),
        ("NewService", "GetNew", "admin"),
    ],
)
def test_the_least_role(service: str, method: str, role: str) -> None:
    assert least_role(service, method) == role
    for index, given in enumerate(ROLES):
        allowed = refusal(given, (), service, method, "") == ""
        assert allowed == (index >= ROLES.index(role))


def test_no_service_is_forgotten() -> None:
    modules = [module.DESCRIPTOR for module in vars(app).values() if hasattr(module, "DESCRIPTOR")]
    offered = {name for module in modules for name in getattr(module, "services_by_name", {})}
    assert offered - {"EnrolmentService", "AgentService"} <= {*_LEAST, *_ADMIN_SERVICES}


def test_unknown_roles_may_nothing() -> None:
    assert refusal("", (), "AppService", "GetApp", "")
    assert refusal("node", (), "AppService", "GetApp", "")


@pytest.mark.parametrize(
    ("service", "method", "resource", "allowed"),
    [
        ("AppService", "ApplyApp", "apps/shop-web", True),
        ("AppService", "ApplyApp", "apps/blog", False),
        ("RolloutService", "AbortRollout", "apps/shop-web/rollouts/3", True),
        ("RolloutService", "AbortRollout", "apps/shopping", False),
        ("AppService", "GetApp", "apps/blog", False),
        ("AppService", "ListApps", "", True),
        ("ReplicaService", "ListReplicas", "apps/-", True),
        ("NodeService", "CordonNode", "nodes/eu-1", False),
        ("NodeService", "GetNode", "nodes/eu-1", True),
        ("OperatorTokenService", "CreateOperatorToken", "apps/shop-web", False),
        ("RegionService", "CreateRegion", "apps/shop-web", False),
        ("JoinTokenService", "CreateJoinToken", "apps/shop-web", False),
    ],
)
def test_scopes(service: str, method: str, resource: str, allowed: bool) -> None:
    assert (refusal("admin", ("apps/shop-*",), service, method, resource) == "") == allowed


def test_what_reads_only() -> None:
    assert reads_only("ListApps")
    assert not reads_only("Listen")
    assert not reads_only("ApplyApp")
