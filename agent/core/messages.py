"""What the machine is told, in the past tense, and what it wants done, in the imperative."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from agent.core.edge_view import EdgeView
from agent.core.model import Container, Identity, Probe, PullFailure, Purpose, Replica, ReplicaStatus, Target

# ---- events


@dataclass(frozen=True, slots=True)
class SnapshotAccepted:
    """A target is on disk: it is to be reached."""

    target: Target


@dataclass(frozen=True, slots=True)
class EngineConnected:
    """The engine answers, and tells from now on what happens to containers."""


@dataclass(frozen=True, slots=True)
class EngineLost:
    """The engine no longer answers; containers may well live on."""

    reason: str


@dataclass(frozen=True, slots=True)
class EngineObserved:
    """All containers of this node's agent, as of some moment after `Observe(number)`."""

    number: int
    containers: tuple[Container, ...]


@dataclass(frozen=True, slots=True)
class ObserveFailed:
    """The engine could not be asked."""

    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class EngineChanged:
    """Something happened to a container that no other event tells: look again. None when it is not known to which."""

    identity: Identity | None = None


@dataclass(frozen=True, slots=True)
class SandboxLost:
    """A sandbox ended; whatever joined it has no network any more."""

    sandbox_id: str


@dataclass(frozen=True, slots=True)
class ImagePulled:
    """The image is on this host."""

    image: str


@dataclass(frozen=True, slots=True)
class PullProgressed:
    """How far a pull is, in words."""

    image: str
    text: str


@dataclass(frozen=True, slots=True)
class PullFailed:
    """The image could not be brought here."""

    image: str
    failure: PullFailure
    detail: str
    engine_lost: bool = False


@dataclass(frozen=True, slots=True)
class ContainerStarted:
    """The container runs, or ran at least for a moment; times are by the engine's clock."""

    container: Container


@dataclass(frozen=True, slots=True)
class StartFailed:
    """The replica's container could not be created or started."""

    identity: Identity
    reason: str
    image_missing: bool = False
    engine_lost: bool = False
    hung: bool = False
    """The engine took the request and never answered it: it may be this container, or the whole engine."""


@dataclass(frozen=True, slots=True)
class ContainerDied:
    """The container's process ended, at this time of the engine's clock."""

    container_id: str
    exit_code: int
    wall_s: float


@dataclass(frozen=True, slots=True)
class ContainerStopped:
    """What StopContainer asked for is done."""

    container_id: str


@dataclass(frozen=True, slots=True)
class ContainerRemoved:
    """The container is gone, whoever removed it."""

    container_id: str


@dataclass(frozen=True, slots=True)
class EndFailed:
    """The container could not be stopped or removed; `hung` as for StartFailed."""

    container_id: str
    reason: str
    engine_lost: bool = False
    hung: bool = False


@dataclass(frozen=True, slots=True)
class LogTailCollected:
    """The last lines that the container wrote; `out_of_memory` when it was killed for using too much."""

    container_id: str
    text: str
    out_of_memory: bool = False


@dataclass(frozen=True, slots=True)
class ProbeSucceeded:
    """The container gave a good answer."""

    container_id: str
    purpose: Purpose


@dataclass(frozen=True, slots=True)
class ProbeFailed:
    """The container gave a bad answer or none. `elsewhere`: at its address nothing listens, but in its network it does,
    so that somebody else has the address as well."""

    container_id: str
    purpose: Purpose
    reason: str
    elsewhere: bool = False


@dataclass(frozen=True, slots=True)
class EdgeServing:
    """What the connected edges serve: the oldest generation among them, and the draining replicas that are idle."""

    edges: int
    generation: int
    idle: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class EdgeSeen:
    """An edge presented itself with the generation that it serves."""

    generation: int


@dataclass(frozen=True, slots=True)
class LeasesRenewed:
    """The control plane lets this node run these replicas, counted from the moment `at` at which it was asked."""

    resources: frozenset[str]
    at: float


