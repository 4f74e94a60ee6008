"""The default list of drills: what agents do, and what the lab does from outside. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Cut:
    """The lab cuts a host or a region off, or only from `source`; `one_way`: it hears nothing and is heard."""

    target: str
    source: str = ""
    one_way: bool = False

    def __str__(self) -> str:
        if self.one_way:
            return f"{self.target} hears nobody"
        return f"{self.target} is cut off" + (f" from {self.source} alone" if self.source else "")


@dataclass(frozen=True, slots=True)
class Kill:
    """The lab kills a program with SIGKILL; with `hold` it stays down until all is healed."""

    host: str
    program: str
    hold: bool = False

    def __str__(self) -> str:
        return f"{self.program} on {self.host} is killed" + (" and stays down" if self.hold else "")


@dataclass(frozen=True, slots=True)
class Heal:
    """All links are whole again, for a while."""

    seconds: float = 0.0

    def __str__(self) -> str:
        return f"all links are whole for {self.seconds:g} s"


@dataclass(frozen=True, slots=True)
class Wait:
    """Time passes."""

    seconds: float

    def __str__(self) -> str:
        return f"for {self.seconds:g} s"


Action = Cut | Kill | Heal | Wait


@dataclass(frozen=True, slots=True)
class AgentDrill:
    """A drill that the fleet's agents carry out; `spec` is the API's, without hostname and duration.

    `killed` are programs that the lab kills meanwhile, each so many seconds after the faults began.
    """

    name: str
    spec: dict[str, Any]
    duration_s: int = 8
    killed: tuple[tuple[float, Kill], ...] = ()
    title: str = ""


@dataclass(frozen=True, slots=True)
class CutDrill:
    """A region that the lab cuts off while its own clients ask; each stage is measured by packets."""

    name: str
    region: str
    title: str = ""


@dataclass(frozen=True, slots=True)
class SceneDrill:
    """What the lab does from outside while clients of every region ask, and what is promised all the same.

    `served`: clients of every region are served again while it lasts; else no place is left that could, and DNS
    servers still answer. `failed_max`: so many requests may fail. `changes_max`: so often may answers of a DNS server
    change.
    """

    name: str
    title: str
    actions: tuple[Action, ...]
    served: bool = True
    failed_max: int | None = None
    changes_max: int | None = None


Drill = AgentDrill | CutDrill | SceneDrill


@dataclass(frozen=True, slots=True)
class Chapter:
    """Drills that belong together."""

    title: str
    drills: tuple[Drill, ...] = field(default_factory=tuple)


def _one(name: str, title: str, fault: str, target: str, duration_s: int = 8, **extent: Any) -> AgentDrill:
    return AgentDrill(name, {"fault": f"FAULT_KIND_{fault}", "target": target, **extent}, duration_s, title=title)


def _kill(name: str, title: str, host: str, program: str, failed_max: int | None = 0) -> SceneDrill:
    return SceneDrill(name, title, (Kill(host, program),), failed_max=failed_max)


def _disturbed(
    name: str, title: str, host: str, program: str, fault: str = "REGION_CUT", target: str = "regions/us"
) -> AgentDrill:
    """A drill, in the middle of which a program is killed."""
    spec = {"fault": f"FAULT_KIND_{fault}", "target": target}
    return AgentDrill(name, spec, 12, ((5.0, Kill(host, program)),), title)


def _flaps(region: str) -> tuple[Action, ...]:
    return (Cut(region), Wait(3.0), Heal(4.0)) * 3 + (Cut(region), Wait(3.0))


_GAME_DAY: Final = (
    {"title": "Europe loses its network", "fault": "FAULT_KIND_REGION_CUT", "targets": ["regions/eu"]}
    | {"fault_duration": "12s"},
    {"title": "Meanwhile the cache of us dies", "fault": "FAULT_KIND_PROGRAM_KILLED", "targets": ["nodes/us-1"]}
    | {"program": "redis", "start_offset": "4s", "fault_duration": "6s"},
    {"title": "Clients rush to ap", "fault": "FAULT_KIND_TRAFFIC_SURGE", "targets": ["regions/ap"]}
    | {"requests_per_second": 50, "start_offset": "16s", "fault_duration": "6s"},
)

_NETWORK: Final = (
    CutDrill("cut-eu", "eu", "Europe is cut off from outside"),
    _one("suite-cut-us", "us is cut off", "REGION_CUT", "regions/us", 12),
    _one("suite-deaf-ap", "ap hears nothing, and is heard", "INBOUND_CUT", "nodes/ap-1", 12),
    _one("suite-mute-ap", "ap is not heard, and hears", "OUTBOUND_CUT", "nodes/ap-1", 12),
    _one("suite-lossy-us", "us loses a tenth of all packets", "LINK_LOSSY", "regions/us", loss_percent=10),
    _one("suite-narrow-eu", "eu has a narrow link", "LINK_SLOW", "regions/eu", rate_kbit=2_000),
    _one("suite-late-ap", "packets of ap are late", "LINK_SLOW", "nodes/ap-1", delay="0.1s"),
    _one("suite-registry-us", "us reaches no registry", "REGISTRY_CUT", "regions/us"),
    _one("suite-control-eu", "eu reaches no control plane", "CONTROL_PLANE_CUT", "regions/eu", 12),
)
_PROGRAMS: Final = (
    _one("suite-freeze-edge-ap", "An edge hangs", "PROGRAM_FROZEN", "nodes/ap-1", 10, program="edge"),
    _one("suite-freeze-dns-eu", "A DNS server hangs", "PROGRAM_FROZEN", "nodes/eu-1", program="dns"),
    _one("suite-freeze-redis-us", "A cache hangs", "PROGRAM_FROZEN", "nodes/us-1", program="redis"),
    _one("suite-freeze-engine-us", "Docker Engine hangs", "PROGRAM_FROZEN", "nodes/us-1", program="dockerd"),
    _one("suite-kill-agent-us", "An agent is killed", "PROGRAM_KILLED", "nodes/us-1", program="agent"),
    _one("suite-kill-edge-us", "An edge is killed and stays down", "PROGRAM_KILLED", "nodes/us-1", 12, program="edge"),
    _one("suite-kill-dns-eu", "A DNS server is killed", "PROGRAM_KILLED", "nodes/eu-1", program="dns"),
    _one("suite-kill-redis-ap", "A cache is killed", "PROGRAM_KILLED", "nodes/ap-1", program="redis"),
    _one("suite-kill-engine-us", "Docker Engine is killed", "PROGRAM_KILLED", "nodes/us-1", program="dockerd"),
)
_HOSTS: Final = (
    _one("suite-kill-node-ap", "A host loses everything at once", "NODE_KILLED", "nodes/ap-1", 12),
    _one("suite-disk-eu", "A disk is full", "DISK_FULL", "nodes/eu-1", ballast_bytes="67108864"),
    _one("suite-clock-us", "A clock jumps by ten minutes", "CLOCK_JUMP", "nodes/us-1", clock_offset="600s"),
    _one("suite-surge-ap", "Clients rush to one region", "TRAFFIC_SURGE", "regions/ap", requests_per_second=100),
    _one("suite-bad-release", "A release never gets healthy", "BAD_RELEASE", "apps/hello", 45),
    AgentDrill("suite-game-day", {"steps": list(_GAME_DAY)}, 22, title="Three faults, one upon the other"),
)
_OUTSIDE: Final = (
    _kill("kill-agent-eu", "An agent is killed from outside", "eu-1", "agent"),
    _kill("kill-edge-us", "An edge is killed from outside", "us-1", "edge", failed_max=None),
    _kill("kill-dns-us", "A DNS server is killed from outside", "us-1", "dns"),
    _kill("kill-redis-eu", "A cache is killed from outside", "eu-1", "redis"),
    _kill("kill-engine-ap", "Docker Engine is killed from outside", "ap-1", "dockerd"),
    _kill("kill-registry", "The registry is killed", "cp", "registry"),
    _kill("kill-control-plane", "The control plane is killed", "cp", "server"),
)
_WORSE: Final = (
    _disturbed("suite-cut-us-server-dies", "The control plane dies in the middle of a drill", "cp", "server"),
    _disturbed("suite-cut-us-dns-dies", "The DNS server that judges dies in the middle of a drill", "eu-1", "dns"),
    _disturbed("suite-cut-us-edge-dies", "The edge that took over dies in the middle of a drill", "ap-1", "edge"),
    _disturbed("suite-cut-us-redis-dies", "A cache elsewhere dies in the middle of a drill", "eu-1", "redis"),
    _disturbed("suite-cut-us-agent-dies", "The agent that cuts dies in the middle of a drill", "us-1", "agent"),
    _disturbed(
        *("suite-node-ap-agent-dies", "The agent of a host that lost everything dies as well", "ap-1", "agent"),
        *("NODE_KILLED", "nodes/ap-1"),
    ),
    SceneDrill("two-regions", "Two of three regions are lost at once", (Cut("us"), Cut("ap"))),
    SceneDrill("flapping-ap", "A region comes and goes", _flaps("ap"), changes_max=8),
    SceneDrill("one-way-us", "From outside: us hears nobody", (Cut("us", one_way=True),)),
    SceneDrill("half-see-ap", "Half of the vantages lose sight of ap", (Cut("ap", "us"), Wait(8.0)), failed_max=0),
    SceneDrill(
        "cut-ap-without-control-plane",
        "A region is lost while the control plane is dead",
        (Kill("cp", "server", hold=True), Cut("ap")),
    ),
    SceneDrill(
        "cut-ap-with-one-dns-server",
        "A region is lost while a DNS server is dead",
        (Kill("us-1", "dns", hold=True), Cut("ap")),
    ),
    SceneDrill(
        "all-edges",
        "No region serves any more: DNS answers all the same",
        tuple(Kill(f"{region}-1", "edge", hold=True) for region in ("eu", "us", "ap")),
        served=False,
    ),
)
CHAPTERS: Final = (
    Chapter("The network fails", _NETWORK),
    Chapter("A program fails", _PROGRAMS),
    Chapter("A host, a release, too many clients", _HOSTS),
    Chapter("Killed from outside", _OUTSIDE),
    Chapter("Worse", _WORSE),
)
SUITE: Final[tuple[Drill, ...]] = tuple(drill for chapter in CHAPTERS for drill in chapter.drills)
"""A fresh lab of three regions bears all of these."""
SHORT: Final = ("suite-kill-edge-us", "suite-game-day", "kill-agent-eu", "two-regions")
"""A part that takes a minute and a half, beside the tests of cuts."""
