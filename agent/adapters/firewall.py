"""Faults of links: rules in a chain of their own, `LOCCI-DRILL`, of iptables and ip6tables. Nothing else is touched."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Final, assert_never

from agent.core.faults import Kind
from fleet.errors import Code, LocciError

CHAIN: Final = "LOCCI-DRILL"
_HOOKS: Final = ("INPUT", "OUTPUT", "FORWARD")
_COMMAND_S: Final = 10.0
_LOCK_S: Final = "5"
_JUMPS_MAX: Final = 10
_IPV6: Final = Path("/proc/net/if_inet6")


class Firewall:
    """Begins and ends cuts. Both may be repeated; both raise UNAVAILABLE when a command fails. Blocking."""

    def begin(self, kind: Kind) -> None:
        """Drops what comes in, goes out, or both, on every link to the outside. Bridges of containers go on."""
        self.end()
        links = _links()
        for program in _programs():
            _must(program, "-N", CHAIN)
            for link in links:
                for direction in _directions(kind):
                    _must(program, "-A", CHAIN, direction, link, "-j", "DROP")
            for hook in _HOOKS:
                _must(program, "-I", hook, "1", "-j", CHAIN)

    def end(self) -> None:
        """The rules are gone; that there are none is fine."""
        for program in _programs():
            for hook in _HOOKS:
                for _ in range(_JUMPS_MAX):
                    if not _try(program, "-C", hook, "-j", CHAIN):
                        break
                    _must(program, "-D", hook, "-j", CHAIN)
            if _try(program, "-S", CHAIN):
                _must(program, "-F", CHAIN)
                _must(program, "-X", CHAIN)


def _directions(kind: Kind) -> tuple[str, ...]:
    match kind:
        case Kind.CUT:
            return ("-i", "-o")
        case Kind.INBOUND_CUT:
            return ("-i",)
        case Kind.OUTBOUND_CUT:
            return ("-o",)
        case _:
            assert_never(kind)


def _programs() -> tuple[str, ...]:
    """ip6tables fails where the kernel has no IPv6; there is nothing to cut then."""
    return ("iptables", "ip6tables") if _IPV6.exists() and _IPV6.read_text() else ("iptables",)


def _links() -> list[str]:
    """Interfaces that lead out of the host: neither the loopback, nor a bridge, nor a port of one."""
    found = json.loads(_run(["ip", "-j", "-d", "link", "show"]).stdout)
    return [
        link["ifname"]
        for link in found
        if "LOOPBACK" not in link["flags"]
        and "master" not in link
        and link.get("linkinfo", {}).get("info_kind") != "bridge"
    ]


def _try(program: str, *arguments: str) -> bool:
    return _run([program, "-w", _LOCK_S, *arguments], check=False).returncode == 0


def _must(program: str, *arguments: str) -> None:
    _run([program, "-w", _LOCK_S, *arguments])


def _run(command: list[str], *, check: bool = True) -> subprocess.CompletedProcess[str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        message = f"{' '.join(command)}: {error}; install iptables and iproute2, and run as root"
        raise LocciError(Code.UNAVAILABLE, "FAULT_COMMAND_FAILED", message) from error
    if check and done.returncode:
        message = f"{' '.join(command)}: {done.stderr.strip()}"
        raise LocciError(Code.UNAVAILABLE, "FAULT_COMMAND_FAILED", message)
    return done
