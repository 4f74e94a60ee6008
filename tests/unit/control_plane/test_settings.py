"""What settings promise one another."""

from __future__ import annotations

from control_plane.settings import ServerSettings
from fleet.rpc.link import RECONNECT


def test_nobody_is_judged_before_everybody_could_come_back() -> None:
    grace_s = ServerSettings.model_fields["restart_grace_s"].default
    assert grace_s > RECONNECT.cap_s
