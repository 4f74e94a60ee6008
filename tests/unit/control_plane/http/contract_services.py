"""The contract's services with implementations that do nothing."""

from __future__ import annotations

from google.protobuf.descriptor import ServiceDescriptor

from control_plane.services.registry import Access, Service
from locci.v1 import (
    agent_pb2,
    app_pb2,
    drill_pb2,
    enrolment_pb2,
    event_pb2,
    node_pb2,
    operation_pb2,
    region_pb2,
    release_pb2,
    replica_pb2,
    routing_pb2,
    watch_pb2,
    zone_pb2,
)


class Anything:
    """Has every method."""

    def __getattr__(self, name: str) -> str:
        return name


def service(descriptor: ServiceDescriptor, access: Access = "operator") -> Service:
    return Service(descriptor, Anything(), access)


ALL = [
    *(
        service(found)
        for module in (
            app_pb2,
            drill_pb2,
            event_pb2,
            node_pb2,
            operation_pb2,
            region_pb2,
            release_pb2,
            replica_pb2,
            routing_pb2,
            watch_pb2,
            zone_pb2,
        )
        for found in module.DESCRIPTOR.services_by_name.values()
    ),
    service(enrolment_pb2.DESCRIPTOR.services_by_name["JoinTokenService"]),
    service(enrolment_pb2.DESCRIPTOR.services_by_name["EnrolmentService"], "public"),
    service(agent_pb2.DESCRIPTOR.services_by_name["AgentService"], "node"),
]
