"""The wire contract itself: commented throughout, addressed over HTTP, and never broken by accident."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from google.api import annotations_pb2
from google.protobuf import descriptor_pb2, symbol_database

from locci.v1 import (
    agent_pb2,
    app_pb2,
    drill_pb2,
    edge_pb2,
    enrolment_pb2,
    event_pb2,
    region_pb2,
    release_pb2,
    replica_pb2,
    routing_pb2,
    zone_pb2,
)

PROTO = Path(__file__).resolve().parents[2] / "proto" / "locci" / "v1"
FILES = sorted(PROTO.glob("*.proto"))
_DECLARATION = re.compile(
    r"^\s*(?:message|enum|service|rpc|oneof)\s+\w+|^\s*(?:repeated |map<.*> )?[\w.<>, ]+ \w+ = \d+"
)

OPERATOR_MODULES = (app_pb2, drill_pb2, event_pb2, region_pb2, release_pb2, replica_pb2, routing_pb2, zone_pb2)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_declaration_has_a_comment(path: Path) -> None:
    lines = path.read_text().splitlines()
    bare = [
        f"{path.name}:{number + 1}: {line.strip()}"
        for number, line in enumerate(lines)
        if _DECLARATION.match(line) and not lines[number - 1].strip().startswith("//")
    ]
    assert not bare


@pytest.mark.parametrize("module", OPERATOR_MODULES, ids=lambda module: module.__name__.rsplit(".", 1)[-1])
def test_every_operator_method_has_an_http_path(module: object) -> None:
    for service in module.DESCRIPTOR.services_by_name.values():  # type: ignore[attr-defined]
        for method in service.methods:
            rule = method.GetOptions().Extensions[annotations_pb2.http]
            assert rule.WhichOneof("pattern"), method.full_name


def test_nodes_and_edges_have_no_http_path() -> None:
    for module in (agent_pb2, edge_pb2):
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                assert not method.GetOptions().HasExtension(annotations_pb2.http)
    renew = enrolment_pb2.DESCRIPTOR.services_by_name["EnrolmentService"].methods_by_name["Renew"]
    assert not renew.GetOptions().HasExtension(annotations_pb2.http)


def test_enums_begin_with_unspecified() -> None:
    symbol_database.Default()
    for path in FILES:
        module = __import__(f"locci.v1.{path.stem}_pb2", fromlist=["DESCRIPTOR"])
        file = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        enums = [*file.enum_type, *(nested for message in file.message_type for nested in message.enum_type)]
        for enum in enums:
            assert enum.value[0].number == 0, enum.name
            assert enum.value[0].name.endswith("_UNSPECIFIED"), enum.name
