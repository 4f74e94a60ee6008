"""Everything that a drill can break on this host. Undoing is always the whole of it, whatever was begun."""

from __future__ import annotations

from pathlib import Path
from typing import assert_never

from agent.adapters.ballast import Ballast
from agent.adapters.firewall import Firewall
from agent.adapters.freezer import Freezer
from agent.adapters.shaper import Shaper
from agent.core.faults import Fault, Kind
from fleet.errors import Code, LocciError, failed_precondition


class Breaker:
    """Begins and ends faults. Both may be repeated; both raise LocciError or OSError. Blocking."""

    def __init__(self, state_dir: Path):
        self._firewall = Firewall()
        self._shaper = Shaper()
        self._freezer = Freezer()
        self._ballast = Ballast(state_dir)

    def begin(self, fault: Fault) -> None:
        """The fault is in effect when this returns."""
        match fault.kind:
            case Kind.CUT | Kind.INBOUND_CUT | Kind.OUTBOUND_CUT | Kind.LOSSY:
                self._firewall.begin(fault)
            case Kind.SLOW:
                self._shaper.begin(fault.extent)
            case Kind.FROZEN:
                self._freezer.begin(fault.extent.program)
            case Kind.DISK_FULL:
                self._ballast.begin(fault.extent.ballast_bytes)
            case Kind.UNKNOWN:
                raise failed_precondition("FAULT_UNKNOWN", f"{fault.name}: this agent does not know the fault")
            case _:
                assert_never(fault.kind)

    def end(self) -> None:
        """Nothing is broken by a drill any more: one part that cannot be undone keeps no other from it."""
        failures = []
        # Space first: what is written after this needs it.
        for part in (self._ballast, self._firewall, self._freezer, self._shaper):
            try:
                part.end()
            except (LocciError, OSError) as error:
                failures.append(str(error))
        if failures:
            raise LocciError(Code.UNAVAILABLE, "FAULT_NOT_UNDONE", "; ".join(failures))
