"""What every resource of a snapshot must be: of the kind and of the name that it says."""

from __future__ import annotations

from typing import Any

from fleet.errors import invalid
from locci.v1 import resource_pb2


def body_of(name: str, resource: resource_pb2.Resource, kind: str, called: str) -> Any:
    """The resource's body. Raises INVALID_ARGUMENT when it is of another kind or about something else."""
    if resource.WhichOneof("body") != kind:
        raise invalid("body", f"body: {name} holds {resource.WhichOneof('body') or 'nothing'} instead of a {kind}")
    if name.partition("/")[2] != called:
        raise invalid("body", f"body: {name} holds the {kind} {called!r}")
    return getattr(resource, kind)
