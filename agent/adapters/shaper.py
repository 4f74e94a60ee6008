"""Faults of links that are slow: a queueing discipline with a handle of its own, `10cc:`. No other is ever touched.

A delay is netem's where the kernel has it; elsewhere packets wait in user space, by rules in a chain of their own,
`LOCCI-DRILL` of the table mangle, which do nothing once the agent has ended.
"""

from __future__ import annotations

import json
from typing import Any, Final

from agent.adapters.firewall import CHAIN, attempt, must, outward_links, programs
from agent.adapters.host_command import run
from agent.adapters.packet_delay import QUEUE, PacketDelay
from agent.core.faults import Extent
from fleet.errors import failed_precondition

HANDLE: Final = "10cc:"
_KERNELS_OWN: Final = "0:"
"""The handle of what the kernel puts on a link by itself, and puts back when another is taken away."""
_BURST_BYTES: Final = 16_384
_QUEUED: Final = "400ms"
_TABLE: Final = "mangle"
_HOOK: Final = "POSTROUTING"


class Shaper:
    """Slows links down, and makes them as they were. Both may be repeated; both raise UNAVAILABLE. Blocking."""

    def __init__(self) -> None:
        self._delay = PacketDelay()

    def begin(self, extent: Extent) -> None:
        """Delays or squeezes what leaves the host. Raises FAILED_PRECONDITION where somebody else shapes a link."""
        self.end()
        links = outward_links()
        for link in links:
            root = _root(link)
            if root and root["handle"] != _KERNELS_OWN:
                what = f"{root['kind']} {root['handle']}"
                message = f"{link} is shaped already ({what}), and could not be made as it was: remove that first"
                raise failed_precondition("LINK_SHAPED", message)
        if extent.delay_ms and not all(_shape(link, _netem(extent)) for link in links):
            for link in links:
                if extent.rate_kbit:
                    run(["tc", "qdisc", "replace", "dev", link, "root", "handle", HANDLE, *_bucket(extent)])
            self._hold_back(links, extent.delay_ms / 1000)
        elif not extent.delay_ms:
            for link in links:
                run(["tc", "qdisc", "replace", "dev", link, "root", "handle", HANDLE, *_bucket(extent)])

    def end(self) -> None:
        """The links are as the kernel makes them; that nothing was done to them is fine."""
        self._delay.end()
        for program in programs():
            while attempt(program, "-t", _TABLE, "-D", _HOOK, "-j", CHAIN):
                pass
            if attempt(program, "-t", _TABLE, "-S", CHAIN):
                must(program, "-t", _TABLE, "-F", CHAIN)
                must(program, "-t", _TABLE, "-X", CHAIN)
        for link in outward_links():
            root = _root(link)
            if root and root["handle"] == HANDLE:
                run(["tc", "qdisc", "del", "dev", link, "root"])

    def _hold_back(self, links: list[str], delay_s: float) -> None:
        self._delay.begin(delay_s)
        for program in programs():
            must(program, "-t", _TABLE, "-N", CHAIN)
            for link in links:
                rule = ("-o", link, "-j", "NFQUEUE", "--queue-num", str(QUEUE), "--queue-bypass")
                must(program, "-t", _TABLE, "-A", CHAIN, *rule)
            must(program, "-t", _TABLE, "-I", _HOOK, "1", "-j", CHAIN)


def _shape(link: str, discipline: list[str]) -> bool:
    """Whether the kernel has the discipline."""
    command = ["tc", "qdisc", "replace", "dev", link, "root", "handle", HANDLE, *discipline]
    return run(command, check=False).returncode == 0


def _netem(extent: Extent) -> list[str]:
    rate = ["rate", f"{extent.rate_kbit}kbit"] if extent.rate_kbit else []
    return ["netem", "delay", f"{extent.delay_ms}ms", *rate]


def _bucket(extent: Extent) -> list[str]:
    return ["tbf", "rate", f"{extent.rate_kbit}kbit", "burst", str(_BURST_BYTES), "latency", _QUEUED]


def _root(link: str) -> dict[str, Any]:
    """The link's root discipline; empty when it has none, or is gone."""
    done = run(["tc", "-j", "qdisc", "show", "dev", link, "root"], check=False)
    found: list[dict[str, Any]] = json.loads(done.stdout or "[]") if not done.returncode else []
    return next((row for row in found if row.get("root")), {})
