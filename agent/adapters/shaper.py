"""Faults of links that are slow: a queueing discipline with a handle of its own, `10cc:`. No other is ever touched."""

from __future__ import annotations

import json
from typing import Any, Final

from agent.adapters.firewall import outward_links
from agent.adapters.host_command import run
from agent.core.faults import Extent
from fleet.errors import failed_precondition

HANDLE: Final = "10cc:"
_KERNELS_OWN: Final = "0:"
"""The handle of what the kernel puts on a link by itself, and puts back when another is taken away."""
_BURST_BYTES: Final = 16_384
_QUEUED: Final = "400ms"


class Shaper:
    """Slows links down, and makes them as they were. Both may be repeated; both raise UNAVAILABLE. Blocking."""

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
        for link in links:
            run(["tc", "qdisc", "replace", "dev", link, "root", "handle", HANDLE, *_discipline(extent)])

    def end(self) -> None:
        """The links are as the kernel makes them; that nothing was done to them is fine."""
        for link in outward_links():
            root = _root(link)
            if root and root["handle"] == HANDLE:
                run(["tc", "qdisc", "del", "dev", link, "root"])


def _discipline(extent: Extent) -> list[str]:
    rate = f"{extent.rate_kbit}kbit"
    if extent.delay_ms:
        return ["netem", "delay", f"{extent.delay_ms}ms", *(["rate", rate] if extent.rate_kbit else [])]
    return ["tbf", "rate", rate, "burst", str(_BURST_BYTES), "latency", _QUEUED]


def _root(link: str) -> dict[str, Any]:
    """The link's root discipline; empty when it has none, or is gone."""
    done = run(["tc", "-j", "qdisc", "show", "dev", link, "root"], check=False)
    found: list[dict[str, Any]] = json.loads(done.stdout or "[]") if not done.returncode else []
    return next((row for row in found if row.get("root")), {})
