"""Planned changes as the API shows them."""

from __future__ import annotations

from typing import Final

from control_plane.core.preview import Change
from locci.v1 import app_pb2

_ACTIONS: Final = {
    "start": app_pb2.PlannedChange.ACTION_START,
    "stop": app_pb2.PlannedChange.ACTION_STOP,
    "replace": app_pb2.PlannedChange.ACTION_REPLACE,
    "unplaceable": app_pb2.PlannedChange.ACTION_UNPLACEABLE,
    "move": app_pb2.PlannedChange.ACTION_MOVE,
}


def planned(app: str, change: Change) -> app_pb2.PlannedChange:
    """A change of one replica of an app."""
    return app_pb2.PlannedChange(
        action=_ACTIONS[change.action],
        replica=f"apps/{app}/replicas/{change.ordinal}-{change.release}",
        node=f"nodes/{change.node}" if change.node else "",
        reason=change.reason,
        from_node=f"nodes/{change.origin}" if change.origin else "",
    )
