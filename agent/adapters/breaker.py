"""Everything that a drill can break on this host. What a fault took hold of is undone whole, whatever was begun."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, assert_never

from agent.adapters.ballast import Ballast
from agent.adapters.firewall import Firewall
from agent.adapters.freezer import Freezer
from agent.adapters.jumping_clock import JumpingClock
from agent.adapters.killer import Killer
from agent.adapters.shaper import Shaper
from agent.adapters.surge import Surge
from agent.core.faults import Extent, Fault, Kind, Part
from fleet.errors import Code, LocciError, failed_precondition


class _Undoable(Protocol):
    def end(self) -> None: ...


class _Offset:
    """The fault of a clock that jumped."""

    def __init__(self, clock: JumpingClock):
        self._clock = clock

    def begin(self, extent: Extent) -> None:
        self._clock.offset_s = extent.clock_offset_s

    def end(self) -> None:
        self._clock.offset_s = 0.0


class Breaker:
    """Begins and ends faults. Both may be repeated; both raise LocciError or OSError. Blocking."""

    def __init__(
        self,
        state_dir: Path,
        restart_commands: Mapping[str, Sequence[str]] | None = None,
        *,
        clock: JumpingClock | None = None,
        kill_containers: Callable[[], None] = lambda: None,
        control_plane: Callable[[], Sequence[str]] = tuple,
    ):
        """`control_plane` names its endpoints, as `host:port`."""
        self._firewall = Firewall()
        self._shaper = Shaper()
        self._freezer = Freezer()
        self._killer = Killer(state_dir, restart_commands, kill_containers)
        self._ballast = Ballast(state_dir)
        self._clock = _Offset(clock or JumpingClock())
        self._surge = Surge()
        self._control_plane = control_plane
        # Space first: what is written after this needs it.
        self._parts: dict[Part, tuple[_Undoable, ...]] = {
            Part.DISK: (self._ballast,),
            Part.FIREWALL: (self._firewall,),
            Part.PROGRAMS: (self._freezer, self._killer),
            Part.SHAPER: (self._shaper,),
            Part.CLOCK: (self._clock,),
            Part.SURGE: (self._surge,),
        }

    def begin(self, fault: Fault) -> None:
        """The fault is in effect when this returns."""
        extent = fault.extent
        match fault.kind:
            case Kind.CUT | Kind.INBOUND_CUT | Kind.OUTBOUND_CUT | Kind.LOSSY:
                self._firewall.begin(fault)
            case Kind.REGISTRY_CUT:
                self._firewall.begin_from(extent.destinations)
            case Kind.CONTROL_PLANE_CUT:
                self._firewall.begin_from(self._control_plane())
            case Kind.SLOW:
                self._shaper.begin(extent)
            case Kind.FROZEN:
                self._freezer.begin(extent.program)
            case Kind.KILLED:
                self._killer.begin(extent.program)
            case Kind.NODE_KILLED:
                self._killer.begin_all()
            case Kind.DISK_FULL:
                self._ballast.begin(extent.ballast_bytes)
            case Kind.CLOCK_JUMP:
                self._clock.begin(extent)
            case Kind.SURGE:
                self._surge.begin(extent.destinations, extent.hostname, extent.requests_per_second)
            case Kind.UNKNOWN:
                raise failed_precondition("FAULT_UNKNOWN", f"{fault.name}: this agent does not know the fault")
            case _:
                assert_never(fault.kind)

    def end(self, part: Part | None = None) -> None:
        """This part of the host, or every one, is broken by no drill any more: one that cannot be undone keeps no other
        from it."""
        failures = []
        for kind, undoable in self._parts.items():
            if part not in (None, kind):
                continue
            for one in undoable:
                try:
                    one.end()
                except (LocciError, OSError) as error:
                    failures.append(str(error))
        if failures:
            raise LocciError(Code.UNAVAILABLE, "FAULT_NOT_UNDONE", "; ".join(failures))

    def told(self, part: Part) -> str:
        """What the end of a fault has to tell beside that it ended; empty for most."""
        if part is not Part.SURGE:
            return ""
        surge = self._surge
        return f"; {surge.sent} requests were sent, {surge.failed} failed, {surge.skipped} were too many at once"