@dataclass(frozen=True, slots=True)
class LeasesLost:
    """This host stood still for a time that its clock does not tell: no lease can be relied on."""


@dataclass(frozen=True, slots=True)
class Ticked:
    """The time of WakeAt has come."""


Event = (
    SnapshotAccepted
    | EngineConnected
    | EngineLost
    | EngineObserved
    | ObserveFailed
    | EngineChanged
    | SandboxLost
    | ImagePulled
    | PullProgressed
    | PullFailed
    | ContainerStarted
    | StartFailed
    | ContainerDied
    | ContainerStopped
    | ContainerRemoved
    | EndFailed
    | LogTailCollected
    | ProbeSucceeded
    | ProbeFailed
    | EdgeServing
    | EdgeSeen
    | LeasesRenewed
    | LeasesLost
    | Ticked
)

# ---- commands


@dataclass(frozen=True, slots=True)
class Observe:
    """List the containers; answered by EngineObserved or ObserveFailed with the same number."""

    number: int


@dataclass(frozen=True, slots=True)
class PullImage:
    """Bring the image here unless it is; answered by ImagePulled or PullFailed."""

    image: str


@dataclass(frozen=True, slots=True)
class CancelPull:
    """Nobody wants the image any more; no answer."""

    image: str


@dataclass(frozen=True, slots=True)
class CreateAndStart:
    """Answered by ContainerStarted or StartFailed."""

    replica: Replica


@dataclass(frozen=True, slots=True)
class StartContainer:
    """Start the container that is there; answered by ContainerStarted or StartFailed."""

    identity: Identity
    container_id: str


@dataclass(frozen=True, slots=True)
class BeginDrain:
    """No new requests for this container; the machine does this itself, through PublishEdge."""

    container_id: str
    drain_s: float


@dataclass(frozen=True, slots=True)
class StopContainer:
    """Signal, then kill after `timeout_s`; answered by ContainerStopped or EndFailed."""

    container_id: str
    timeout_s: float


@dataclass(frozen=True, slots=True)
class RemoveContainer:
    """Answered by ContainerRemoved or EndFailed. `force` for one of which the engine has lost hold."""

    container_id: str
    force: bool = False


@dataclass(frozen=True, slots=True)
class StartProbing:
    """Ask again and again, replacing what was asked before of this container for this purpose."""

    container_id: str
    purpose: Purpose
    probe: Probe
    ip: str
    eager: bool
    """Ask at once and often until the first good answer."""


@dataclass(frozen=True, slots=True)
class StopProbing:
    """Ask no more."""

    container_id: str
    purpose: Purpose


@dataclass(frozen=True, slots=True)
class PublishEdge:
    """Every edge is to serve this. `ready` are the containers to be taken for ready after a restart of the agent."""

    generation: int
    view: EdgeView
    ready: frozenset[str]


@dataclass(frozen=True, slots=True)
class ReportStatus:
    """What changed since the last report."""

    accepted_revision: int
    applied_revision: int
    changed: tuple[ReplicaStatus, ...]
    gone: tuple[str, ...]
    edge_revision: int = 0
    """The newest revision that every connected edge serves by."""


@dataclass(frozen=True, slots=True)
class RecordEvent:
    """Something that an operator may want to know."""

    kind: str
    severity: Literal["info", "warning", "error"]
    subjects: tuple[str, ...]
    message: str
    details: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class CollectLogTail:
    """Answered by LogTailCollected, or not at all."""

    container_id: str


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Tick at this time, instead of any time named before."""

    at: float


Step = PullImage | CancelPull | CreateAndStart | StartContainer | BeginDrain | StopContainer | RemoveContainer
"""What planning can ask for."""

Command = (
    Observe
    | PullImage
    | CancelPull
    | CreateAndStart
    | StartContainer
    | StopContainer
    | RemoveContainer
    | StartProbing
    | StopProbing
    | PublishEdge
    | ReportStatus
    | RecordEvent
    | CollectLogTail
    | WakeAt
)
