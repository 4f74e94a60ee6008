"""Namespaces, links and cuts. Both ends of every link live inside the lab's namespaces; there is no way out of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from fleet.errors import LocciError
from lab.faults import EVERYONE, Faults, drop_rules
from lab.machine import enter, ip_batch, namespace_path, run
from lab.topology import Host, Topology

BRIDGE: Final = "br0"
_CHAIN: Final = "LOCCI_LAB"
_HOOK: Final = ("-i", "eth0", "-j", _CHAIN)

# Each tool, and what an address has that is its business.
_TOOLS: Final = {"iptables": ".", "ip6tables": ":"}

# IPv6 asks for link addresses by ICMPv6 (RFC 4861, types 135 and 136), where IPv4 has ARP, which no rule here sees.
# Without the answers a host that hears nothing could not be heard either.
_NEIGHBOURS: Final = tuple(f"-A {_CHAIN} -p icmpv6 --icmpv6-type {kind} -j RETURN" for kind in (135, 136))


def create(topology: Topology) -> None:
    """Makes the hub, a namespace for each host, and the links; all are up when it returns."""
    names = [topology.hub, *(topology.namespace(host) for host in topology.hosts)]
    run(["ip", "-batch", "-"], stdin="".join(f"netns add {name}\n" for name in names))
    lines = [f"link add {BRIDGE} type bridge forward_delay 0 stp_state 0", f"link set {BRIDGE} up"]
    for host in topology.hosts:
        lines.append(f"link add {host.link} type veth peer name eth0 netns {topology.namespace(host)}")
        lines.append(f"link set {host.link} master {BRIDGE} up")
    ip_batch(topology.hub, lines)
    for host in topology.hosts:
        _address(topology.namespace(host), host)


def _address(namespace: str, host: Host) -> None:
    lines = [
        "link set lo up",
        f"addr add {host.ipv4}/16 dev eth0",
        f"addr add {host.ipv6}/48 dev eth0 nodad",
        "link set eth0 up",
    ]
    ip_batch(namespace, lines)


def destroy(namespaces: Iterable[str]) -> None:
    """Removes those of the namespaces that exist; links go with them."""
    present = [name for name in namespaces if namespace_path(name).exists()]
    if present:
        run(["ip", "-batch", "-"], stdin="".join(f"netns del {name}\n" for name in present))


def existing(lab: str) -> list[str]:
    """Namespaces of the lab that exist, in order of name."""
    root = namespace_path("")
    return sorted(path.name for path in root.glob(f"locci-{lab}-*")) if root.is_dir() else []


def apply(topology: Topology, before: Faults, after: Faults) -> None:
    """Brings links and filters from `before` to `after`; hosts that are equal in both are left alone."""
    changed = [host for host in topology.hosts if (host.name in before.down) != (host.name in after.down)]
    if changed:
        _set_links(topology, changed, after)
    old, new = drop_rules(before, topology), drop_rules(after, topology)
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            _filter(topology.namespace(topology.host(name)), new.get(name, ()))


def enforce(topology: Topology, faults: Faults) -> None:
    """Makes links and filters as `faults` says whatever they are now, as after a crash."""
    _set_links(topology, topology.hosts, faults)
    rules = drop_rules(faults, topology)
    for host in topology.hosts:
        namespace = topology.namespace(host)
        if host.name in rules or any(_hooked(namespace, tool) for tool in _TOOLS):
            _filter(namespace, rules.get(host.name, ()))


def _set_links(topology: Topology, hosts: Iterable[Host], faults: Faults) -> None:
    lines = [f"link set {host.link} {'down' if host.name in faults.down else 'up'}" for host in hosts]
    ip_batch(topology.hub, lines)


def _hooked(namespace: str, tool: str) -> bool:
    """Whether arriving packets go through our chain. Most hosts never need it, so it is not made before."""
    try:
        run(enter(namespace, [tool, "-w", "5", "-t", "raw", "-C", "PREROUTING", *_HOOK]))
    except LocciError:
        return False
    return True


def _filter(namespace: str, sources: tuple[str, ...]) -> None:
    """Drops all that comes from `sources`, before anything else sees it; published ports included.

    The raw table comes first (iptables(8)). Docker Engine has rules of its own there, so only our chain is replaced.
    """
    for tool, mark in _TOOLS.items():
        chosen = [source for source in sources if source == EVERYONE or mark in source]
        hooked = _hooked(namespace, tool)
        if not chosen and not hooked:
            continue
        drops = [f"-A {_CHAIN} -j DROP" if each == EVERYONE else f"-A {_CHAIN} -s {each} -j DROP" for each in chosen]
        rules = [*(_NEIGHBOURS if tool == "ip6tables" else ()), *drops] if drops else []
        hook = [] if hooked else [f"-I PREROUTING {' '.join(_HOOK)}"]
        table = "\n".join(["*raw", f":{_CHAIN} -", *hook, *rules, "COMMIT", ""])
        run(enter(namespace, [f"{tool}-restore", "-w", "5", "--noflush"]), stdin=table)
