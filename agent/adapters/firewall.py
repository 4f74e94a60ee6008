"""Faults of links: rules in a chain of their own, `LOCCI-DRILL`, of iptables and ip6tables. Nothing else is touched."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from agent.adapters.host_command import run
from agent.core.faults import Fault, Kind
from fleet.errors import failed_precondition

CHAIN: Final = "LOCCI-DRILL"
_HOOKS: Final = ("INPUT", "OUTPUT", "FORWARD")
_LOCK_S: Final = "5"
_JUMPS_MAX: Final = 10
_IPV6: Final = Path("/proc/net/if_inet6")


class Firewall:
    """Begins and ends cuts. Both may be repeated; both raise UNAVAILABLE when a command fails. Blocking."""

    def begin(self, fault: Fault) -> None:
        """Drops what comes in, goes out, or both, or a share, on every link to the outside. Bridges go on."""
        self.end()
        links = outward_links()
        share = _share(fault)
        for program in programs():
            must(program, "-N", CHAIN)
            for link in links:
                for direction in _directions(fault.kind):
                    must(program, "-A", CHAIN, direction, link, *share, "-j", "DROP")
            for hook in _HOOKS:
                must(program, "-I", hook, "1", "-j", CHAIN)

    def begin_from(self, destinations: Sequence[str]) -> None:
        """Drops what goes to these `host:port` over TCP, and what comes from there. Raises FAILED_PRECONDITION when one
        has no address, so that a cut is whole or not there."""
        self.end()
        found = [(address, port) for one in destinations for address, port in _addresses(one)]
        if not found:
            raise failed_precondition("NO_DESTINATION", "nothing is known that could be cut off")
        for program in programs():
            must(program, "-N", CHAIN)
            for address, port in found:
                if (":" in address) == (program == "ip6tables"):
                    must(program, "-A", CHAIN, "-p", "tcp", "-d", address, "--dport", port, "-j", "DROP")
                    must(program, "-A", CHAIN, "-p", "tcp", "-s", address, "--sport", port, "-j", "DROP")
            for hook in _HOOKS:
                must(program, "-I", hook, "1", "-j", CHAIN)

    def end(self) -> None:
        """The rules are gone; that there are none is fine."""
        for program in programs():
            for hook in _HOOKS:
                for _ in range(_JUMPS_MAX):
                    if not attempt(program, "-C", hook, "-j", CHAIN):
                        break
                    must(program, "-D", hook, "-j", CHAIN)
            if attempt(program, "-S", CHAIN):
                must(program, "-F", CHAIN)
                must(program, "-X", CHAIN)


def _addresses(destination: str) -> list[tuple[str, str]]:
    """Addresses and port of `host:port`. Raises FAILED_PRECONDITION when it has none."""
    host, _, port = destination.rpartition(":")
    host = host.strip("[]")
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:
        message = f"{destination} cannot be cut off, for its address is not known: {error}"
        raise failed_precondition("NO_DESTINATION", message) from error
    return sorted({(str(entry[4][0]), port) for entry in found})


def _directions(kind: Kind) -> tuple[str, ...]:
    match kind:
        case Kind.CUT | Kind.LOSSY:
            return ("-i", "-o")
        case Kind.INBOUND_CUT:
            return ("-i",)
        case Kind.OUTBOUND_CUT:
            return ("-o",)
        case _:
            return ()


def _share(fault: Fault) -> tuple[str, ...]:
    """Which packets a rule is about: all, or those that chance picks, as the kernel's `statistic` match does."""
    if fault.kind is not Kind.LOSSY:
        return ()
    return ("-m", "statistic", "--mode", "random", "--probability", f"{fault.extent.loss_percent / 100:.2f}")


def programs() -> tuple[str, ...]:
    """What rules are made with: ip6tables fails where the kernel has no IPv6; there is nothing to cut then."""
    return ("iptables", "ip6tables") if _IPV6.exists() and _IPV6.read_text() else ("iptables",)


def outward_links() -> list[str]:
    """Names of interfaces that lead out of the host: neither the loopback, nor a bridge, nor a port of one."""
    found = json.loads(run(["ip", "-j", "-d", "link", "show"]).stdout)
    return [
        link["ifname"]
        for link in found
        if "LOOPBACK" not in link["flags"]
        and "master" not in link
        and link.get("linkinfo", {}).get("info_kind") != "bridge"
    ]


def attempt(program: str, *arguments: str) -> bool:
    """Whether the firewall took the command."""
    return run([program, "-w", _LOCK_S, *arguments], check=False).returncode == 0


def must(program: str, *arguments: str) -> None:
    """The same, for one that has to work. Raises UNAVAILABLE."""
    run([program, "-w", _LOCK_S, *arguments])
