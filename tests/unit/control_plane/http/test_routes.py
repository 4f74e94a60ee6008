from __future__ import annotations

import pytest

from control_plane.http import routes
from control_plane.http.problems import HttpError
from control_plane.services.registry import Service
from locci.v1 import region_pb2
from tests.unit.control_plane.http.contract_services import ALL

TABLE = routes.build(ALL)


@pytest.mark.parametrize(
    ("method", "path", "label"),
    [
        ("GET", "/v1/apps", "AppService/ListApps"),
        ("HEAD", "/v1/apps", "AppService/ListApps"),
        ("POST", "/v1/apps:apply", "AppService/ApplyApp"),
        ("GET", "/v1/apps/a", "AppService/GetApp"),
        ("GET", "/v1/events:watch", "EventService/WatchEvents"),
        ("GET", "/v1/apps/-/replicas", "ReplicaService/ListReplicas"),
        ("POST", "/v1/nodes:enrol", "EnrolmentService/Enrol"),
        ("GET", "/v1/apps/a/rollouts/1:watch", "RolloutService/WatchRollout"),
    ],
)
def test_where_a_path_leads(method: str, path: str, label: str) -> None:
    assert TABLE.match(method, path).route.label == label


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/", "//v1/apps", "/v1/apps/", "/v1/apps/a/b", "/v1/apps:nope", "*"])
def test_a_path_that_leads_nowhere(path: str) -> None:
    with pytest.raises(HttpError) as caught:
        TABLE.match("GET", path)
    assert caught.value.status == 404


def test_a_method_that_is_not_offered() -> None:
    with pytest.raises(HttpError) as caught:
        TABLE.match("PUT", "/v1/apps/a")
    assert caught.value.status == 405
    assert caught.value.headers["Allow"] == "DELETE, GET, HEAD"


def test_nodes_services_and_methods_without_a_rule_are_not_exposed() -> None:
    labels = {route.label for route in TABLE.routes}
    assert "EnrolmentService/Enrol" in labels
    assert not {"AgentService/Sync", "EnrolmentService/Renew"} & labels


def test_a_missing_method_is_found_at_start() -> None:
    service = Service(region_pb2.DESCRIPTOR.services_by_name["RegionService"], object(), "operator")
    with pytest.raises(TypeError, match="list_regions"):
        routes.build([service])


def test_names_of_methods() -> None:
    assert routes.snake_case("GetCertificateAuthority") == "get_certificate_authority"
