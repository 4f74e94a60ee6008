"""Problem documents, server-sent events, comments, schemas, OpenAPI: what comes out."""

from __future__ import annotations

import json
import re

import pytest

from control_plane.http import comments, openapi, problems, streams
from control_plane.http.dispatch import accepts_gzip
from control_plane.http.schema import Schemas
from fleet import contract
from fleet.errors import Code, LocciError, invalid
from locci.v1 import event_pb2, manifest_pb2, node_pb2, release_pb2
from tests.unit.control_plane.http.contract_services import ALL


def test_a_problem_has_what_programs_and_people_need() -> None:
    document = json.loads(problems.encode(invalid("manifest.name", "manifest.name: no"), "/v1/apps:apply", "r1"))
    assert document == {
        "type": "tag:locci.dev,2026:problem/invalid-field",
        "title": "Invalid argument",
        "status": 400,
        "detail": "manifest.name: no",
        "instance": "/v1/apps:apply",
        "code": "INVALID_ARGUMENT",
        "reason": "INVALID_FIELD",
        "request_id": "r1",
        "field": "manifest.name",
        "errors": [{"field": "manifest.name", "detail": "manifest.name: no"}],
    }


def test_a_problem_of_broken_text_is_still_sent() -> None:
    json.loads(problems.encode(LocciError(Code.INTERNAL, "R", "half \ud800"), "/", "r"))


def test_events_carry_their_sequence_and_changes_their_revision() -> None:
    event = streams.encode(event_pb2.Event(name="events/7", message="line\nbreak")).decode()
    assert event.startswith("id: 7\ndata: {")
    assert event.count("\n") == 3
    assert streams.encode(release_pb2.Rollout(name="apps/a/rollouts/1", revision=9)).startswith(b"id: 9\n")
    assert streams.encode(node_pb2.Node(name="nodes/a")).startswith(b"data: ")


@pytest.mark.parametrize(("header", "sequence"), [("12", 12), ("", 3), ("x", 3), ("9" * 40, 2**64 - 1)])
def test_a_stream_goes_on_after_the_last_event(header: str, sequence: int) -> None:
    request = event_pb2.WatchEventsRequest(after_sequence=3)
    streams.resume(request, header)
    assert request.after_sequence == sequence


@pytest.mark.parametrize(
    ("header", "taken"),
    [("gzip", True), ("br, gzip;q=0.5", True), ("*", True), ("gzip;q=0", False), ("br", False), ("", False)],
)
def test_who_takes_gzip(header: str, taken: bool) -> None:
    assert accepts_gzip(header) is taken


def test_comments_are_those_of_the_contract() -> None:
    found = comments.load()
    assert found["locci.v1.Port.container_port"] == "The port inside the container, 1 to 65535."
    assert found["locci.v1.NodeRole.NODE_ROLE_DNS"] == "Answers DNS."
    assert found["locci.v1.PlannedChange.Action.ACTION_START"] == "A replica starts."
    assert found["locci.v1.AppService.ApplyApp"].startswith("Pins the image")


def test_every_message_and_field_of_the_api_is_described() -> None:
    document = openapi.build_document(ALL)
    for name, schema in document["components"]["schemas"].items():
        assert schema["description"], name
        for field, about in schema.get("properties", {}).items():
            assert about["description"], f"{name}.{field}"


def test_the_document_holds_together() -> None:
    document = openapi.build_document(ALL)
    assert document["openapi"] == "3.1.0"
    text = json.dumps(document)
    for name in set(re.findall(r'"#/components/schemas/([^"]+)"', text)):
        assert document["components"]["schemas"][name]
    operations = [op["operationId"] for item in document["paths"].values() for op in item.values()]
    assert len(operations) == len(set(operations))
    for path, item in document["paths"].items():
        for operation in item.values():
            named = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
            assert named == set(re.findall(r"\{(\w+)\}", path)), path
    watch = document["paths"]["/v1/events:watch"]["get"]
    assert list(watch["responses"]["200"]["content"]) == ["text/event-stream"]
    assert document["paths"]["/v1/ca"]["get"]["security"] == []
    assert "/v1/apps/{app}/releases/{release}" in document["paths"]


def test_the_manifests_schema_is_closed() -> None:
    schemas = Schemas(comments.load(), "#/$defs/", closed=True)
    schema = schemas.message(contract.descriptor_of(manifest_pb2.AppManifest))
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["name", "image"]
    assert schemas.definitions["Port"]["required"] == ["container_port"]
