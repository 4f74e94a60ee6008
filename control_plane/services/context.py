"""What every service works with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from control_plane.backups import Backups
from control_plane.controller import Controller
from control_plane.idempotency import Idempotency
from control_plane.observed import Observed
from control_plane.ports import CertificateAuthority, ImageRegistry, Vault
from control_plane.sessions import Hub
from control_plane.state import Batch, State
from control_plane.views import Manifests, Views
from fleet.clock import Clock

R = TypeVar("R")


@dataclass(frozen=True)
class Context:
    """Desired state, what was observed, and the ports."""

    state: State
    observed: Observed
    manifests: Manifests
    hub: Hub
    controller: Controller
    authority: CertificateAuthority
    registry: ImageRegistry
    clock: Clock
    steady: Callable[[], float]
    node_endpoints: tuple[str, ...]
    idempotency: Idempotency
    vault: Vault
    backups: Backups
    releases_kept: int = 50
    """So many releases of an app are kept, besides those that are needed."""
    last_use: dict[str, float] = field(default_factory=dict)
    """When each operator's token was used last, seconds since 1970, by its name."""
    token_requests: set[str] = field(default_factory=set)
    """Request ids for which an operator's token was made."""

    async def change(self, build: Callable[[Batch], R]) -> R:
        """Commits a change and has the controller look at what follows."""
        result = await self.state.transact(build)
        self.controller.wake()
        return result

    def views(self) -> Views:
        """The fleet as the cores see it now."""
        return Views(self.state, self.observed, self.manifests, self.steady())
