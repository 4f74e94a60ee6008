"""The list of services from which both the gRPC handlers and the JSON API are derived."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from google.protobuf.descriptor import ServiceDescriptor

Access = Literal["public", "operator", "node"]


@dataclass(frozen=True, slots=True)
class Service:
    """One service of the contract and what implements it.

    `implementation` has one async method per rpc, named in snake_case, that takes
    `(request, caller)`; a server-streaming rpc is an async generator. `access` says who may
    call it: anyone (`public`), a bearer token's owner (`operator`), or a node by its client
    certificate, on the node port only (`node`).
    """

    descriptor: ServiceDescriptor
    implementation: Any
    access: Access
