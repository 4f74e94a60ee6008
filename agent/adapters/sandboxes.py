"""The pool of network namespaces made ahead of time (agent.core.sandboxes), kept full in the background."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import Iterator
from typing import Any, Final

import docker
import structlog
from docker.types import LogConfig

from agent.adapters import pause_image
from agent.adapters.containers import LABEL_NODE, LABEL_SANDBOX, address_of, joined_sandbox, sandboxes_of
from agent.adapters.docker_client import Client, Clients
from agent.adapters.engine_errors import EngineError, explain
from agent.adapters.orphans import Orphans
from agent.adapters.threads import Threads
from agent.core.sandboxes import Sandbox, SandboxPlan, plan
from fleet import telemetry

log = structlog.get_logger()

QUIET_S: Final = 0.3
"""Time without a start before the pool is filled up: replicas come first."""
LOOK_EVERY_S: Final = 60.0
RETRY_S: Final = 10.0
MEMORY_BYTES_MAX: Final = 8 * 2**20
"""The engine takes no less than 6 MiB; the program needs a few KiB."""


class Sandboxes:
    """Gives out idle sandboxes and makes new ones. On the event loop only."""

    def __init__(self, clients: Clients, node: str, wanted: int, orphans: Orphans):
        self._clients = clients
        self._orphans = orphans
        self._node = node
        self._image = pause_image.archive()
        self._wanted = wanted if self._image is not None else 0
        self._threads = Threads("sandbox", 1)
        self._idle: deque[Sandbox] = deque()
        self._taken: set[str] = set()
        self._held: set[str] = set()
        """Taken or given back since the last listing was asked for: what that listing says of them is old."""
        self._spent: set[str] = set()
        self._stale = asyncio.Event()
        self._stale.set()
        self._busy_until = 0.0
        self._starts = 0
        self._complained = ""

    @property
    def idle(self) -> int:
        """How many could be given out now."""
        return len(self._idle)

    def take(self) -> Sandbox | None:
        """One for a replica; None when there is none left. It is to be given back with `done`."""
        self.changed()
        if not self._idle:
            return None
        box = self._idle.popleft()
        self._taken.add(box.id)
        self._held.add(box.id)
        self._spent.add(box.id)
        return box

    def done(self, box: Sandbox) -> None:
        """A container joins it now, or none ever will; the next listing shows which."""
        self._taken.discard(box.id)
        self._held.add(box.id)
        self.changed()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """While a replica starts the engine is left to it: the pool is looked after later."""
        self._starts += 1
        try:
            yield
        finally:
            self._starts -= 1
            self.changed()

    def changed(self) -> None:
        """Something started or was removed: look after the pool when it is quiet again."""
        self._busy_until = asyncio.get_running_loop().time() + QUIET_S
        self._stale.set()

    async def run(self) -> None:
        """Keeps the pool full until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._stale.wait()
            await self._quiet()
            self._stale.clear()
            try:
                await self._look_after()
                self._complained = ""
            except Exception as error:
                reason = explain(error, self._clients.base_url).reason
                if reason != self._complained:
                    log.warning("sandboxes_not_kept", **{telemetry.REASON: reason})
                self._complained = reason
                await asyncio.sleep(RETRY_S)
                self._stale.set()

    async def _quiet(self) -> None:
        loop = asyncio.get_running_loop()
        while self._starts or self._busy_until > loop.time():
            await asyncio.sleep(max(QUIET_S / 2, self._busy_until - loop.time()))

    async def _look_after(self) -> None:
        self._held.clear()
        sandboxes, used = await self._threads.run(lambda: self._list(self._clients.get()))
        self._spent = (self._spent | used) & sandboxes.keys()
        held = self._held | self._taken
        steps: SandboxPlan = plan(sandboxes.values(), used=used, held=held, spent=self._spent, wanted=self._wanted)
        self._idle = deque(steps.idle)
        left = ""
        for sandbox_id in steps.remove:
            left = await self._threads.run(lambda i=sandbox_id: _remove(self._clients.get(), i)) or left  # type: ignore[misc]
        if steps.remove:
            self._orphans.look()
        for _ in range(steps.create):
            await self._quiet()
            if len(self._idle) >= self._wanted:
                break
            self._idle.append(await self._threads.run(lambda: self._create(self._clients.get())))
        if left:
            raise EngineError(left)

    # ---- in a thread

    def _list(self, client: Client) -> tuple[dict[str, Sandbox], set[str]]:
        listed = client.containers(all=True, filters={"label": f"{LABEL_NODE}={self._node}"})
        return sandboxes_of(listed), {joined_sandbox(summary) for summary in listed}

    def _create(self, client: Client) -> Sandbox:
        try:
            return self._started(client)
        except docker.errors.ImageNotFound:
            client.import_image_from_data(
                self._image,
                repository=pause_image.NAME,
                tag=pause_image.TAG,
                changes=[f'ENTRYPOINT ["{pause_image.COMMAND}"]'],
            )
            return self._started(client)

    def _started(self, client: Client) -> Sandbox:
        settings: dict[str, Any] = {
            "mem_limit": MEMORY_BYTES_MAX,
            "pids_limit": 4,
            "read_only": True,
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges"],
            "restart_policy": {"Name": "no"},
            "log_config": LogConfig(type="none"),
        }
        container_id = client.create_container(
            image=f"{pause_image.NAME}:{pause_image.TAG}",
            name=f"locci-sandbox-{secrets.token_hex(6)}",
            labels={LABEL_NODE: self._node, LABEL_SANDBOX: "1"},
            host_config=client.create_host_config(**settings),
        )["Id"]
        self._orphans.note(container_id)
        try:
            client.start(container_id)
            return Sandbox(container_id, True, address_of(client.inspect_container(container_id)))
        except Exception:
            _remove(client, container_id)
            raise


def _remove(client: Client, container_id: str) -> str:
    """Why the engine did not remove it; empty when it is gone."""
    try:
        client.remove_container(container_id, force=True, v=True)
    except docker.errors.NotFound:
        return ""
    except docker.errors.APIError as error:
        return str(error.explanation or error)
    return ""
