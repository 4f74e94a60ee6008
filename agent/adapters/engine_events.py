"""What happens to this node's containers, as the engine tells it; and whether the engine answers at all."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from agent.adapters.containers import LABEL_NODE, LABEL_SANDBOX, identity_of
from agent.adapters.docker_client import CALL_TIMEOUT_S, Client
from agent.adapters.engine_errors import explain
from agent.core.messages import (
    ContainerDied,
    ContainerRemoved,
    EngineChanged,
    EngineConnected,
    EngineLost,
    Event,
    SandboxLost,
)
from fleet.backoff import Backoff

_RECONNECT: Final = Backoff(base_s=0.1, cap_s=5.0)


class EngineEvents:
    """A thread that listens as long as the program runs. `post` is called in that thread."""

    def __init__(self, base_url: str, node: str, post: Callable[[Event], None], rng: random.Random):
        self._base_url = base_url
        self._node = node
        self._post = post
        self._rng = rng
        self._closed = threading.Event()
        self.docker_version = ""
        """Version of the engine; empty while it cannot be reached."""
        self.data_root: Path | None = None
        """Where the engine keeps images and containers; None until it was reached."""

    def start(self) -> None:
        """Begins to listen."""
        threading.Thread(target=self._run, name="engine-events", daemon=True).start()

    def close(self) -> None:
        """Posts nothing any more."""
        self._closed.set()

    def _run(self) -> None:
        attempt = 0
        while not self._closed.is_set():
            try:
                with Client(base_url=self._base_url, version="auto", timeout=CALL_TIMEOUT_S) as client:
                    self._listen(client)
                reason = "Docker Engine closed its stream of events"
            except Exception as error:
                reason = explain(error, self._base_url).reason
            attempt = 0 if self.docker_version else attempt + 1
            self.docker_version = ""
            self._tell(EngineLost(reason))
            self._closed.wait(_RECONNECT.ceiling_s(attempt) * self._rng.uniform(0.5, 1.0))

    def _listen(self, client: Client) -> None:
        filters = {"type": "container", "label": f"{LABEL_NODE}={self._node}", "event": ["die", "destroy", "start"]}
        version = client.version()["Version"]
        self.data_root = Path(client.info()["DockerRootDir"])
        stream = client.events(filters=filters, decode=True)
        self.docker_version = version
        # Only now, that nothing can be missed any more, is a listing of use.
        self._tell(EngineConnected())
        for message in stream:
            event = event_of(message)
            if event is not None:
                self._tell(event)

    def _tell(self, event: Event) -> None:
        if not self._closed.is_set():
            self._post(event)


def event_of(message: Mapping[str, Any]) -> Event | None:
    """The machine's event for the engine's; None when it says nothing new."""
    attributes = message["Actor"]["Attributes"]
    container_id = message["Actor"]["ID"]
    if LABEL_SANDBOX in attributes:
        return SandboxLost(container_id) if message["Action"] == "die" else None
    match message["Action"]:
        case "die":
            return ContainerDied(container_id, int(attributes.get("exitCode", 0)), message["timeNano"] / 1e9)
        case "destroy":
            return ContainerRemoved(container_id)
        case "start":
            return EngineChanged(identity_of(attributes))
        case _:
            return None
