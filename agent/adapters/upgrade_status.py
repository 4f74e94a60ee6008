"""What became of the version that is wanted on this host: the supervisor writes it, the agent tells it on.

The two meet on disk, because either may be replaced while the other goes on.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.adapters.wanted_version import WantedVersion
from agent.core.upgrade import Stage, Tell
from fleet.files import write_atomic
from locci.v1 import node_pb2

NAME: Final = "upgrade-status.json"
SUPERVISED: Final = "LOCCI_AGENT_SUPERVISOR"
"""Set to the supervisor's process id for the agent that it starts."""
_STATES: Final = {
    Stage.FETCHING: node_pb2.AgentUpgrade.STATE_FETCHING,
    Stage.NOT_INSTALLED: node_pb2.AgentUpgrade.STATE_NOT_INSTALLED,
    Stage.TRIED: node_pb2.AgentUpgrade.STATE_TRIED,
    Stage.STAYED: node_pb2.AgentUpgrade.STATE_STAYED,
    Stage.TAKEN_BACK: node_pb2.AgentUpgrade.STATE_TAKEN_BACK,
}


def is_supervised() -> bool:
    """Whether this program was started by a supervisor, which can exchange it for another version."""
    return os.environ.get(SUPERVISED, "") == str(os.getppid())


@dataclass(frozen=True, slots=True)
class UpgradeStatus:
    """`upgrade-status.json` in the agent's state directory."""

    folder: Path

    def tell(self, said: Tell) -> None:
        """Keeps what the supervisor says last. Raises OSError."""
        content = {"version": said.version, "key": said.key, "stage": said.stage.value, "reason": said.reason}
        write_atomic(self.folder / NAME, json.dumps(content).encode())

    def read(self) -> node_pb2.AgentUpgrade:
        """What the control plane is told of the newest request; empty when nobody wants any version.

        What the supervisor said of an earlier request says nothing of this one.
        """
        wanted = WantedVersion(self.folder)
        newest = wanted.read()
        if newest is None:
            return node_pb2.AgentUpgrade()
        version, key = newest
        told_version, request = wanted.told()
        result = node_pb2.AgentUpgrade(version=version, state=node_pb2.AgentUpgrade.STATE_WANTED)
        result.request = request if told_version == version else ""
        try:
            content = json.loads((self.folder / NAME).read_text())
            if content["key"] == key:
                result.state, result.reason = _STATES[Stage(content["stage"])], str(content["reason"])
        except (OSError, ValueError, KeyError, TypeError):
            # Not written so far, or damaged: then it is known to be wanted, and no more.
            pass
        return result
