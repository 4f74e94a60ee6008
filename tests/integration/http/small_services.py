"""Services in memory that do what a test of the listener needs: wait, fail, stream, remember what they got."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf import empty_pb2

from control_plane.services.caller import Caller
from control_plane.services.registry import Service
from fleet.errors import Code, LocciError, not_found
from locci.v1 import enrolment_pb2, event_pb2, region_pb2

TOKEN = "locciop1.good.secret"


async def authenticate(token: str) -> Caller:
    """Knows one token; says too much about every other."""
    if token == TOKEN:
        return Caller("operators/good", "admin")
    raise LocciError(Code.UNAUTHENTICATED, "TOKEN_UNKNOWN", f"{token} was not found in the table of tokens")


class Regions:
    """Remembers its last request; some names do something else."""

    def __init__(self) -> None:
        self.last: Any = None
        self.caller: Caller | None = None

    async def list_regions(self, request: Any, caller: Caller) -> region_pb2.ListRegionsResponse:
        self.last, self.caller = request, caller
        count = request.page_size
        regions = [region_pb2.Region(name=f"regions/r{i}", display_name="x" * 50) for i in range(count)]
        return region_pb2.ListRegionsResponse(regions=regions)

    async def get_region(self, request: Any, caller: Caller) -> region_pb2.Region:
        match request.name:
            case "regions/slow":
                await asyncio.Event().wait()
            case "regions/broken":
                raise RuntimeError("a secret of the inside")
            case "regions/none":
                raise not_found(request.name)
        return region_pb2.Region(name=request.name)

    async def create_region(self, request: Any, caller: Caller) -> region_pb2.Region:
        self.last = request
        return region_pb2.Region(name=f"regions/{request.region_id}", latitude=request.region.latitude)

    async def update_region(self, request: Any, caller: Caller) -> region_pb2.Region:
        self.last = request
        answer: region_pb2.Region = request.region
        return answer

    async def delete_region(self, request: Any, caller: Caller) -> empty_pb2.Empty:
        return empty_pb2.Empty()


class Events:
    """Three events after the one asked for, then by subject: an end, an error, or silence."""

    async def list_events(self, request: Any, caller: Caller) -> event_pb2.ListEventsResponse:
        return event_pb2.ListEventsResponse()

    async def get_event(self, request: Any, caller: Caller) -> event_pb2.Event:
        return event_pb2.Event(name=request.name)

    async def watch_events(self, request: Any, caller: Caller) -> AsyncIterator[event_pb2.Event]:
        if request.subject == "apps/none":
            raise not_found("apps/none")
        for sequence in range(request.after_sequence + 1, request.after_sequence + 4):
            yield event_pb2.Event(name=f"events/{sequence}", message="line\nbreak")
        if request.subject == "apps/silent":
            await asyncio.Event().wait()
        if request.subject == "apps/broken":
            await asyncio.sleep(0.3)
            raise RuntimeError("a secret of the inside")


class Enrolment:
    """Refuses every token."""

    async def get_certificate_authority(self, request: Any, caller: Caller) -> enrolment_pb2.CertificateAuthority:
        return enrolment_pb2.CertificateAuthority(trust_domain=caller.principal)

    async def enrol(self, request: Any, caller: Caller) -> enrolment_pb2.EnrolResponse:
        raise LocciError(Code.UNAUTHENTICATED, "TOKEN_REFUSED", "the join token is not valid")

    async def recover(self, request: Any, caller: Caller) -> enrolment_pb2.RenewResponse:
        raise LocciError(Code.UNAUTHENTICATED, "CERTIFICATE_UNKNOWN", "the certificate is not of this fleet")


def services(regions: Regions) -> list[Service]:
    """All of them."""
    return [
        Service(region_pb2.DESCRIPTOR.services_by_name["RegionService"], regions, "operator"),
        Service(event_pb2.DESCRIPTOR.services_by_name["EventService"], Events(), "operator"),
        Service(enrolment_pb2.DESCRIPTOR.services_by_name["EnrolmentService"], Enrolment(), "public"),
    ]
