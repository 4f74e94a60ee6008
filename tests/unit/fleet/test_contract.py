"""JSON into messages, strictly."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from fleet import contract
from fleet.contract import PROBLEMS_MAX, Problem
from fleet.errors import Code, LocciError
from locci.v1 import app_pb2, enrolment_pb2, manifest_pb2, node_pb2

MANIFEST = contract.descriptor_of(manifest_pb2.AppManifest)


def problems(value: object) -> list[str]:
    return [problem.text() for problem in contract.json_problems(value, MANIFEST, "manifest")]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"imge": "x"}, "manifest.imge: unknown field; did you mean 'image'?"),
        (
            {"ports": [{"containerprt": 1}]},
            "manifest.ports[0].containerprt: unknown field; did you mean 'container_port'?",
        ),
        ({"name": 1}, "manifest.name: must be a string, not the number 1; put it in quotes"),
        ({"name": ["a"]}, "manifest.name: must be a string, not a list"),
        ({"env": {"PORT": 8080}}, "manifest.env[PORT]: must be a string, not the number 8080; put it in quotes"),
        ({"ports": {}}, "manifest.ports: must be a list, not an object"),
        ({"ports": [None]}, "manifest.ports[0]: must be an object, not null"),
        ({"ports": [{"container_port": -1}]}, "-1 is out of range: use 0 to 4294967295"),
        ({"ports": [{"container_port": 10**400}]}, "the number given is out of range"),
        ({"ports": [{"container_port": 1.5}]}, "must be a whole number, not the number 1.5"),
        ({"ports": [{"container_port": True}]}, "must be a whole number, not true"),
        ({"stop_timeout": 5}, '5 is not a duration: write seconds with an "s"'),
        ({"stop_timeout": "1m"}, "'1m' is not a duration"),
        ({"routing": {"policy": "nearest"}}, "'nearest' is not known; did you mean STEERING_POLICY_NEAREST?"),
        ({"kind": 7}, "7 is not known; use one of APP_KIND_UNSPECIFIED"),
        ({"readiness": {"http": {}, "tcp": {}}}, "manifest.readiness.tcp: is given together with 'http'"),
        ({"stop_timeout": "1s", "stopTimeout": "1s"}, "is given together with 'stop_timeout'"),
        ({"cache": {"disabled": "yes"}}, "must be true or false, not the text 'yes'"),
        ({"name": "\ud800"}, "is no valid text"),
        ([], "manifest: must be an object, not a list"),
    ],
)
def test_problems_say_where_and_what_to_do(value: object, text: str) -> None:
    (found,) = problems(value)
    assert text in found


def test_every_problem_is_found_up_to_a_bound() -> None:
    assert len(problems({"ports": 1, "name": 2, "imge": 3})) == 3
    assert len(problems({f"field_{i}": 1 for i in range(100)})) == PROBLEMS_MAX


def test_what_is_read_equals_what_was_meant() -> None:
    value = {
        "name": "a",
        "ports": [{"containerPort": "80"}, {"container_port": 81.0}],
        "env": {"A": "b"},
        "liveness": None,
        "stop_timeout": "1.5s",
        "resources": {"memory_bytes": 2**40},
    }
    message = contract.read_json(value, manifest_pb2.AppManifest())
    assert [port.container_port for port in message.ports] == [80, 81]
    assert message.stop_timeout.nanos == 500_000_000
    assert message.resources.memory_bytes == 2**40
    assert not message.HasField("liveness")


def test_an_error_names_its_first_field() -> None:
    with pytest.raises(LocciError) as caught:
        contract.read_json({"ports": [{"container_port": "x"}]}, manifest_pb2.AppManifest(), "manifest")
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert caught.value.field == "manifest.ports[0].container_port"


def test_answers_hold_every_field_in_the_order_of_the_contract() -> None:
    value = contract.write_json(app_pb2.App(revision=1, name="apps/a", manifest={"env": {"A": "b"}}))
    assert list(value)[:3] == ["name", "manifest", "latest_release"]
    assert value["healthy_replicas"] == 0
    assert value["revision"] == "1"
    assert value["manifest"]["env"] == {"A": "b"}
    assert "create_time" not in value


def test_required_fields_that_are_missing() -> None:
    request = app_pb2.ApplyAppRequest()
    assert contract.missing_required(request) == [Problem("manifest", "is required", "REQUIRED_FIELD")]
    request.manifest.ports.add()
    assert [problem.path for problem in contract.missing_required(request)] == [
        "manifest.name",
        "manifest.image",
        "manifest.ports[0].container_port",
    ]


def test_what_only_answers_may_say_is_dropped() -> None:
    token = enrolment_pb2.JoinToken(region="regions/eu", token="secret", used_by="nodes/a")
    request = enrolment_pb2.CreateJoinTokenRequest(join_token=token)
    contract.clear_output_only(request)
    assert request.join_token == enrolment_pb2.JoinToken(region="regions/eu")


def test_a_path_sets_a_field_of_a_field() -> None:
    request = node_pb2.UpdateNodeRequest()
    contract.set_path(request, "node.name", "nodes/a")
    assert request.node.name == "nodes/a"


@pytest.mark.parametrize(("name", "found"), [("replcas", "replicas"), ("onRejoin", "on_rejoin"), ("zzz", None)])
def test_the_nearest_name(name: str, found: str | None) -> None:
    known = list(contract.descriptor_of(manifest_pb2.Placement).fields_by_name)
    assert contract.nearest(name, known) == found


def test_a_problem_document_becomes_an_error_again() -> None:
    error = contract.error_of(404, {"code": "NOT_FOUND", "reason": "R", "detail": "d", "metadata": {"name": "apps/x"}})
    assert (error.code, error.reason, error.message) == (Code.NOT_FOUND, "R", "d")
    assert contract.error_of(502, {}).code is Code.INTERNAL


_NAMES = st.sampled_from([*MANIFEST.fields_by_name, "http", "tcp", "container_port", "regions", "interval"]) | st.text(
    max_size=4
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=4),
    max_leaves=12,
)


@given(_JSON)
def test_whatever_comes_is_taken_or_refused_in_words(value: Any) -> None:
    message: manifest_pb2.AppManifest | None
    try:
        message = contract.read_json(value, manifest_pb2.AppManifest(), "manifest")
    except LocciError as error:
        refused = error
        message = None
    if message is None:
        assert refused.code is Code.INVALID_ARGUMENT
        assert refused.message
        return
    again = json.loads(json.dumps(contract.write_json(message)))
    assert json_format.ParseDict(again, manifest_pb2.AppManifest()) == message
